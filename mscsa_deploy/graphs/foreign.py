"""ONNX files that came from elsewhere: what must hold, what has to be told, and the form we work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveInitializersFromInputsPass

from mscsa_deploy.errors import UserError
from mscsa_deploy.graphs.check import foreign_ops, read_model, require_static, signature
from mscsa_deploy.graphs.metadata import ModelInfo, info_of
from mscsa_deploy.graphs.opset import DEFAULT_OPSET, opset_of, raise_opset
from mscsa_deploy.graphs.tail.forms import cut_tail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mscsa_deploy.core.tensors import TensorSpec
    from mscsa_deploy.core.vocabulary import Output, Stored, Task

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file from elsewhere, ready for the stages after export.

    Args:
        model: Weights are initializers and not listed as inputs.
        inputs: Its picture input alone.
        outputs: The first one is what is judged.
        info: What it says about itself, or was told about it; precision, boundary and stride are read off the graph.
        changed: Whether `model` is no longer what the file holds.
        notes: What was changed, and what limits where it runs.
    """

    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    info: ModelInfo
    changed: bool
    notes: tuple[str, ...]


def adopt(
    path: Path, *, task: Task | None = None, preprocess: Mapping[str, Any] | None = None, rewrite: bool = False
) -> Adopted:
    """The vision model in the ONNX file at `path`.

    Args:
        path: A model with one input, (N, 3, H, W) float32 or (N, H, W, 3) uint8, and static shapes but for the batch.
        task: Its task; needed unless its metadata says it.
        preprocess: How a picture becomes its input, as `imaging.Preprocess` writes it; needed unless its
            metadata says it.
        rewrite: It is going to be changed: bring it to the opset that the rest of the package works on.

    Raises:
        UserError: It is unreadable, no such model, something about it is not said, or it is to be rewritten and
            older than opset 11.
        StageError: Its opset could not be converted.
    """
    model = read_model(path)
    notes = []
    listed = len(model.graph.inputs)
    RemoveInitializersFromInputsPass()(model)
    # Every stage after this one looks for weights among the initializers.
    lifted = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    changed = len(model.graph.inputs) != listed or lifted.modified
    if rewrite and cut_tail(model):
        changed = True
        notes.append("ends in a class map; what is made from it ends in the logits before")
    require_static(model, subject=f"'{path}'", dynamic_batch=True)
    inputs, outputs = signature(model)
    height, width = _picture_size(inputs, path)
    info = _told(info_of(model, source=str(path)), path, task, preprocess)
    output, stride = _boundary((height, width), outputs[0], info.task, path)
    if rewrite and (found := opset_of(model)) < DEFAULT_OPSET:
        model, changed = raise_opset(model, subject=f"'{path}'"), True
        notes.append(f"converted from opset {found} to {DEFAULT_OPSET}")
    if foreign := foreign_ops(model):
        notes.append(f"holds ops that only some runtimes know: {', '.join(foreign)}")
    tail = info.tail if output == "classmap" else ""
    info = msgspec.structs.replace(info, output=output, stride=stride, tail=tail, precision=stored_precision(model))
    return Adopted(model, inputs, outputs, info, changed, tuple(notes))


def _picture_size(inputs: tuple[TensorSpec, ...], path: Path) -> tuple[int, int]:
    """(height, width) of the one picture that the model takes."""
    if len(inputs) == 1:
        match inputs[0].dtype, inputs[0].shape:
            case "float32", (_, 3, height, width):
                return height, width
            case "uint8", (_, height, width, 3):
                return height, width
    found = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in inputs)
    raise UserError(
        f"'{path}' takes {found or 'nothing'}, expected one image: float32 (N, 3, height, width) or uint8 "
        "(N, height, width, 3)",
        hint="put layout and type conversions in front of the model when exporting it",
    )


def _told(info: ModelInfo | None, path: Path, task: Task | None, preprocess: Mapping[str, Any] | None) -> ModelInfo:
    """The file's own words, with what the user says in their place."""
    task = task or (info.task if info else None)
    words = dict(preprocess or (info.preprocess if info else {}))
    if task is None or not words:
        missing = [what for what, there in (("task", task), ("preprocessing", words)) if not there]
        options = {"task": "--task cls or --task seg", "preprocessing": "--preprocess FILE.toml"}
        raise UserError(
            f"'{path}' does not say its {' and '.join(missing)}",
            hint=f"add {' and '.join(options[what] for what in missing)}",
        )
    return msgspec.structs.replace(info or ModelInfo(name=path.stem, task=task), task=task, preprocess=words)


def stored_precision(model: ir.Model) -> Stored:
    """The lowest precision that the model's weights or ops are in."""
    if _QUANTIZED & {node.op_type for node in model.graph}:
        return "int8"
    kinds = {value.dtype for value in model.graph.initializers.values()}
    return "fp16" if ir.DataType.FLOAT16 in kinds else "fp32"


def _boundary(size: tuple[int, int], out: TensorSpec, task: Task, path: Path) -> tuple[Output, int]:
    """Where the graph ends, read off the shape of its first output; `size` is (height, width) of the input."""
    rank, height = len(out.shape), size[0]
    integer = np.issubdtype(np.dtype(out.dtype), np.integer)
    if task == "cls" and rank == 2:
        return "logits", 0
    if task == "seg" and rank == 4 and not integer and height % out.shape[2] == 0:
        stride = height // out.shape[2]
        return ("logits" if stride > 1 else "logits-full"), stride
    if task == "seg" and integer and out.shape[-2:] == size:
        return "classmap", 1
    scores = "(N, classes)" if task == "cls" else "(N, classes, height / stride, width / stride) or class ids"
    raise UserError(
        f"'{path}' gives {out.dtype} {list(out.shape)}, expected {scores} for {task}",
        hint="check --task, or export the model with its raw scores as the first output",
    )
