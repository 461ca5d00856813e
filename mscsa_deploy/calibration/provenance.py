"""What an INT8 file says about how it was made."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mscsa_deploy.core.artifact import MadeBy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples

# A prefix of its own: every entry under ``mscsa_deploy.`` is a field of `graphs.metadata.ModelInfo`.
PREFIX = "mscsa_deploy_int8."
PRECISION = "mscsa_deploy.precision"
RECIPE = f"{PREFIX}recipe"
REQUIRES = f"{PREFIX}requires"
CALIBRATED_ON = f"{PREFIX}calibrated_on"


def describe(recipe: CalibrationRecipe, samples: Samples, source_sha256: str) -> dict[str, str]:
    """Metadata entries of an INT8 file.

    Returns:
        The recipe as JSON; what it was calibrated on, with a warning when that was noise; the float file's
        hash; the instruction sets it needs, when it needs any.
    """
    told = {"name": samples.name, "samples": len(samples), "key": samples.key}
    if samples.noise:
        told["warning"] = "calibrated on noise, not on pictures: accuracy is unknown"
    entries = {
        RECIPE: json.dumps(recipe.plain(), sort_keys=True),
        CALIBRATED_ON: json.dumps(told, sort_keys=True),
        f"{PREFIX}quantized_from": source_sha256,
    }
    if recipe.requires:
        entries[REQUIRES] = ",".join(recipe.requires)
    return entries


def write_metadata(model: onnx.ModelProto, kept: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Replace the model's metadata by `kept` and `added`, sorted, and drop what writers left behind."""
    del model.metadata_props[:]
    for key, value in merged(kept, added).items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name = "mscsa-deploy"
    model.producer_version = ""
    model.doc_string = ""


def merged(kept: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Both sets of entries, sorted by key; a stored precision becomes INT8."""
    entries = {**kept, **added}
    if PRECISION in entries:
        entries[PRECISION] = "int8"
    return dict(sorted(entries.items()))


def made_by(recipe: CalibrationRecipe, source_sha256: str, *packages: str) -> MadeBy:
    """The provenance record of an INT8 artefact that `packages` wrote."""
    return MadeBy("quantize", {"recipe": recipe.plain()}, source_sha256, tool_versions(*packages))


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions of the libraries that did the work."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
