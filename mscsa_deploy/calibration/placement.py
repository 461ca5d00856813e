"""Which nodes a recipe leaves float, which a finished Q/DQ file still computes in float, and why."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from onnx import numpy_helper

from mscsa_deploy.calibration.quantizer import LeftFloat
from mscsa_deploy.calibration.source import constant_names, initializers
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

    from mscsa_deploy.calibration.recipe import CalibrationRecipe, FloatRule

ELEMENTWISE = frozenset(
    {"Add", "BatchNormalization", "Clip", "Gelu", "HardSigmoid", "HardSwish", "Mul", "Relu", "Sigmoid", "Sub"}
)
# Operators that hold no arithmetic on activations: constants, and shapes computed on the side.
BOOKKEEPING = frozenset(
    {"Constant", "ConstantOfShape", "Shape", "Cast", "QuantizeLinear", "DequantizeLinear", "Identity"}
)
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVERS = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice", "SpaceToDepth",
        "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
# What each runtime computes on integers when Q/DQ surround it. ONNX Runtime: the selectors of
# optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc; OpenVINO: the executed kernels
# (its sums and products of two INT8 tensors are float inside); TensorRT: developer guide, "Q/DQ layer-placement
# recommendations". A test holds the first two against what the runtimes execute.
_EVERYWHERE = MOVERS | {
    "AveragePool", "Clip", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Relu",
}  # fmt: skip
INTEGER_OPS = {
    "onnxruntime": (_EVERYWHERE - {"Pad", "SpaceToDepth"})
    | {"Add", "ArgMax", "LeakyRelu", "Mul", "ReduceMax", "ReduceMin", "Resize", "Sigmoid", "Softmax"},
    "openvino": (_EVERYWHERE - {"SpaceToDepth", "Tile"}) | {"ConvTranspose", "ReduceMax", "ReduceMean"},
    "tensorrt": _EVERYWHERE | {"Add", "ConvTranspose", "Resize"},
}
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
# These keep an integer kernel when only their inputs are quantized (MatMulIntegerToFloat, QGemm).
ORT_FLOAT_OUTPUT_OPS = frozenset({"MatMul", "Gemm", "ArgMax"})

# ONNX Runtime takes away the pairs around these only if both say the same.
ORT_ONE_SCALE_OPS = (MOVERS - {"Concat", "Where"}) | {"MaxPool", "ReduceMax", "ReduceMin", "Resize"}
# It moves DequantizeLinear behind these and QuantizeLinear before (optimizer/qdq_transformer/qdq_propagation.cc).
ORT_PASSED_OPS = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


class Wiring:
    """Who writes and who reads each tensor of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.writer = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}

    def grid(self, node: onnx.NodeProto) -> list[bytes]:
        """Scale and zero point of a QuantizeLinear or DequantizeLinear, comparable."""
        return [numpy_helper.to_array(self.weights[name]).tobytes() for name in node.input[1:]]


def excluded(model: onnx.ModelProto, recipe: CalibrationRecipe) -> dict[str, str]:
    """Nodes that the recipe's rules leave float: name to reason, the first matching rule's.

    A rule about operators says nothing about a model without them.

    Raises:
        UserError: A rule that names nodes matches none, so it cannot do what its writer meant.
    """
    reasons: dict[str, str] = {}
    for rule in recipe.keep_float:
        matched = match(model, rule)
        if rule.nodes and not matched:
            raise UserError(
                f"recipe '{recipe.name}': the keep_float rule '{rule.reason}' matches no node of the model",
                hint="remove the rule, or use a recipe made for this model",
            )
        for name in matched:
            reasons.setdefault(name, rule.reason)
    return reasons


def match(model: onnx.ModelProto, rule: FloatRule) -> list[str]:
    """Names of the nodes of `model` that `rule` matches, in graph order."""
    names = [node.name for node in model.graph.node if node.op_type not in BOOKKEEPING]
    kept = set(names)
    if rule.nodes:
        kept &= {name for name in names if any(re.fullmatch(pattern, name) for pattern in rule.nodes)}
    if rule.op_types:
        kept &= {node.name for node in model.graph.node if node.op_type in rule.op_types}
    if rule.first_convs:
        kept &= _first_convs(model, rule.first_convs)
    if rule.last_convs:
        convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
        kept &= set(convs[-rule.last_convs :])
    if rule.min_kernel or rule.channels:
        kept &= _convs_of_shape(model, rule.min_kernel, rule.channels)
    if rule.downstream_of:
        kept &= _downstream(model, frozenset(rule.downstream_of))
    if rule.upstream_of:
        kept &= _upstream(model, frozenset(rule.upstream_of))
    if rule.weightless:
        constants = constant_names(model)
        kept &= {node.name for node in model.graph.node if not any(name in constants for name in node.input[1:])}
    return [name for name in names if name in kept]


def _first_convs(model: onnx.ModelProto, count: int) -> set[str]:
    """The first `count` convolutions and the elementwise nodes fed by nothing else."""
    constants = constant_names(model)
    kept: set[str] = set()
    tensors: set[str] = set()
    left = count
    for node in model.graph.node:
        activations = [name for name in node.input if name and name not in constants]
        is_conv = node.op_type == "Conv" and left > 0
        follows = node.op_type in ELEMENTWISE and activations and all(name in tensors for name in activations)
        if is_conv or follows:
            left -= is_conv
            kept.add(node.name)
            tensors.update(node.output)
    return kept


def _convs_of_shape(model: onnx.ModelProto, min_kernel: int, channels: tuple[int, int] | None) -> set[str]:
    """Convolutions with at least so many kernel columns that sum over that many input channels.

    A weight's shape is (outputs, inputs / groups, rows, columns); one that is computed has none and matches nothing.
    """
    shapes = {name: tuple(tensor.dims) for name, tensor in initializers(model).items()}
    low, high = channels or (0, sys.maxsize)
    kept = set()
    for node in model.graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
        if shape and shape[-1] >= min_kernel and low <= shape[1] <= high:
            kept.add(node.name)
    return kept


def _downstream(model: onnx.ModelProto, op_types: frozenset[str]) -> set[str]:
    """Nodes that depend on the output of a node of one of `op_types`."""
    reached: set[str] = set()
    tensors: set[str] = set()
    for node in model.graph.node:
        if any(name in tensors for name in node.input):
            reached.add(node.name)
            tensors.update(node.output)
        if node.op_type in op_types:
            tensors.update(node.output)
    return reached


def _upstream(model: onnx.ModelProto, op_types: frozenset[str]) -> set[str]:
    """Nodes that the input of a node of one of `op_types` depends on."""
    reached: set[str] = set()
    tensors: set[str] = set()
    for node in reversed(model.graph.node):
        if any(name in tensors for name in node.output):
            reached.add(node.name)
            tensors.update(node.input)
        if node.op_type in op_types:
            tensors.update(node.input)
    return reached


def left_float(
    quantized: onnx.ModelProto, recipe: CalibrationRecipe, rules: dict[str, str]
) -> tuple[tuple[LeftFloat, ...], int]:
    """What a Q/DQ file still computes in float, and how many operators it computes on integers.

    Args:
        quantized: A model with QuantizeLinear and DequantizeLinear nodes.
        recipe: What the writer was told; its runtime decides which operators have integer kernels.
        rules: Nodes left float on purpose, name to reason; see `excluded`.
    """
    wiring = Wiring(quantized.graph)
    constants = constant_names(quantized)
    left: list[LeftFloat] = []
    integer = 0
    for node in quantized.graph.node:
        if node.op_type in BOOKKEEPING or all(name in constants for name in node.input if name):
            continue
        reason = _why_float(node, wiring, constants, recipe)
        if reason:
            left.append(LeftFloat(node.name, node.op_type, rules.get(node.name, reason)))
        else:
            integer += 1
    return tuple(left), integer


def on_integers(
    quantized: onnx.ModelProto, recipe: CalibrationRecipe, op_types: Collection[str]
) -> list[onnx.NodeProto]:
    """The nodes of `op_types` that the recipe's runtime computes on integers in a Q/DQ file, in graph order."""
    wiring = Wiring(quantized.graph)
    constants = constant_names(quantized)
    nodes = (node for node in quantized.graph.node if node.op_type in op_types)
    return [node for node in nodes if not _why_float(node, wiring, constants, recipe)]


def _why_float(node: onnx.NodeProto, wiring: Wiring, constants: set[str], recipe: CalibrationRecipe) -> str:
    """Why `node` runs in float, or nothing when it runs on integers."""
    on_ort = recipe.runtime == "onnxruntime"
    dequantized = [_dequantized(name, wiring, passed=on_ort) for name in _data_inputs(node, constants)]
    if recipe.op_types and node.op_type not in recipe.op_types and not all(dequantized):
        return f"{node.op_type} is not among the recipe's op_types"
    if on_ort and _passed(node, wiring, dequantized=all(dequantized)):
        return ""
    if not all(dequantized):
        return "its input is not quantized, and it is not worth a conversion of its own"
    if node.op_type not in INTEGER_OPS[recipe.runtime]:
        return f"{TITLES[recipe.runtime]} has no integer kernel for {node.op_type}"
    return _why_ort_float(node, wiring) if on_ort else ""


def _why_ort_float(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Why ONNX Runtime runs `node` in float though its inputs are quantized, or nothing."""
    if node.op_type not in ORT_FLOAT_OUTPUT_OPS and not _output_quantized(node, wiring):
        return "its output is not quantized, so ONNX Runtime computes it in float"
    if node.op_type == "Resize" and _mode(node) != "nearest":
        return "ONNX Runtime interpolates in float"
    if node.op_type in ORT_ONE_SCALE_OPS and not _one_scale(node, wiring):
        return "its scale changes, so ONNX Runtime computes it in float"
    return ""


def _dequantized(name: str, wiring: Wiring, *, passed: bool) -> bool:
    """Whether DequantizeLinear writes a tensor; `passed`: or wrote it before operators that it can be moved behind."""
    source = wiring.writer.get(name)
    if source is None:
        return False
    if source.op_type == "DequantizeLinear":
        return True
    return passed and source.op_type in ORT_PASSED_OPS and _dequantized(source.input[0], wiring, passed=True)


def _passed(node: onnx.NodeProto, wiring: Wiring, *, dequantized: bool) -> bool:
    """Whether ONNX Runtime moves a quantization past `node`, from the one side that has it to the other."""
    if node.op_type not in ORT_PASSED_OPS or node.output[0] in wiring.outputs:
        return False
    return dequantized != _output_quantized(node, wiring)


def _mode(resize: onnx.NodeProto) -> str:
    return next((each.s.decode() for each in resize.attribute if each.name == "mode"), "nearest")


def _one_scale(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether `node` reads and writes integers of the same scale and zero point."""
    before = wiring.writer[node.input[0]]
    while before.op_type != "DequantizeLinear":
        before = wiring.writer[before.input[0]]
    behind = [reader for name in node.output for reader in wiring.readers.get(name, [])]
    return all(wiring.grid(reader) == wiring.grid(before) for reader in behind)


def _data_inputs(node: onnx.NodeProto, constants: set[str]) -> list[str]:
    """The inputs that carry values to compute with: activations, and a weighted operator's weights.

    Shapes, axes, sizes and clip bounds are constants and do not count; nor does a bias.
    """
    weights = {1} if node.op_type in WEIGHTED else set()
    first_only = {"Reshape", "Resize", "Split", "Slice", "Pad", "Clip", "Unsqueeze", "Squeeze", "Gather"}
    last = 1 if node.op_type in first_only else (2 if node.op_type in WEIGHTED else len(node.input))
    return [
        name
        for index, name in enumerate(node.input[:last])
        if name and (name not in constants or index in weights or node.op_type in {"Add", "Mul"})
    ]


def _output_quantized(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether every reader of the node's outputs is a QuantizeLinear, possibly behind a Relu or Clip."""
    for name in node.output:
        readers = wiring.readers.get(name, [])
        if name in wiring.outputs or not readers:
            return False
        for reader in readers:
            behind = reader.op_type in {"Relu", "Clip"} and _output_quantized(reader, wiring)
            if reader.op_type != "QuantizeLinear" and not behind:
                return False
    return True


def tensorrt_faults(quantized: onnx.ModelProto) -> list[str]:
    """What TensorRT's parser refuses in a Q/DQ file: int32 biases, unsigned types, zero points not 0.

    TensorRT takes explicit, symmetric, int8 Q/DQ only (TensorRT developer guide, "Explicit Quantization").
    """
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in initializers(quantized).items()}
    faults = []
    for node in quantized.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        value = arrays.get(node.input[0])
        if node.op_type == "DequantizeLinear" and value is not None and value.dtype.name == "int32":
            faults.append(f"'{node.name}' dequantizes an int32 bias")
        zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.dtype.name != "int8":
            faults.append(f"'{node.name}' is not int8")
        elif zero.any():
            faults.append(f"'{node.name}' has a zero point other than 0")
    return faults
