"""`export`: a checkpoint becomes an ONNX file that was compared with PyTorch on real images before it is kept."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.config import Record, to_json
from mscsa_deploy.core.files import refuse_existing
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import StageRecord
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.against_pytorch import Check, check_against_pytorch
from mscsa_deploy.workflow.endings import Tail, add_tail
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.output import write_output
from mscsa_deploy.workflow.prepare import ModelRequest, Prepared, prepare
from mscsa_deploy.workflow.stages import Stages

if TYPE_CHECKING:
    from mscsa_deploy.core.vocabulary import Output
    from mscsa_deploy.export.exporter import ExportResult
    from mscsa_deploy.export.recipe import ExportRecipe

logger = logging.getLogger(__name__)


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
        runtime: Also run the graph passes that help this runtime, and end in the tail that suits it.
        tail: Form of upsampling and argmax for a class map; ``"auto"`` measures on `runtime`; None takes the
            one that was fastest where it was measured.
        input_type: ``"uint8"`` for pixels as the input, the normalization inside the graph.
    """

    output: Output | None = None
    batch: int | Literal["dynamic"] | None = None
    precision: Literal["fp32", "fp16"] = "fp32"
    opset: int | None = None
    optimize: bool | None = None
    images: str | None = None
    runtime: str | None = None
    tail: str | None = None
    input_type: Literal["float32", "uint8"] = "float32"


class ExportOutcome(Record, frozen=True, kw_only=True):
    """What was exported and how it compared."""

    path: str
    sha256: str
    model: str
    task: str
    classes: int
    input_size: tuple[int, int]
    input_type: str
    output: str
    tail: Tail | None
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
    refuse_existing(out, force=force)
    stages = Stages(progress)
    with stages.stage("checkpoint"):
        prepared = prepare(request)
        recipe = _with_changes(prepared.recipe, request)
    check_request(request, recipe)
    # A traced class map is the plain graph; an optimized one ends in a tail of our own behind the logits.
    tailed = recipe.output == "classmap" and recipe.optimize
    from mscsa_deploy.export.recipe import changed

    with write_output(out, force=force) as work, tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as scratch:
        path = work / "model.onnx"
        with stages.stage("export") as note:
            base, place = (changed(recipe, output="logits"), Path(scratch, "logits.onnx")) if tailed else (recipe, path)
            result, artifact = export_prepared(
                prepared, base, request.precision, place, progress, runtime=request.runtime
            )
            note.detail = "; ".join(result.notes)
        dataset = open_images(request.images or "validation", prepared.task)
        tail = None
        if tailed:
            with stages.stage("tail") as note:
                tail, artifact = add_tail(
                    prepared, artifact, dataset, path, runtime=request.runtime, form=request.tail, progress=progress
                )
                note.detail = f"{tail.form}: {tail.why}"
        if request.input_type == "uint8":
            from mscsa_deploy.export.endings import with_pixels

            artifact = with_pixels(artifact, prepared.preprocess.mean, prepared.preprocess.std, path)
        with stages.stage("verify") as note:
            checks = check_against_pytorch(
                prepared, recipe, artifact.path, dataset, precision=artifact.precision, progress=progress
            )
            note.detail = f"{checks[0].images} images on {', '.join(check.runtime for check in checks)}"
        outcome = _outcome(prepared, recipe, result, artifact, checks=checks, tail=tail, stages=stages)
        (work / "export.json").write_bytes(to_json(outcome))
    return outcome


def check_request(request: ExportRequest, recipe: ExportRecipe) -> None:
    """Raise `UserError` where settings of the tail contradict one another."""
    if request.tail is not None and recipe.output != "classmap":
        raise UserError(f"--tail {request.tail} without a class map", hint="add --output classmap")
    if not recipe.optimize and (request.tail not in (None, "plain") or request.runtime):
        raise UserError("the plain graph has the plain tail and suits no runtime more than another",
                        hint="drop --no-optimize, or --tail and --for")  # fmt: skip
    if request.tail == "auto" and request.runtime is None:
        raise UserError("--tail auto measures on a runtime, and none is named", hint="add --for RUNTIME")


def export_prepared(
    prepared: Prepared,
    recipe: ExportRecipe,
    precision: Literal["fp32", "fp16"],
    path: Path,
    progress: Progress = silent,
    *,
    runtime: str | None = None,
) -> tuple[ExportResult, Artifact]:
    """Write the prepared model at `path` as `recipe` says; no numeric check against PyTorch yet.

    With a `runtime`, the graph also gets the passes that help that one only.
    """
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
    artifact = result.artifact
    if runtime is not None:
        from mscsa_deploy.export.tune import tune_for

        artifact = tune_for(runtime, artifact, target)
    if precision == "fp32":
        return result, artifact
    from mscsa_deploy.export.fp16 import to_fp16

    half = to_fp16(artifact, path)
    target.unlink()
    return result, half


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
    tail: Tail | None,
    stages: Stages,
) -> ExportOutcome:
    return ExportOutcome(
        path=artifact.path.name,
        sha256=artifact.sha256,
        model=prepared.name,
        task=prepared.task,
        classes=prepared.classes,
        input_size=recipe.input_size,
        input_type=artifact.inputs[0].dtype,
        output=recipe.output,
        tail=tail,
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
