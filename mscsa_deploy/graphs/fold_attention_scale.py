"""Constant factors folded into the weights they follow.

``c * (W x + b) = (c W) x + c b``; Reshape and Transpose between the layer and the factor move values without
changing them. Exact in real arithmetic; in float32 each weight is rounded once more. This is where the
``1 / sqrt(d)`` of attention goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    only_feeds,
    output,
    producer,
    replace,
    scalar_constant,
    set_weights,
    source,
    weights,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from mscsa_deploy.graphs.build import Builder


class FoldAttentionScale(LocalPass):
    """Removes multiplications by a number right behind a Conv, Gemm or MatMul with constant weights."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Scale the layer's weights and drop the Mul or Div."""
        if node.op_type not in ("Mul", "Div") or node.domain != "":
            return False
        factor, index = scalar_constant(node.inputs[1]), 0
        if factor is None and node.op_type == "Mul":
            factor, index = scalar_constant(node.inputs[0]), 1
        if factor is None or factor == 0 or output(node).is_graph_output():
            return False
        factor = 1 / factor if node.op_type == "Div" else factor
        value, reader = source(node, index), node
        while (step := producer(value, "Reshape", "Transpose")) is not None and only_feeds(value, reader):
            value, reader = source(step), step
        if not only_feeds(value, reader) or not _scale(value, factor, b):
            return False
        replace(output(node), source(node, index))
        return True


def _scale(value: ir.Value, factor: float, b: Builder) -> bool:
    """Multiply what makes `value` by `factor`, if it is a layer; whether it was."""
    layer = value.producer()
    if layer is None:
        return False
    held = weights(layer)
    if held is not None:
        set_weights(layer, held[0] * np.float64(factor), held[1] * np.float64(factor), b)
        return True
    if layer.op_type == "MatMul" and constant(layer.inputs[1]) is not None:
        _scale_input(layer, 1, factor, b)
        return True
    if layer.op_type == "Add":
        for bias, linear in ((0, 1), (1, 0)):
            if constant(layer.inputs[bias]) is not None and only_feeds(source(layer, linear), layer):
                if _scale(source(layer, linear), factor, b):
                    _scale_input(layer, bias, factor, b)
                    return True
                return False
    return False


def _scale_input(node: ir.Node, index: int, factor: float, b: Builder) -> None:
    held = constant(node.inputs[index])
    assert held is not None
    node.replace_input_with(index, b.constant((held * np.float64(factor)).astype(held.dtype)))
