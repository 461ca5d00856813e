"""Is the model fit for calibration: does it listen to its input, and are all its activations finite?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mscsa_deploy.errors import StageError, UnsupportedError, UserError

if TYPE_CHECKING:
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.tensors import Array, Feed


def plain_session(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session that runs the graph as written, on one thread of the CPU.

    Raises:
        UnsupportedError: ONNX Runtime cannot; the operator is named.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes with no other base.
        raise UnsupportedError(
            f"ONNX Runtime, which calibration runs on, cannot run the float model: {error}",
            hint="export it with operators of ai.onnx alone",
        ) from error


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

    A model whose output is constant calibrates without complaint and is worthless. Where there is one picture alone,
    it is held against itself turned and darkened.
    """
    alone = _same(first, second)
    if alone:
        second = {name: _altered(array) for name, array in first.items()}
    if _same(first, second):
        return
    session = plain_session(source.model)
    if alone and all("float" not in value.type for value in session.get_outputs()):
        # One picture may well be of one class, whichever way it is turned.
        return
    outputs = [value.name for value in session.get_outputs()]
    one, two = (session.run(outputs, dict(feed)) for feed in (first, second))
    if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True)) and _finite(one):
        raise UserError(
            f"the outputs of '{source.title}' ignore its input: two different inputs gave the same values",
            hint="check the export: a constant output cannot be calibrated",
        )


class FiniteWatch:
    """Raises on the first node that gives NaN or infinity, sample after sample in one session.

    Args:
        source: The model; every float activation becomes an output of the session.
    """

    def __init__(self, source: Source) -> None:
        self.names = float_tensors(source.model)
        self.session = plain_session(with_outputs(source.model, self.names))
        self.writers = {name: node for node in source.model.graph.node for name in node.output}

    def check(self, feed: Feed, label: str) -> None:
        """Look at every value that `feed` causes.

        Args:
            feed: One sample.
            label: What the error calls the sample.

        Raises:
            UserError: The sample itself holds such a value.
            StageError: A node gives one; the first in graph order is named.
        """
        for name, array in feed.items():
            if not np.isfinite(array).all():
                raise UserError(f"{label} holds NaN or infinite values in input '{name}'")
        for name, value in zip(self.names, self.session.run(self.names, dict(feed)), strict=True):
            if not np.isfinite(value).all():
                node = self.writers[name]
                raise StageError(
                    "calibrate",
                    f"node '{node.name}' ({node.op_type})",
                    f"its output '{name}' is NaN or infinite on {label}",
                    hint="check the weights of the checkpoint and the preprocessing",
                )


def _same(first: Feed, second: Feed) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def _altered(array: Array) -> Array:
    return (np.flip(array, axis=min(2, array.ndim - 1)) / 2).astype(array.dtype)


def _finite(arrays: list[Array]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
