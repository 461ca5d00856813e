"""`export`: a checkpoint becomes an ONNX file that was compared with PyTorch on real images before it is kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.config import to_json
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import ParityNumbers, Record, StageRecord
from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.output import write_output
from mscsa_deploy.workflow.prepare import ModelRequest, Prepared, prepare
from mscsa_deploy.workflow.stages import Stages

if TYPE_CHECKING:
    from mscsa_deploy.export.exporter import ExportResult
    from mscsa_deploy.export.recipe import ExportRecipe, Output
    from mscsa_deploy.imaging.dataset import Dataset

logger = logging.getLogger(__name__)

CHECK_IMAGES = 8
CHECK_RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest(ModelRequest):
    """What to export; settings left at None are the recipe's.

    Args:
        output: Where the graph ends.
        batch: A fixed batch or ``"dynamic"``.
        precision: ``"fp32"``, or ``"fp16"`` for half-precision weights and arithmetic behind float32 inputs
            and outputs.
        opset: Version of ai.onnx.
        optimize: False leaves the traced and simplified graph as it is.
        images: What the numeric check runs on; a shipped scene set if None.
    """

    output: Output | None = None
    batch: int | Literal["dynamic"] | None = None
    precision: Literal["fp32", "fp16"] = "fp32"
    opset: int | None = None
    optimize: bool | None = None
    images: str | None = None


class Check(Record, frozen=True, kw_only=True):
    """The numeric check on one runtime."""

    runtime: str
    executed_precision: str
    images: int
    parity: ParityNumbers
    tolerance: str


class ExportOutcome(Record, frozen=True, kw_only=True):
    """What was exported and how it compared."""

    path: str
    sha256: str
    model: str
    task: str
    classes: int
    input_size: tuple[int, int]
    output: str
    precision: str
    random_weights: int | None
    passes: tuple[str, ...]
    notes: tuple[str, ...]
    not_loaded: tuple[str, ...]
    checks: tuple[Check, ...]
    stages: tuple[StageRecord, ...]


def run_export(request: ExportRequest, out: Path, *, force: bool = False, progress: Progress = silent) -> ExportOutcome:
    """Export, verify, and leave ``model.onnx``, ``export.json`` and ``manifest.json`` in the directory `out`.

    Raises:
        UserError: The request names something that does not exist or does not fit.
        StageError: Tracing or a graph pass failed.
        GateError: The file does not agree with PyTorch on real images; nothing is kept.
    """
    stages = Stages(progress)
    with stages.stage("checkpoint"):
        prepared = prepare(request)
        recipe = _with_changes(prepared.recipe, request)
    with write_output(out, force=force) as work:
        with stages.stage("export") as note:
            result, artifact = export_prepared(prepared, recipe, request.precision, work / "model.onnx", progress)
            note.detail = "; ".join(result.notes)
        with stages.stage("verify") as note:
            dataset = open_images(request.images or "validation", prepared.task)
            checks = check_against_pytorch(
                prepared, recipe, artifact.path, dataset, precision=artifact.precision, progress=progress
            )
            note.detail = f"{checks[0].images} images on {', '.join(check.runtime for check in checks)}"
        outcome = _outcome(prepared, recipe, result, artifact, checks=checks, stages=stages)
        (work / "export.json").write_bytes(to_json(outcome))
    return outcome


def export_prepared(
    prepared: Prepared,
    recipe: ExportRecipe,
    precision: Literal["fp32", "fp16"],
    path: Path,
    progress: Progress = silent,
) -> tuple[ExportResult, Artifact]:
    """Write the prepared model at `path` as `recipe` says; no numeric check against PyTorch yet."""
    from mscsa_deploy.export.exporter import export_onnx

    target = path if precision == "fp32" else path.with_name("model.fp32.onnx")
    result = export_onnx(
        prepared.module,
        name=prepared.name,
        task=recipe.task,
        input_size=recipe.input_size,
        metadata=prepared.info(),
        out=target,
        batch=recipe.batch,
        output=recipe.output,
        opset=recipe.opset,
        optimize=recipe.optimize,
        progress=lambda done, total, label: progress(done, total, f"export: {label}"),
    )
    if precision == "fp32":
        return result, result.artifact
    from mscsa_deploy.export.fp16 import to_fp16

    half = to_fp16(result.artifact, path)
    target.unlink()
    return result, half


def check_against_pytorch(
    prepared: Prepared,
    recipe: ExportRecipe,
    path: Path,
    dataset: Dataset,
    *,
    precision: str,
    progress: Progress = silent,
    runtimes: Sequence[str] = CHECK_RUNTIMES,
) -> tuple[Check, ...]:
    """Compare the file at `path` with PyTorch on real images, on every one of `runtimes` that is installed.

    Raises:
        GateError: A runtime's answers lie outside the tolerance of `precision`.
        UnsupportedError: None of the runtimes is installed.
    """
    from mscsa_deploy.errors import UnsupportedError
    from mscsa_deploy.export.reference import answerer
    from mscsa_deploy.imaging.preprocess import preprocess
    from mscsa_deploy.runtimes import RUNTIMES

    available = [name for name in runtimes if RUNTIMES.load(name)().probe().available]
    if not available:
        raise UnsupportedError("no runtime is installed to check the file with", hint="pip install onnxruntime")
    count = min(CHECK_IMAGES, len(dataset))
    if count == 0:
        raise UserError(f"'{dataset.name}' holds no images to check the file with")
    images = [preprocess(dataset.load(index)[0], prepared.preprocess) for index in range(count)]
    answer = answerer(prepared.module, recipe.output, recipe.input_size)
    expected = [answer(image) for image in images]
    batch = 1 if recipe.batch == "dynamic" else recipe.batch
    return tuple(
        _check_on(name, path, images, expected, precision=precision, batch=batch, progress=progress)
        for name in available
    )


def _check_on(
    runtime: str,
    path: Path,
    images: Sequence[Array],
    expected: Sequence[Array],
    *,
    precision: str,
    batch: int,
    progress: Progress,
) -> Check:
    import numpy as np

    from mscsa_deploy.parity.compare import Comparator
    from mscsa_deploy.parity.tolerance import check, tolerance_for
    from mscsa_deploy.runtimes import RUNTIMES
    from mscsa_deploy.runtimes.protocol import SessionSettings

    comparator = Comparator()
    with RUNTIMES.load(runtime)().load(path, SessionSettings(threads=2)) as session:
        name, executed = session.inputs[0].name, session.executed_precision
        for index, (image, reference) in enumerate(zip(images, expected, strict=True)):
            progress(index, len(images), f"verify on {runtime}")
            # A fixed batch is filled with the same picture; each of its answers must be right.
            outputs = session.run({name: np.repeat(image, batch, axis=0)})
            output = next(iter(outputs.values()))
            comparator.add(np.repeat(reference, batch, axis=0), output, names=[f"image {index}"] * batch)
    parity, tolerance = comparator.result(), tolerance_for(precision)
    check(next(iter(outputs)), parity, tolerance, subject=f"{path.name} on {runtime} against PyTorch")
    return Check(
        runtime=runtime,
        executed_precision=executed,
        images=len(images),
        parity=parity.numbers(),
        tolerance=tolerance.why,
    )


def _with_changes(recipe: ExportRecipe, request: ExportRequest) -> ExportRecipe:
    from mscsa_deploy.export.recipe import changed

    return changed(recipe, output=request.output, batch=request.batch, opset=request.opset, optimize=request.optimize)


def _outcome(
    prepared: Prepared,
    recipe: ExportRecipe,
    result: ExportResult,
    artifact: Artifact,
    *,
    checks: tuple[Check, ...],
    stages: Stages,
) -> ExportOutcome:
    return ExportOutcome(
        path=artifact.path.name,
        sha256=artifact.sha256,
        model=prepared.name,
        task=prepared.task,
        classes=prepared.classes,
        input_size=recipe.input_size,
        output=recipe.output,
        precision=artifact.precision,
        random_weights=prepared.random_weights,
        passes=tuple(record.name for record in result.passes),
        notes=result.notes,
        not_loaded=_not_loaded(prepared),
        checks=checks,
        stages=tuple(stages.records),
    )


def _not_loaded(prepared: Prepared) -> tuple[str, ...]:
    """Names of the model that a partially loaded checkpoint did not fill."""
    if prepared.fit is None:
        return ()
    difference = prepared.fit.difference
    return (*difference.missing, *(name for name, *_ in difference.misshapen))
