"""The float model that is to be quantized: read, judged and brought to an opset with per-channel Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from mscsa_deploy.calibration.checks import plain_session, with_outputs
from mscsa_deploy.core.artifact import model_digest
from mscsa_deploy.core.files import cache_root
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError, UserError

if TYPE_CHECKING:
    from pathlib import Path

OLDEST_OPSET = 11
# Per-channel QuantizeLinear came with 13, float16 scales with 19 (ONNX changelog).
PER_CHANNEL_OPSET = 13
HALF_SCALE_OPSET = 19
QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm"}
)
_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.UINT16: "uint16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}


@dataclass(frozen=True)
class Source:
    """A float ONNX model in memory, with inferred shapes and a name on every node.

    Args:
        path: The file it was read from.
        sha256: Its `model_digest`.
        model: The protobuf; opset at least 13.
        inputs: Its inputs (initializers left out), static.
        outputs: Its outputs; -1 where the file does not say.
        notes: What was converted on reading.
        asked: The graph before operators were replaced, which a recipe's rules are about; None where it is `model`.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...]
    asked: onnx.ModelProto | None = None

    @property
    def title(self) -> str:
        """What errors call the file: its path; of a file in the cache the name alone, which is its origin's."""
        return self.path.name if self.path.is_relative_to(cache_root()) else str(self.path)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own metadata entries."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def open_source(path: Path, *, opset: int = PER_CHANNEL_OPSET) -> Source:
    """The float ONNX file at `path`, ready for a quantizer.

    Args:
        path: A float model; opset 11 or later, static input shapes.
        opset: The least opset needed; an older file is converted.

    Raises:
        UserError: It cannot be read, is quantized already, has dynamic inputs or an opset below 11.
        StageError: The opset conversion failed.
        UnsupportedError: It holds an operator that neither onnx nor ONNX Runtime knows.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise UserError(f"'{path}' is not a valid ONNX model: {error}") from error
    except DecodeError as error:
        raise UserError(f"'{path}' is not an ONNX file: {error}") from error
    _refuse_quantized(model, path)
    model = _lifted(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in constants)
    refuse_dynamic(inputs, path)
    model, notes = _at_least(model, opset, path)
    _name_nodes(model)
    model = _typed(onnx.shape_inference.infer_shapes(model))
    outputs = tuple(_spec(value) for value in model.graph.output)
    return Source(path, model_digest(path), model, inputs, outputs, notes)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the ``ai.onnx`` operator set the model uses."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1))


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1 for dim in tensor.shape.dim)
    return TensorSpec(value.name, _DTYPES.get(tensor.elem_type, "unknown"), shape)


def _refuse_quantized(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        if node.op_type in QUANTIZED_OPS or node.op_type.startswith("QLinear"):
            raise UserError(
                f"'{path}' is already quantized: node '{node.name or node.output[0]}' is a {node.op_type}",
                hint="quantize the float model it was made from",
            )


def refuse_dynamic(inputs: tuple[TensorSpec, ...], path: Path) -> None:
    """Raise `UserError` if an input of the model at `path` has an axis that the file does not fix."""
    for spec in inputs:
        if -1 in spec.shape:
            shown = "x".join("?" if size == -1 else str(size) for size in spec.shape)
            sizes = ("1", *("N" for _ in spec.shape[1:]))
            fixed = ",".join(free if size == -1 else str(size) for size, free in zip(spec.shape, sizes, strict=True))
            raise UserError(
                f"input '{spec.name}' of '{path}' has a dynamic shape {shown}, expected a static one",
                hint="export again with '--batch 1', or fix a foreign file with 'python -m "
                f"onnxruntime.tools.make_dynamic_shape_fixed --input_name {spec.name} --input_shape {fixed} "
                f"{path} fixed.onnx'",
            )


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its Constant nodes as initializers: only those does ONNX Runtime's writer take for weights."""
    if not any(node.op_type == "Constant" for node in model.graph.node):
        return model
    graph = ir.from_proto(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    return ir.to_proto(graph)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the types that onnx cannot infer taken from ONNX Runtime, which knows operators beyond ai.onnx.

    Without one, a tensor is neither watched for NaN nor given a range.
    """
    graph = model.graph
    declared = (*graph.value_info, *graph.input, *graph.output)
    known = {value.name for value in declared if value.type.tensor_type.elem_type}
    untyped = [name for node in graph.node for name in node.output if name and name not in known]
    if not untyped:
        return model
    kinds = {f"tensor({'float' if name == 'float32' else name})": kind for kind, name in _DTYPES.items()}
    found = {value.name: value for value in plain_session(with_outputs(model, untyped)).get_outputs()}
    for name in untyped:
        if kind := kinds.get(found[name].type):
            shape = [size if isinstance(size, int) else None for size in found[name].shape]
            # ONNX Runtime says of an unknown rank what it says of a scalar.
            graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, shape or None))
    return onnx.shape_inference.infer_shapes(model)


def _at_least(model: onnx.ModelProto, opset: int, path: Path) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """`model` converted to `opset` if it is older, its metadata kept."""
    old = opset_of(model)
    if old >= opset:
        return model, ()
    if old < OLDEST_OPSET:
        raise UserError(f"'{path}' uses opset {old}, expected {OLDEST_OPSET} or later", hint="export it again")
    try:
        converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise StageError("convert opset", str(path), str(error), hint=f"export it with opset {opset}") from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted, (f"opset converted from {old} to {opset}",)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give unnamed nodes a name from their place, and equal names a number: engines address nodes by name."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in seen:
            name = f"{name}_{index}"
        seen.add(name)
        node.name = name


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The model's weights by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def constant_names(model: onnx.ModelProto) -> set[str]:
    """Names of tensors that do not depend on the input: initializers and outputs of Constant nodes."""
    names = set(initializers(model))
    names.update(node.output[0] for node in model.graph.node if node.op_type == "Constant")
    return names


def set_initializer(model: onnx.ModelProto, name: str, value: Any) -> None:
    """Replace the weight called `name` by the array `value`."""
    tensor = initializers(model)[name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
