"""What graph passes share: a sweep over nodes, reading constants, and questions about who uses what."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mscsa_deploy.graphs.build import Builder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mscsa_deploy.core.tensors import Array


class LocalPass(ir.passes.InPlacePass):
    """A pass that rewrites around one node at a time, until no node of the main graph matches any more."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sweep over the main graph until nothing changes."""
        modified = False
        while self._sweep(model):
            modified = True
        if modified:
            # A pass may build nodes late in the graph that earlier ones read.
            model.graph.sort()
        return ir.passes.PassResult(model, modified=modified)

    def _sweep(self, model: ir.Model) -> bool:
        b = Builder(model.graph, type(self).__name__.lower())
        changed = False
        for node in list(model.graph):
            if node.graph is not None and self.rewrite(node, b.at(node)):
                changed = True
        return changed

    @abstractmethod
    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Rewrite around `node` if it matches; whether it did. `b` builds right before `node`."""


def constant(value: ir.Value | None) -> Array | None:
    """The value's content if it is an initializer or comes from a Constant node."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def scalar_constant(value: ir.Value | None) -> float | None:
    """The number that `value` is, if it is a constant of one element."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape with -1 for a free axis; None if the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)


def producer(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that makes `value`, if it is one of `kinds` in the standard domain."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in kinds else None


def users(value: ir.Value) -> list[tuple[ir.Node, int]] | None:
    """Every (node, input index) that reads `value`; None if it is also a graph output."""
    return None if value.is_graph_output() else [(use.node, use.idx) for use in value.uses()]


def sole_user(value: ir.Value, *kinds: str) -> ir.Node | None:
    """The only reader of `value`, if there is one, it is of `kinds`, and `value` is no graph output."""
    found = users(value)
    if found is None or len(found) != 1:
        return None
    node = found[0][0]
    return node if node.domain == "" and (not kinds or node.op_type in kinds) else None


def only_feeds(value: ir.Value, node: ir.Node) -> bool:
    """Whether `node` is all that reads `value`."""
    return sole_user(value) is node


def output(node: ir.Node) -> ir.Value:
    """The first output."""
    return node.outputs[0]


def source(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that must be there."""
    value = node.inputs[index]
    assert value is not None
    return value


def weights(node: ir.Node) -> tuple[Array, Array] | None:
    """Constant weight and bias (zeros if absent) of a Conv, or of a Gemm as (outputs, inputs); else None.

    A Gemm counts only with transA = 0 and alpha = beta = 1.
    """
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None:
        return None
    if node.op_type == "Gemm":
        plain = node.attributes.get_int("transA", 0) == 0
        plain &= node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
        if not plain:
            return None
        weight = weight if node.attributes.get_int("transB", 0) else weight.T
    elif node.op_type != "Conv":
        return None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return weight, np.zeros(weight.shape[0], weight.dtype)
    bias = constant(node.inputs[2])
    return None if bias is None or bias.shape != (weight.shape[0],) else (weight, bias)


def set_weights(node: ir.Node, weight: Array, bias: Array, b: Builder) -> None:
    """Give a Conv or Gemm new constants, laid out as `weights` returns them; shared ones stay as they are."""
    if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0):
        weight = weight.T
    kind = source(node, 1).dtype
    assert kind is not None
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(1, b.constant(weight.astype(kind.numpy())))
    node.replace_input_with(2, b.constant(bias.astype(kind.numpy())))


def conv_pads(conv: ir.Node) -> tuple[int, ...] | None:
    """The four pads of a 2-D Conv without auto_pad; None for any other."""
    if conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    weight = constant(conv.inputs[1])
    if weight is None or weight.ndim != 4:
        return None
    return tuple(conv.attributes.get_ints("pads", [0, 0, 0, 0]))


def is_pointwise(node: ir.Node | None) -> bool:
    """Whether `node` is a dense 1x1 Conv of stride 1 without padding and with constant weights."""
    if node is None or node.op_type != "Conv" or weights(node) is None or conv_pads(node) != (0, 0, 0, 0):
        return False
    weight = constant(node.inputs[1])
    assert weight is not None
    strides = tuple(node.attributes.get_ints("strides", [1, 1]))
    return weight.shape[2:] == (1, 1) and strides == (1, 1) and node.attributes.get_int("group", 1) == 1


def is_depthwise(node: ir.Node | None) -> bool:
    """Whether `node` is a 2-D Conv with constant weights that keeps channels apart, one filter each."""
    if node is None or node.op_type != "Conv" or weights(node) is None or conv_pads(node) is None:
        return False
    weight = constant(node.inputs[1])
    assert weight is not None
    return bool(weight.shape[1] == 1) and node.attributes.get_int("group", 1) == weight.shape[0]


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads `old` read `new`; a graph output keeps its name, type and shape.

    What made `old` is removed, and what only that needed.
    """
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    was_output, name = old.is_graph_output(), old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    remove_unused([old])
    if was_output:
        new.name = name


def remove_unused(values: Iterable[ir.Value | None]) -> None:
    """Remove the makers of those `values` that nobody reads, and so on up the graph."""
    queue = list(values)
    while queue:
        value = queue.pop()
        node = value.producer() if value is not None else None
        if node is None or node.graph is None:
            continue
        if any(each.uses() or each.is_graph_output() for each in node.outputs):
            continue
        queue.extend(node.inputs)
        node.graph.remove(node, safe=True)
