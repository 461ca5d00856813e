"""Half precision: float16 weights and arithmetic between float32 inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, ShapeInferencePass

from mscsa_deploy.graphs.check import STANDARD_DOMAINS
from mscsa_deploy.graphs.opset import opset_of

if TYPE_CHECKING:
    from collections.abc import Collection

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

# Ops whose float type is a setting rather than that of their inputs, or that have no float16 form.
_STAY_FLOAT = frozenset(
    {
        "Bernoulli", "CumSum", "EyeLike", "Multinomial", "NonMaxSuppression", "RandomNormal",
        "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "RoiAlign", "SequenceEmpty", "Upsample",
    }
)  # fmt: skip
# Inputs that are float32 by definition: the region and the scales of Resize.
_FLOAT_INPUTS = {"Resize": (1, 2)}
_QUANTIZE = ("QuantizeLinear", "DequantizeLinear")
# Before this opset the scales of Q/DQ nodes are float32 only.
_HALF_SCALES_OPSET = 19


class ToHalf(ir.passes.InPlacePass):
    """Makes nodes compute in float16, with Casts where they meet what stays float32.

    The inputs and outputs of the graph keep their types. Nodes with subgraphs (If, Loop) stay float32, as do
    their bodies. Values out of float16's range become infinite: name the nodes around them in `keep`.

    Args:
        keep: Names of the nodes that stay float32.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        self.keep = frozenset(keep)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert the main graph."""
        NameFixPass()(model)
        ShapeInferencePass()(model)
        graph = model.graph
        scales = opset_of(model) >= _HALF_SCALES_OPSET
        halves = {node for node in graph if self._converts(node, scales=scales)}
        # What is float16 already marks a model that has been converted before.
        if not halves or any(value.dtype == HALF for node in graph for value in node.outputs):
            return ir.passes.PassResult(model, modified=False)
        for node in halves:
            _retype(node)
        _Joints(graph, halves).join()
        _restore_outputs(graph)
        return ir.passes.PassResult(model, modified=True)

    def _converts(self, node: ir.Node, *, scales: bool) -> bool:
        if node.domain not in STANDARD_DOMAINS or node.name in self.keep or node.op_type in _STAY_FLOAT:
            return False
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            return False
        return scales or node.op_type not in _QUANTIZE


def _retype(node: ir.Node) -> None:
    """Make the float32 outputs of `node` float16, and the attributes that say so."""
    for value in node.outputs:
        if value.dtype == FLOAT:
            value.dtype = HALF
    if node.op_type == "Cast" and node.attributes.get_int("to") == FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(HALF))
    tensor = node.attributes.get_tensor("value")
    if tensor is not None and tensor.dtype == FLOAT:
        node.attributes["value"] = ir.AttrTensor("value", _as_half(tensor))
    elif node.op_type == "ConstantOfShape" and tensor is None:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16)))
    for name in ("value_float", "value_floats"):
        if name in node.attributes:
            numbers = np.asarray(node.attributes[name].value, dtype=np.float16)
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(numbers))


def _as_half(tensor: ir.TensorProtocol, name: str | None = None) -> ir.TensorProtocol:
    with np.errstate(over="ignore"):
        return ir.Tensor(tensor.numpy().astype(np.float16), name=name or tensor.name)


class _Joints:
    """Puts a Cast (or another copy of a weight) wherever a node reads the other float type."""

    def __init__(self, graph: ir.Graph, halves: set[ir.Node]) -> None:
        self._graph = graph
        self._halves = halves
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def join(self) -> None:
        weights = [value for value in self._graph.initializers.values() if value.dtype == FLOAT]
        for weight in weights:
            self._convert_weight(weight)
        for node in list(ir.traversal.RecursiveGraphIterator(self._graph)):
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype not in (FLOAT, HALF):
                    continue
                wanted = self._wanted(node, index)
                if value.dtype != wanted and self._is_outer(value):
                    node.replace_input_with(index, self._copy(value, wanted))

    def _wanted(self, node: ir.Node, index: int) -> ir.DataType:
        half = node in self._halves and index not in _FLOAT_INPUTS.get(node.op_type, ())
        return HALF if half else FLOAT

    def _is_outer(self, value: ir.Value) -> bool:
        """Whether the value belongs to the main graph, not to a body of one of its nodes."""
        producer = value.producer()
        return value.graph is self._graph if producer is None else producer.graph is self._graph

    def _convert_weight(self, value: ir.Value) -> None:
        wanted = {self._wanted(use.node, use.idx) for use in value.uses()}
        if HALF not in wanted or value.const_value is None:
            return
        if wanted == {HALF} and not value.is_graph_output():
            value.const_value = _as_half(value.const_value, value.name)
            value.dtype = HALF
            return
        name = f"{value.name}_half"
        copy = ir.Value(
            name=name, type=ir.TensorType(HALF), shape=value.shape, const_value=_as_half(value.const_value, name)
        )
        self._graph.initializers.add(copy)
        self._made[value, HALF] = copy

    def _copy(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if (value, wanted) not in self._made:
            self._made[value, wanted] = _cast(self._graph, value, wanted)
        return self._made[value, wanted]


def _cast(graph: ir.Graph, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    name = f"{value.name}_{'half' if wanted == HALF else 'float'}"
    node = ir.node("Cast", [value], attributes={"to": int(wanted)}, name=f"{name}_cast")
    made = node.outputs[0]
    made.name, made.dtype, made.shape = name, wanted, value.shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph.node(0), node)
    else:
        graph.insert_after(producer, node)
    return made


def _restore_outputs(graph: ir.Graph) -> None:
    """Give outputs that became float16 their type back, under their own names."""
    for index, value in enumerate(graph.outputs):
        if value.dtype != HALF:
            continue
        name = value.name
        value.name = f"{name}_half"
        made = _cast(graph, value, FLOAT)
        made.name = name
        graph.outputs[index] = made
