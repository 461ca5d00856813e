"""The FP16 form of an ONNX file: float16 inside, float32 inputs and outputs.

What does not fit float16 stays float32 by name: nodes around values beyond its range (measured on inputs), and
nodes with a scalar constant that float16 turns into zero or infinity.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.files import output_file
from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.export.numeric import make_feeds, run_graph
from mscsa_deploy.export.versions import tool_versions
from mscsa_deploy.graphs.check import read_model, require_standard, signature, to_bytes
from mscsa_deploy.graphs.half import FLOAT, ToHalf
from mscsa_deploy.graphs.metadata import info_of, set_info
from mscsa_deploy.graphs.rewrite import rewrite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mscsa_deploy.core.tensors import Feed

logger = logging.getLogger(__name__)

LARGEST = float(np.finfo(np.float16).max)
# Inputs that were not measured may reach further than those that were.
MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class KeptFloat:
    """A node that stays float32.

    Args:
        node: Its name.
        op: Its op type.
        reason: Why, in one sentence.
    """

    node: str
    op: str
    reason: str


def to_fp16(artifact: Artifact, out: Path, *, feeds: Sequence[Feed] = ()) -> Artifact:
    """Write the FP16 form of the FP32 ONNX file of `artifact` to `out`.

    The record's `made_by.settings["kept_float"]` lists the nodes that stay float32, with their reasons.

    Args:
        artifact: An ONNX file with float32 weights.
        out: Replaced if it exists.
        feeds: Inputs on which the ranges of all values are measured; repeatable noise where none are given.

    Raises:
        UserError: The file is not an FP32 ONNX file.
        StageError: The result is not a valid graph, or gives numbers that are not finite.
    """
    if artifact.kind != "onnx" or artifact.precision != "fp32":
        raise UserError(f"'{artifact.path}' is {artifact.precision} {artifact.kind}, expected an FP32 ONNX file")
    model = read_model(artifact.path)
    feeds = feeds or make_feeds(signature(model)[0])
    kept = kept_float(model, feeds)
    rewrite(model, [ToHalf({each.node for each in kept})])
    require_standard(model, subject=artifact.path.name)
    info = info_of(model, source=str(artifact.path))
    if info is not None:
        set_info(model, msgspec.structs.replace(info, precision="fp16"))
    data = to_bytes(model)
    if not all(np.isfinite(value).all() for row in run_graph(data, feeds) for value in row):
        raise StageError("fp16", artifact.path.name, "its outputs are not finite numbers", hint="use FP32 or bf16")
    with output_file(out, force=True) as work:
        work.write_bytes(data)
    inputs, outputs = signature(model)
    settings = {"margin": MARGIN, "feeds": len(feeds), "kept_float": [asdict(each) for each in kept]}
    made_by = MadeBy("fp16", settings, parent=artifact.sha256, tools=tool_versions())
    return Artifact.of(out, kind="onnx", precision="fp16", inputs=inputs, outputs=outputs, made_by=made_by)


def kept_float(model: ir.Model, feeds: Sequence[Feed]) -> tuple[KeptFloat, ...]:
    """The nodes of `model` that cannot compute in float16, in the graph's order, each with its first reason.

    Raises:
        StageError: ONNX Runtime cannot run the model.
    """
    largest = largest_magnitudes(model, feeds)
    kept = {}
    for node in model.graph:
        if reason := _constant_reason(node) or _range_reason(node, largest):
            kept[node] = KeptFloat(node.name or "", node.op_type, reason)
            logger.debug("%s stays float32: %s", node.name, reason)
    return tuple(kept.values())


def _constant_reason(node: ir.Node) -> str:
    for value in node.inputs:
        if value is None:
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.dtype != FLOAT:
            continue
        numbers = tensor.numpy()
        if np.abs(numbers).max(initial=0) > LARGEST:
            return f"its constant '{value.name}' reaches {np.abs(numbers).max():.3g}, beyond float16"
        if numbers.size == 1 and numbers.item() != 0 and np.float16(numbers.item()) == 0:
            return f"its constant '{value.name}' is {numbers.item():.3g}, which float16 rounds to zero"
    return ""


def _range_reason(node: ir.Node, largest: dict[str, float]) -> str:
    for value in (*node.inputs, *node.outputs):
        if value is not None and largest.get(value.name or "", 0.0) > LARGEST / MARGIN:
            return f"'{value.name}' reaches {largest[value.name or '']:.3g}, too close to float16's {LARGEST:g}"
    return ""


def largest_magnitudes(model: ir.Model, feeds: Sequence[Feed]) -> dict[str, float]:
    """The largest absolute value that each float32 value of the main graph takes, by its name.

    Only one number per value leaves the run, so that large activations need not be held at once.

    Raises:
        StageError: ONNX Runtime cannot run the model.
    """
    probe = ir.from_proto(ir.to_proto(model))
    ShapeInferencePass()(probe)
    values = [value for node in list(probe.graph) for value in node.outputs if value.dtype == FLOAT and value.name]
    names = [value.name or "" for value in values]
    for number, value in enumerate(values):
        size = ir.node("Abs", [value], name=f"probe_abs_{number}")
        top = ir.node("ReduceMax", [size.outputs[0]], attributes={"keepdims": 0}, name=f"probe_max_{number}")
        top.outputs[0].name = f"probe_{number}"
        top.outputs[0].type, top.outputs[0].shape = ir.TensorType(FLOAT), ir.Shape([])
        probe.graph.extend([size, top])
    del probe.graph.outputs[:]
    probe.graph.outputs.extend(
        node.outputs[0] for node in probe.graph if node.name and node.name.startswith("probe_max_")
    )
    rows = run_graph(to_bytes(probe), feeds)
    return {name: max(float(row[number]) for row in rows) for number, name in enumerate(names)}
