"""Is the model fit for calibration: does it listen to its input, and are all its activations finite?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mscsa_deploy.errors import StageError, UserError

if TYPE_CHECKING:
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.tensors import Array, Feed


def plain_session(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session that runs the graph as written, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of `model` that also gives out the tensors called `names`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in (*copy.graph.value_info, *copy.graph.input)}
    present = {value.name for value in copy.graph.output}
    for name in names:
        if name not in present:
            copy.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    return copy


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 activations that nodes write, in graph order."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    constants = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    written = (name for node in model.graph.node for name in node.output)
    return [name for name in written if kinds.get(name) == onnx.TensorProto.FLOAT and name not in constants]


def check_listens(source: Source, first: Feed, second: Feed) -> None:
    """Raise `UserError` if two different feeds give bit-identical outputs.

    A model whose output is constant calibrates without complaint and is worthless.
    """
    same_input = all(np.array_equal(first[name], second[name]) for name in first)
    if same_input:
        return
    session = plain_session(source.model)
    outputs = [value.name for value in session.get_outputs()]
    one, two = (session.run(outputs, dict(feed)) for feed in (first, second))
    if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True)) and _finite(one):
        raise UserError(
            f"the outputs of '{source.path}' ignore its input: two different pictures gave the same values",
            hint="check the export: a constant output cannot be calibrated",
        )


def find_not_finite(source: Source, feed: Feed) -> tuple[str, str, str] | None:
    """Name, operator and tensor of the first node in graph order that gives NaN or infinity on `feed`."""
    names = float_tensors(source.model)
    session = plain_session(with_outputs(source.model, names))
    values = dict(zip(names, session.run(names, dict(feed)), strict=True))
    writers = {name: node for node in source.model.graph.node for name in node.output}
    for name in names:
        if not np.isfinite(values[name]).all():
            return writers[name].name, writers[name].op_type, name
    return None


def check_finite(source: Source, feed: Feed, label: str) -> None:
    """Raise `StageError` naming the first node that gives NaN or infinity on `feed`, if one does.

    Args:
        source: The model.
        feed: One sample.
        label: What the error calls the sample.
    """
    for name, array in feed.items():
        if not np.isfinite(array).all():
            raise UserError(f"{label} holds NaN or infinite values in input '{name}'")
    found = find_not_finite(source, feed)
    if found is not None:
        node, op, tensor = found
        raise StageError(
            "calibrate",
            f"node '{node}' ({op})",
            f"its output '{tensor}' is NaN or infinite on {label}",
            hint="check the weights of the checkpoint and the preprocessing",
        )


def _finite(arrays: list[Array]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
