"""A model in PyTorch as a checked ONNX file: trace, simplify, optimize, describe, write."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import onnx
import onnx_ir as ir
import torch

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.files import output_file
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.vocabulary import Output, Task
from mscsa_deploy.errors import CheckpointError, StageError
from mscsa_deploy.export.boundary import OUTPUT_NAMES, bounded
from mscsa_deploy.export.numeric import SameNumbers, make_feeds
from mscsa_deploy.export.recipe import Batch, check_batch, check_opset, check_output
from mscsa_deploy.export.simplify import simplify
from mscsa_deploy.export.trace import Method, best_graph
from mscsa_deploy.export.versions import tool_versions
from mscsa_deploy.graphs.check import (
    op_histogram,
    parsed,
    require_standard,
    require_static,
    signature,
    to_bytes,
)
from mscsa_deploy.graphs.metadata import set_info
from mscsa_deploy.graphs.passes import optimizations
from mscsa_deploy.graphs.rewrite import PassRecord, rewrite
from mscsa_deploy.models.spec import check_size

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mscsa_deploy.graphs.metadata import ModelInfo

logger = logging.getLogger(__name__)

STEPS = ("trace", "simplify", "optimize", "write")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The file, and how it came about.

    Args:
        artifact: The ONNX file.
        passes: What each graph pass did; empty without optimization.
        simplified: Whether onnxsim's result is in the file.
        method: ``"trace"``, or ``"dynamo"`` where tracing failed or cannot write the opset.
        ops: How often each op type occurs.
        notes: What somebody reading the report should know, e.g. why the graph is not simplified.
    """

    artifact: Artifact
    passes: tuple[PassRecord, ...]
    simplified: bool
    method: Method
    ops: dict[str, int]
    notes: tuple[str, ...]


def export_onnx(
    model: nn.Module,
    *,
    name: str,
    task: Task,
    input_size: tuple[int, int],
    metadata: ModelInfo,
    out: Path,
    batch: Batch = 1,
    output: Output = "logits",
    opset: int = 18,
    optimize: bool = True,
    progress: Progress = silent,
) -> ExportResult:
    """Write `model` as the ONNX file `out`; the same model and settings give the same bytes.

    The input is ``image``, (batch, 3, height, width) float32, normalized RGB. Without `optimize` the file is
    the traced graph after onnxsim, nothing else.

    Args:
        model: Gives logits, (N, classes) or (N, classes, H/s, W/s); its mode is left as it was.
        name: The model's name.
        task: ``"cls"`` or ``"seg"``.
        input_size: (height, width) in pixels.
        metadata: What the file shall say about itself; `output`, `stride`, `precision` and `tools` are
            filled in here.
        out: Replaced if it exists.
        batch: A fixed batch or ``"dynamic"``.
        output: Where the graph ends.
        opset: Version of ai.onnx.
        optimize: Whether to run the graph passes after simplification.
        progress: Called before each step.

    Raises:
        UserError: The output boundary, size, batch or opset is none that this model can have.
        CheckpointError: A weight is not a finite number.
        StageError: No exporter made a graph that agrees with PyTorch, or a pass failed.
    """
    check_output(output, task)
    check_size(input_size)
    check_batch(batch)
    check_opset(opset)
    refuse_broken_weights(model, name)
    progress(0, len(STEPS), STEPS[0])
    module = bounded(model, output, input_size)
    traced = best_graph(module, name=name, size=input_size, batch=batch, output_name=OUTPUT_NAMES[output], opset=opset)
    progress(1, len(STEPS), STEPS[1])
    check = SameNumbers(traced.model, make_feeds(signature(parsed(traced.model))[0]))
    slim = simplify(check)
    progress(2, len(STEPS), STEPS[2])
    graph = parsed(slim.model)
    passes: tuple[PassRecord, ...] = ()
    if optimize:
        passes = rewrite(graph, optimizations(), verify=check)
    progress(3, len(STEPS), STEPS[3])
    stride = _stride(graph, input_size)
    set_info(
        graph,
        msgspec.structs.replace(
            metadata, name=name, task=task, output=output, precision="fp32", stride=stride, tools=tool_versions()
        ),
    )
    settings = {
        "size": list(input_size), "batch": batch, "output": output, "opset": opset, "optimize": optimize,
        "exporter": traced.method, "simplified": slim.simplified,
    }  # fmt: skip
    artifact = _write(graph, out, settings, parent=metadata.source_sha256)
    progress(4, len(STEPS), STEPS[3])
    notes = tuple(note for note in (*traced.notes, slim.note) if note)
    return ExportResult(artifact, passes, slim.simplified, traced.method, op_histogram(graph), notes)


def refuse_broken_weights(model: nn.Module, name: str) -> None:
    """Raise `CheckpointError` naming the first tensors of `model` that hold NaN or infinity."""
    broken = [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise CheckpointError(
            f"{name}: weights that are not finite numbers: {', '.join(broken[:3])}{more}",
            hint="the training diverged or the checkpoint is damaged; take an earlier one",
        )


def _stride(graph: ir.Model, input_size: tuple[int, int]) -> int:
    """Input pixels per output cell; 0 where the output has no spatial axes."""
    last = signature(graph)[1][0].shape
    return input_size[1] // last[-1] if len(last) > 2 else 0


def _write(graph: ir.Model, out: Path, settings: dict[str, Any], *, parent: str) -> Artifact:
    """Check the finished `graph` once more and write it to `out` as a whole."""
    require_standard(graph, subject=graph.graph.name or "the model")
    require_static(graph, subject=graph.graph.name or "the model", dynamic_batch=settings["batch"] == "dynamic")
    data = to_bytes(graph)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError("write", out.name, f"the graph is not valid: {error}") from error
    with output_file(out, force=True) as work:
        work.write_bytes(data)
    inputs, outputs = signature(graph)
    made_by = MadeBy("export", settings, parent=parent, tools=tool_versions())
    return Artifact.of(out, kind="onnx", precision="fp32", inputs=inputs, outputs=outputs, made_by=made_by)
