"""Attention without transposing its output.

``(A B^T)^T = B A^T``: where the product of weights and values is transposed to put channels before tokens,
the values already lie that way, and only the weights are read transposed, which matrix products do for free
(ONNX Runtime and OpenVINO both fuse a Transpose of the last two axes into MatMul). Exact: the same products
are summed, possibly in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mscsa_deploy.graphs.match import LocalPass, dims, output, producer, replace, sole_user, source

if TYPE_CHECKING:
    from mscsa_deploy.graphs.build import Builder


class FlipMatMulTranspose(LocalPass):
    """Rewrites ``Transpose(MatMul(A, Transpose(B)))`` as ``MatMul(B, Transpose(A))``."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Flip the product whose output is transposed."""
        if not swaps_last(node):
            return False
        product = producer(source(node), "MatMul")
        if product is None or sole_user(source(node)) is not node:
            return False
        right = producer(product.inputs[1], "Transpose")
        if right is None or not swaps_last(right):
            return False
        left = source(product)
        rank = len(dims(output(node)) or ())
        flipped = b.op("Transpose", left, perm=[*range(rank - 2), rank - 1, rank - 2])
        flipped.type, shape = left.type, dims(left)
        if shape is not None and -1 not in shape:
            flipped.shape = ir.Shape((*shape[:-2], shape[-1], shape[-2]))
        replace(output(node), b.op("MatMul", source(right), flipped))
        return True


def swaps_last(node: ir.Node) -> bool:
    """Whether `node` is a Transpose of exactly the last two axes."""
    if node.op_type != "Transpose" or node.domain != "":
        return False
    order = list(node.attributes.get_ints("perm", []))
    rank = len(order)
    return rank >= 2 and order == [*range(rank - 2), rank - 1, rank - 2]
