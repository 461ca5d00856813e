"""Calibrated ranges kept between runs, keyed by everything that can change them.

A cache that is reused for another model or other pictures gives wrong scales without a word; so each file
holds its key, and a file whose key differs is refused with the differing field named.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mscsa_deploy.calibration.provenance import tool_versions
from mscsa_deploy.core.config import Config, read_json, to_json
from mscsa_deploy.core.files import content_key, output_file
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from mscsa_deploy.calibration.quantizer import Ranges
    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.source import Source

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What ranges depend on; every field is text, so that a difference can be shown.

    Args:
        model: SHA-256 of the float graph and weights, after equalization and opset conversion.
        data: Hash over the content of every sample, in order.
        preprocessing: The preprocessing as JSON.
        method: The observer and its settings as JSON.
        tools: Versions of the libraries that read the pictures and collected the ranges, as JSON.
    """

    model: str
    data: str
    preprocessing: str
    method: str
    tools: str


class CacheFile(Config, frozen=True, kw_only=True):
    """The file's content; `ranges` maps a tensor to its lowest and highest value."""

    schema: int
    key: dict[str, str]
    ranges: dict[str, tuple[float, float]]


def key_of(source: Source, samples: Samples, recipe: CalibrationRecipe) -> CacheKey:
    """The key under which ranges of `source` on `samples` (already cut to the recipe's count) are kept."""
    method: dict[str, Any] = {"observer": recipe.observer}
    if recipe.observer == "percentile":
        method["percentile"] = recipe.percentile
    if recipe.observer == "moving_average":
        method["averaging"] = recipe.averaging
    if recipe.observer == "mse":
        method["symmetric"] = recipe.symmetric_activations
    return CacheKey(
        model=hashlib.sha256(source.model.SerializeToString(deterministic=True)).hexdigest(),
        data=hashlib.sha256("\n".join((str(samples.noise), *samples.content)).encode()).hexdigest(),
        preprocessing=json.dumps(dict(samples.preprocessing), sort_keys=True),
        method=json.dumps(method, sort_keys=True),
        tools=json.dumps(tool_versions("onnx", "onnxruntime", "numpy", "pillow"), sort_keys=True),
    )


def cache_path(root: Path, key: CacheKey) -> Path:
    """Where ranges with this key lie under `root`."""
    return root / f"ranges-{content_key(asdict(key))}.json"


def write_ranges(path: Path, key: CacheKey, ranges: Ranges) -> None:
    """Keep `ranges` in the file at `path`, whole or not at all."""
    with output_file(path, force=True) as place:
        place.write_bytes(to_json(CacheFile(schema=SCHEMA, key=asdict(key), ranges=ranges)))


def read_ranges(path: Path, key: CacheKey) -> Ranges:
    """The ranges in the file at `path`.

    Raises:
        UserError: It is missing or damaged, or was made for another model, other data, another
            preprocessing, method or tool version; the field is named.
    """
    found = read_json(path, CacheFile)
    if found.schema != SCHEMA:
        raise UserError(f"calibration cache '{path}' has schema {found.schema}, expected {SCHEMA}")
    for name, wanted in asdict(key).items():
        got = found.key.get(name, "nothing")
        if got != wanted:
            raise UserError(
                f"calibration cache '{path}' does not fit: its {name} is {_short(got)}, expected {_short(wanted)}",
                hint="delete the file to calibrate again",
            )
    return dict(found.ranges)


def _short(text: str) -> str:
    return f"{text[:12]}..." if len(text) == 64 else text
