"""Files for phones: what a bundle holds in ONNX Runtime's own format, and which accelerator would take it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.environment import package_version
from mscsa_deploy.core.phones import MadeFor, MobileModel, MobileVerdict
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import StageError
from mscsa_deploy.workflow.cache import cached
from mscsa_deploy.workflow.variants import MODEL, Variant, shipped_files

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mscsa_deploy.bundle.mobile import OrtFile

FOLDER = "mobile"


@dataclass(frozen=True, slots=True)
class MobileFiles:
    """What was made of one artefact: what the report says, and where the files of that name lie."""

    model: MobileModel
    folder: Path

    @property
    def places(self) -> Mapping[str, Path]:
        """Each file by its path inside the bundle."""
        names = (self.model.path, self.model.operators)
        return {name: self.folder / PurePosixPath(name).name for name in names if name}


def portable(model: Artifact, variants: Sequence[Variant]) -> dict[str, Artifact]:
    """The files that phones can run, by their path inside the bundle: FP32, and INT8 that requires nothing.

    Of a network that is shipped both ways, the one that answers with values: an app decides faster by itself.
    """
    found = {place: file for place, file in shipped_files(model, variants).items() if place == MODEL}
    for variant in variants:
        if variant.runtime == "onnxruntime" and variant.status != "failed" and not variant.requires:
            shipped = variant.places
            found |= {variant.place: shipped[variant.place]} if variant.place in shipped else shipped
    return found


def make_mobile(
    artifacts: Mapping[str, Artifact], feed: Mapping[str, Array], *, progress: Progress = silent
) -> tuple[MobileFiles, ...]:
    """The .ort file, its operators file and the checker's verdicts for each of `artifacts`.

    One that cannot be converted, or then answers otherwise, is a record that says so.

    Args:
        artifacts: ONNX files by their path inside the bundle.
        feed: An input to compare the answers on.
        progress: Told about each file.
    """
    made = []
    for done, (place, artifact) in enumerate(artifacts.items()):
        progress(done, len(artifacts), f"for phones: {place}")
        model = MobileModel(artifact=place, precision=artifact.precision)
        try:
            made.append(_make(model, artifact, feed))
        except StageError as error:
            made.append(MobileFiles(msgspec.structs.replace(model, status="failed", reason=str(error)), Path()))
    return tuple(made)


def _make(model: MobileModel, artifact: Artifact, feed: Mapping[str, Array]) -> MobileFiles:
    from mscsa_deploy.graphs.passes import FOR_ACCELERATORS

    def make(folder: Path) -> MobileModel:
        return _for_accelerators(model, artifact, feed, folder) or _for_processor(model, artifact, feed, folder)

    versions = {name: package_version(name) for name in ("onnxruntime", "onnx", "onnx_ir")}
    passes = [step.__name__ for step in FOR_ACCELERATORS]
    parts = {"artifact": artifact.sha256, "place": model.artifact, "passes": passes, "comments": False, **versions}
    folder, found = cached("mobile", parts, MobileModel, make)
    return MobileFiles(found, folder)


def _for_accelerators(
    model: MobileModel, artifact: Artifact, feed: Mapping[str, Array], folder: Path
) -> MobileModel | None:
    """A float file in a form that accelerators take in one or two pieces; None where there is none, or it is inexact.

    INT8 files are the processor's: optimized no further than every provider understands, they compute in float there.
    """
    from mscsa_deploy.bundle.mobile import check_mobile, convert_to_ort
    from mscsa_deploy.graphs.check import read_model, to_bytes
    from mscsa_deploy.graphs.passes import for_accelerators
    from mscsa_deploy.graphs.rewrite import rewrite

    if artifact.precision != "fp32":
        return None
    with tempfile.TemporaryDirectory() as work:
        rewritten = Path(work) / PurePosixPath(model.artifact).name
        try:
            graph = read_model(artifact.path)
            rewrite(graph, for_accelerators())
            rewritten.write_bytes(to_bytes(graph))
            verdicts = check_mobile(rewritten)
            if not {"yes", "maybe"} & {verdict.suited for verdict in verdicts}:
                return None
            name = rewritten.stem
            ort = convert_to_ort(rewritten, folder, feed, name=name, made_for="accelerators", origin=artifact.path)
        except StageError as error:
            logger.warning("%s: no form for accelerators: %s", model.artifact, error)
            return None
    return _filled(model, ort, verdicts, made_for="accelerators")


def _for_processor(model: MobileModel, artifact: Artifact, feed: Mapping[str, Array], folder: Path) -> MobileModel:
    """The file as it is, optimized for ARM."""
    from mscsa_deploy.bundle.mobile import check_mobile, convert_to_ort

    ort = convert_to_ort(artifact.path, folder, feed, name=PurePosixPath(model.artifact).stem)
    return _filled(model, ort, check_mobile(artifact.path))


def _filled(
    model: MobileModel, ort: OrtFile, verdicts: tuple[MobileVerdict, ...], *, made_for: MadeFor = "processor"
) -> MobileModel:
    return msgspec.structs.replace(
        model,
        made_for=made_for,
        path=f"{FOLDER}/{ort.path.name}",
        operators=f"{FOLDER}/{ort.operators.name}",
        size_bytes=ort.size_bytes,
        max_abs_over_range=ort.max_abs_over_range,
        verdicts=verdicts,
    )
