"""ONNX files that came from elsewhere: what must hold, what has to be told, and the form we work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from mscsa_deploy.errors import UserError
from mscsa_deploy.graphs.check import foreign_ops, read_model, require_static, signature
from mscsa_deploy.graphs.metadata import ModelInfo, info_of
from mscsa_deploy.graphs.opset import DEFAULT_OPSET, opset_of, raise_opset

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mscsa_deploy.core.tensors import TensorSpec
    from mscsa_deploy.graphs.metadata import Output, Task

RGB_CHANNELS = 3
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file from elsewhere, ready for the stages after export.

    Args:
        model: At opset 18 or newer, weights not listed as inputs.
        info: What it says about itself, or was told about it.
        notes: What was changed, and what limits where it runs.
    """

    model: ir.Model
    info: ModelInfo
    notes: tuple[str, ...]


def adopt(path: Path, *, task: Task | None = None, preprocess: Mapping[str, Any] | None = None) -> Adopted:
    """The vision model in the ONNX file at `path`.

    Args:
        path: A model with one (N, 3, H, W) float32 input and static shapes.
        task: Its task; needed unless its metadata says it.
        preprocess: How a picture becomes its input, as `imaging.Preprocess` writes it; needed unless its
            metadata says it.

    Raises:
        UserError: It is unreadable, older than opset 11, no such model, or something about it is not said.
        StageError: Its opset could not be converted.
    """
    model = read_model(path)
    notes = []
    RemoveInitializersFromInputsPass()(model)
    require_static(model, subject=f"'{path}'")
    inputs, outputs = signature(model)
    _check_input(inputs, path)
    info = _told(info_of(model, source=str(path)), path, task, preprocess)
    output, stride = _boundary(inputs[0], outputs[0], info.task, path)
    if (found := opset_of(model)) < DEFAULT_OPSET:
        model = raise_opset(model, subject=f"'{path}'")
        notes.append(f"converted from opset {found} to {DEFAULT_OPSET}")
    if foreign := foreign_ops(model):
        notes.append(f"holds ops that only some runtimes know: {', '.join(foreign)}")
    return Adopted(model, msgspec.structs.replace(info, output=output, stride=stride), tuple(notes))


def _check_input(inputs: tuple[TensorSpec, ...], path: Path) -> None:
    fits = len(inputs) == 1 and inputs[0].dtype == "float32" and len(inputs[0].shape) == 4
    if not fits or inputs[0].shape[1] != RGB_CHANNELS:
        found = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in inputs)
        raise UserError(
            f"'{path}' takes {found or 'nothing'}, expected one float32 image (N, 3, height, width)",
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
    base = info or ModelInfo(name=path.stem, task=task, precision=stored_precision(read_model(path)))
    return msgspec.structs.replace(base, task=task, preprocess=words)


def stored_precision(model: ir.Model) -> Literal["fp32", "fp16", "int8"]:
    """The lowest precision that the model's weights or ops are in."""
    if _QUANTIZED & {node.op_type for node in model.graph}:
        return "int8"
    kinds = {value.dtype for value in model.graph.initializers.values()}
    return "fp16" if ir.DataType.FLOAT16 in kinds else "fp32"


def _boundary(image: TensorSpec, out: TensorSpec, task: Task, path: Path) -> tuple[Output, int]:
    """Where the graph ends, read off the shape of its first output."""
    rank, height = len(out.shape), image.shape[2]
    integer = np.issubdtype(np.dtype(out.dtype), np.integer)
    if task == "cls" and rank == 2:
        return "logits", 0
    if task == "seg" and rank == 4 and not integer and height % out.shape[2] == 0:
        stride = height // out.shape[2]
        return ("logits" if stride > 1 else "logits-full"), stride
    if task == "seg" and integer and out.shape[-2:] == image.shape[-2:]:
        return "classmap", 1
    scores = "(N, classes)" if task == "cls" else "(N, classes, height / stride, width / stride) or class ids"
    raise UserError(
        f"'{path}' gives {out.dtype} {list(out.shape)}, expected {scores} for {task}",
        hint="check --task, or export the model with its raw scores as the first output",
    )
