"""Small passes that remove what does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable

# Op type -> (neutral constant, whether it may stand on the left as well).
_NEUTRAL = {"Add": (0.0, True), "Sub": (0.0, False), "Mul": (1.0, True), "Div": (1.0, False)}


class DropNoOp(ir.passes.InPlacePass):
    """Removes nodes whose output equals one of their inputs.

    These are: ``x + 0``, ``x - 0``, ``x * 1``, ``x / 1`` with a constant that does not widen the shape; Cast
    to the type it has; Transpose in the order it has; Reshape and Expand to the static shape it has; Concat
    of one input; Dropout outside training whose mask nobody reads. A node that makes a graph output stays,
    since the output's name is part of the signature.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Drop every such node of the main graph."""
        modified = False
        for node in list(model.graph):
            kept = _passed_on(node)
            if kept is None or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
                continue
            ir.convenience.replace_all_uses_with(node.outputs[0], kept)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _passed_on(node: ir.Node) -> ir.Value | None:
    """The input that `node` hands on unchanged, if it does."""
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return rule(node) if rule is not None and node.inputs and node.inputs[0] is not None else None


def _of_neutral(node: ir.Node) -> ir.Value | None:
    constant, commutes = _NEUTRAL[node.op_type]
    left, right = node.inputs
    if _is_constant(right, constant) and _same_shape(left, node.outputs[0]):
        return left
    if commutes and _is_constant(left, constant) and _same_shape(right, node.outputs[0]):
        return right
    return None


def _of_cast(node: ir.Node) -> ir.Value | None:
    value = node.inputs[0]
    assert value is not None
    return value if value.dtype is not None and node.attributes.get_int("to") == value.dtype else None


def _of_transpose(node: ir.Node) -> ir.Value | None:
    order = list(node.attributes.get_ints("perm", []))
    return node.inputs[0] if order and order == sorted(order) else None


def _of_reshape(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if _same_shape(node.inputs[0], node.outputs[0]) else None


def _of_concat(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _of_dropout(node: ir.Node) -> ir.Value | None:
    training = len(node.inputs) > 2 and node.inputs[2] is not None
    return None if training else node.inputs[0]


_RULES: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    **dict.fromkeys(_NEUTRAL, _of_neutral),
    "Cast": _of_cast,
    "Transpose": _of_transpose,
    "Reshape": _of_reshape,
    "Expand": _of_reshape,
    "Concat": _of_concat,
    "Dropout": _of_dropout,
}


def _is_constant(value: ir.Value | None, number: float) -> bool:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor is not None and bool((tensor.numpy() == number).all())


def _same_shape(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Whether both shapes are known, static and equal."""
    if first is None or second is None or first.shape is None or second.shape is None:
        return False
    return first.shape.is_static() and first.shape == second.shape
