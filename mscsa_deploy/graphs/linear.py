"""Linear layers on tokens, in whichever form the graph writes them, and their two other forms.

A linear layer on tokens (N, T, C) is ``x W^T + b``. The simplifier writes it as Gemm between two Reshapes,
a plain trace as MatMul and Add. As a 1x1 convolution on (N, C, h, w) it is the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    dims,
    only_feeds,
    output,
    producer,
    replace,
    source,
    weights,
)

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.graphs.build import Builder


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer on tokens.

    Args:
        tokens: Its input (N, T, C).
        weight: (outputs, C).
        bias: (outputs,).
    """

    tokens: ir.Value
    weight: Array
    bias: Array

    def as_conv(self, b: Builder, x: ir.Value) -> ir.Value:
        """The same layer on the map `x` (N, C, h, w)."""
        made = b.op("Conv", x, self.weight[:, :, None, None], self.bias, kernel_shape=[1, 1])
        shape = dims(x)
        made.type = x.type
        if shape is not None:
            made.shape = static((shape[0], len(self.bias), *shape[2:]))
        return made


def linear_of(value: ir.Value) -> Linear | None:
    """The linear layer whose output tokens (N, T, outputs) `value` is, if it is one."""
    return _of_gemm(value) or _of_matmul(value)


def _of_gemm(value: ir.Value) -> Linear | None:
    outer = producer(value, "Reshape")
    gemm = producer(source(outer), "Gemm") if outer is not None else None
    inner = producer(source(gemm), "Reshape") if gemm is not None else None
    if outer is None or gemm is None or inner is None or not only_feeds(source(outer), outer):
        return None
    held, tokens, result = weights(gemm), source(inner), dims(value)
    before = dims(tokens)
    if held is None or before is None or result is None or len(before) != 3 or len(result) != 3:
        return None
    if before[1] != result[1] or before[2] != held[0].shape[1] or result[2] != held[0].shape[0]:
        return None
    return Linear(tokens, *held)


def _of_matmul(value: ir.Value) -> Linear | None:
    add, product = producer(value, "Add"), producer(value, "MatMul")
    bias = None
    if add is not None:
        for index in (0, 1):
            bias = constant(add.inputs[index])
            product = producer(add.inputs[1 - index], "MatMul")
            if bias is not None and product is not None:
                break
    weight = constant(product.inputs[1]) if product is not None else None
    if product is None or weight is None or weight.ndim != 2 or len(dims(source(product)) or ()) != 3:
        return None
    if add is not None and (bias is None or bias.size != weight.shape[1]):
        return None
    numbers = np.zeros(weight.shape[1], weight.dtype) if bias is None else bias.reshape(-1)
    return Linear(source(product), np.ascontiguousarray(weight.T), numbers)


class GemmToMatMul(LocalPass):
    """Rewrites Gemm between two Reshapes as MatMul and Add on the tokens themselves."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match at the outer Reshape."""
        layer = _of_gemm(output(node)) if node.op_type == "Reshape" else None
        if layer is None:
            return False
        product = b.op("MatMul", layer.tokens, np.ascontiguousarray(layer.weight.T))
        replace(output(node), b.op("Add", product, layer.bias))
        return True


def static(sizes: tuple[int, ...]) -> ir.Shape:
    """A shape; -1 is a free axis."""
    return ir.Shape([None if size == -1 else size for size in sizes])
