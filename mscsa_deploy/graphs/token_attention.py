"""Attention on tokens as attention on maps.

PVTv2 projects tokens (N, T, C), cuts them into heads (N, T, heads, d) and transposes to (N, heads, T, d). With
the projections as 1x1 convolutions on maps (N, C, h, w) the heads are contiguous, (N, heads, d, T), without
any transposition, and the products are ``(Q^T K)`` and ``V P^T``: transposed reads, which matrix products do
for free. Exact: the same products are summed, possibly in another order.

It pays where convolutions run on maps anyway, that is together with `MlpToConvs` and `PermuteMaps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mscsa_deploy.graphs.build import ints
from mscsa_deploy.graphs.linear import Linear, linear_of, static
from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    dims,
    only_feeds,
    output,
    producer,
    replace,
    sole_user,
    source,
    weights,
)
from mscsa_deploy.graphs.token_layout import to_map, to_tokens

if TYPE_CHECKING:
    import onnx_ir as ir

    from mscsa_deploy.graphs.build import Builder

# How far up the graph the map behind some tokens is looked for; a block of PVTv2 is about 12 nodes long.
REACH = 400


@dataclass(frozen=True, slots=True)
class TokenAttention:
    """The parts of one attention on tokens.

    Args:
        query: Projection of the queries.
        key_value: Projection of keys (first half of the outputs) and values.
        out: Projection of the result.
        heads: Attention heads.
        width: Of a head.
        end: The tokens that come out of `out`.
    """

    query: Linear
    key_value: Linear
    out: Linear
    heads: int
    width: int
    end: ir.Value


class AttentionToConvs(LocalPass):
    """Rewrites attention on tokens, with its linear layers, as attention on maps."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match around the Softmax of attention."""
        if node.op_type != "Softmax" or node.domain != "" or node.attributes.get_int("axis", -1) not in (-1, 3):
            return False
        found = _around(node)
        if found is None:
            return False
        grid, coarse = grid_of(found.query.tokens), grid_of(found.key_value.tokens)
        if grid is None or coarse is None:
            return False
        _build(b, found, grid, coarse)
        return True


def _build(b: Builder, found: TokenAttention, grid: tuple[int, int], coarse: tuple[int, int]) -> None:
    heads, width, channels = found.heads, found.width, found.heads * found.width
    count, keys = grid[0] * grid[1], coarse[0] * coarse[1]
    x = to_map(b, found.query.tokens, grid)
    same = found.query.tokens is found.key_value.tokens
    y = x if same else to_map(b, found.key_value.tokens, coarse)
    query = b.op("Reshape", found.query.as_conv(b, x), ints(0, heads, width, count))
    halves = b.many("Split", 2, found.key_value.as_conv(b, y), ints(channels, channels), axis=1)
    key, value = (b.op("Reshape", half, ints(0, heads, width, keys)) for half in halves)
    scores = b.op("MatMul", b.op("Transpose", query, perm=[0, 1, 3, 2]), key)
    shares = b.op("Softmax", scores, axis=-1)
    mixed = b.op("MatMul", value, b.op("Transpose", shares, perm=[0, 1, 3, 2]))
    z = b.op("Reshape", mixed, ints(0, channels, *grid))
    z.type, z.shape = x.type, static(((dims(x) or (-1,))[0], channels, *grid))
    replace(found.end, to_tokens(b, found.out.as_conv(b, z)))


def _around(softmax: ir.Node) -> TokenAttention | None:
    scores, mix = producer(source(softmax), "MatMul"), sole_user(output(softmax), "MatMul")
    if scores is None or mix is None or source(mix) is not output(softmax):
        return None
    query = _heads(source(scores), [0, 2, 1, 3])
    key, value = _heads(source(scores, 1), [0, 2, 3, 1]), _heads(source(mix, 1), [0, 2, 1, 3])
    shape = dims(source(scores))
    if query is None or key is None or value is None or shape is None:
        return None
    heads, width = shape[1], shape[3]
    layer, both = linear_of(query), _halves(key, value, heads * width)
    end = _projected(mix, heads * width)
    if layer is None or both is None or end is None or len(layer.bias) != heads * width:
        return None
    return TokenAttention(layer, both, end[0], heads, width, end[1])


def _heads(value: ir.Value, order: list[int]) -> ir.Value | None:
    """The tokens (N, T, heads * d) that `value` is, cut into heads and transposed by `order`."""
    turn = producer(value, "Transpose")
    if turn is None or list(turn.attributes.get_ints("perm", [])) != order:
        return None
    reshape = producer(source(turn), "Reshape")
    tokens = source(reshape) if reshape is not None else None
    before, after = dims(tokens), dims(source(turn))
    if before is None or after is None or len(before) != 3 or len(after) != 4:
        return None
    return tokens if before[1:] == (after[1], after[2] * after[3]) else None


def _halves(key: ir.Value, value: ir.Value, channels: int) -> Linear | None:
    """The projection whose first half of channels is `key` and whose second is `value`."""
    first, second = _part(key), _part(value)
    if first is None or second is None or first[0] is not second[0]:
        return None
    if (first[1], second[1]) != (0, channels) or {(dims(each) or (0,))[-1] for each in (key, value)} != {channels}:
        return None
    layer = linear_of(first[0])
    return layer if layer is not None and len(layer.bias) == 2 * channels else None


def _part(value: ir.Value) -> tuple[ir.Value, int] | None:
    """What `value` is a piece of along the last of three axes, and where the piece starts."""
    node = producer(value, "Slice", "Split")
    if node is None:
        return None
    if node.op_type == "Split":
        if node.attributes.get_int("axis", 0) not in (-1, 2):
            return None
        sizes = [(dims(part) or (0,))[-1] for part in node.outputs]
        return source(node), sum(sizes[: list(node.outputs).index(value)])
    start, axes = constant(node.inputs[1]), constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if start is None or start.size != 1 or axes is None or axes.tolist() not in ([2], [-1]):
        return None
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    return None if steps is not None and steps.tolist() != [1] else (source(node), int(start.reshape(-1)[0]))


def _projected(mix: ir.Node, channels: int) -> tuple[Linear, ir.Value] | None:
    """The projection of the heads put back together, and the tokens it gives."""
    turn = sole_user(output(mix), "Transpose")
    if turn is None or list(turn.attributes.get_ints("perm", [])) != [0, 2, 1, 3]:
        return None
    reshape = sole_user(output(turn), "Reshape")
    following = sole_user(output(reshape), "Gemm", "MatMul", "Reshape") if reshape is not None else None
    if following is not None and following.op_type == "Reshape":
        following = sole_user(output(following), "Gemm")
    last = sole_user(output(following), "Reshape", "Add") if following is not None else None
    if reshape is None or following is None or last is None:
        return None
    end, shape = output(last), dims(output(last))
    if shape is None or len(shape) != 3 or shape[2] != channels:
        return None
    if following.op_type == "MatMul":
        layer = linear_of(end)
        return None if layer is None or layer.weight.shape[1] != channels else (layer, end)
    held = weights(following)
    if held is None or held[0].shape != (channels, channels) or not only_feeds(output(following), last):
        return None
    return Linear(output(reshape), *held), end


def grid_of(tokens: ir.Value) -> tuple[int, int] | None:
    """Height and width of the map that `tokens` (N, h*w, C) were made from."""
    shape = dims(tokens)
    value: ir.Value | None = tokens
    for _ in range(REACH):
        node = value.producer() if value is not None else None
        if node is None or shape is None:
            return None
        size = dims(source(node)) if node.inputs and node.inputs[0] is not None else None
        if node.op_type in ("Reshape", "Transpose") and size is not None and len(size) == 4:
            grid = _grid(node, size)
            if grid is not None:
                return grid if grid[0] * grid[1] == shape[1] else None
        value = source(node) if node.inputs else None
    return None


def _grid(node: ir.Node, size: tuple[int, ...]) -> tuple[int, int] | None:
    """The map's size where `node` flattens it: (N, C, h, w) or, after its Transpose, (N, h, w, C)."""
    after = dims(output(node))
    if node.op_type != "Reshape" or after is None or len(after) != 3 or -1 in size[1:]:
        return None
    if after[1] == size[1]:
        return size[2], size[3]
    return (size[1], size[2]) if after[2] == size[3] else None
