"""The projections of multi-scale attention as one convolution per scale.

Queries, keys and values of cross-scale attention are 1x1 convolutions of the same maps, so their rows can be
stacked: ``[Wq; Wk; Wv] x = [Wq x; Wk x; Wv x]``. At full size queries, keys and values become one
convolution, at every coarser size keys and values do. Keys and values of all scales then lie side by side
along the token axis in one tensor and are told apart once, at its end:

    before   q, k0, v0, k1, v1, ... : one convolution and one reshape each; two concatenations
    after    (q, k0 v0), k1 v1, ... : one convolution each; one concatenation; one split

A constant map that was added to a projection (see ``fold_batch_norm``) is moved behind the concatenation,
where those of all scales are one addition. Exact: every output is the same sum of the same products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mscsa_deploy.graphs.build import ints
from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    dims,
    is_pointwise,
    only_feeds,
    output,
    producer,
    remove_unused,
    replace,
    sole_user,
    source,
    weights,
)

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.graphs.build import Builder


@dataclass(frozen=True, slots=True)
class Projection:
    """One 1x1 convolution whose output becomes tokens.

    Args:
        conv: The convolution.
        extra: Constant map (1, C, h, w) added to it, if any.
        end: Its output, or the addition's.
        tokens: h * w.
    """

    conv: ir.Node
    extra: Array | None
    end: ir.Value
    tokens: int


class MergeProjections(LocalPass):
    """Merges the query, key and value convolutions of attention over one or more scales."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match around the Softmax of attention."""
        if node.op_type != "Softmax" or node.domain != "":
            return False
        found = _around(node)
        if found is None:
            return False
        query, keys, values, key_end, value_end = found
        if not _fit(query, keys, values):
            return False
        _merge(b, query, keys, values, (key_end, value_end))
        return True


def _around(softmax: ir.Node) -> tuple[Projection, list[Projection], list[Projection], ir.Value, ir.Value] | None:
    """Query, keys and values of the attention around `softmax`, and the tensors of all keys and all values."""
    scores = producer(source(softmax), "MatMul")
    mix = sole_user(output(softmax))
    if mix is not None and mix.op_type == "Transpose":
        mix = sole_user(output(mix))
    turned = producer(scores.inputs[0], "Transpose") if scores is not None else None
    if scores is None or turned is None or mix is None or mix.op_type != "MatMul":
        return None
    value_end = source(mix, 0)
    if source(mix, 0) is output(softmax):
        value_end = source(mix, 1)
        back = producer(value_end, "Transpose")
        if back is None:
            return None
        value_end = source(back)
    query, keys, values = _tokens(source(turned)), _tokens(source(scores, 1)), _tokens(value_end)
    if query is None or keys is None or values is None or len(query) != 1:
        return None
    return query[0], keys, values, source(scores, 1), value_end


def _tokens(value: ir.Value) -> list[Projection] | None:
    """The projections behind reshaped tokens (N, heads, width, tokens), in the order of concatenation."""
    joined = producer(value, "Concat")
    parts = [value] if joined is None else [each for each in joined.inputs if each is not None]
    found = [_projection(part) for part in parts]
    return None if any(each is None for each in found) else [each for each in found if each is not None]


def _projection(value: ir.Value) -> Projection | None:
    reshape = producer(value, "Reshape")
    shape = dims(value)
    if reshape is None or shape is None or len(shape) != 4 or -1 in shape[1:]:
        return None
    end = source(reshape)
    add = producer(end, "Add")
    extra = constant(add.inputs[1]) if add is not None else None
    if add is not None and (extra is None or extra.ndim != 4 or not only_feeds(source(add), add)):
        return None
    conv = producer(source(add) if add is not None else end, "Conv")
    if conv is None or not is_pointwise(conv):
        return None
    return Projection(conv, extra, end, shape[3])


def _fit(query: Projection, keys: list[Projection], values: list[Projection]) -> bool:
    """Whether keys and values come in pairs from the same maps, the first from the query's."""
    if len(keys) != len(values) or query.extra is not None or keys[0].extra is not None:
        return False
    convs = [each.conv for each in (query, *keys, *values)]
    if len({id(conv) for conv in convs}) != len(convs) or values[0].extra is not None:
        return False
    pairs = zip(keys, values, strict=True)
    same = all(source(k.conv) is source(v.conv) and k.tokens == v.tokens for k, v in pairs)
    # Only the first values are read a second time, as a map, by the parallel convolution.
    alone = all(len(each.end.uses()) == 1 for each in (query, *keys, *values[1:]))
    return same and alone and source(query.conv) is source(keys[0].conv)


def _merge(
    b: Builder,
    query: Projection,
    keys: list[Projection],
    values: list[Projection],
    ends: tuple[ir.Value, ir.Value],
) -> None:
    _, heads, key_width, total = dims(ends[0]) or ()
    value_width = (dims(ends[1]) or ())[2]
    key_rows, value_rows = heads * key_width, heads * value_width
    first = _stacked(b, [query.conv, keys[0].conv, values[0].conv])
    if len(keys) == 1:
        pieces = b.many("Split", 3, first, ints(_rows(query), key_rows, value_rows), axis=1)
        for one, piece in zip((query, keys[0], values[0]), pieces, strict=True):
            replace(one.end, _like(piece, one.end))
        return
    q, kv = b.many("Split", 2, first, ints(_rows(query), key_rows + value_rows), axis=1)
    parts = [kv, *(_stacked(b, [k.conv, v.conv]) for k, v in zip(keys[1:], values[1:], strict=True))]
    rows = key_rows + value_rows
    flat = [b.op("Reshape", part, ints(0, rows, key.tokens)) for part, key in zip(parts, keys, strict=True)]
    joined = flat[0] if len(flat) == 1 else b.op("Concat", *flat, axis=2)
    if any(each.extra is not None for each in (*keys, *values)):
        joined = b.op("Add", joined, _extra(keys, values))
    k, v = b.many("Split", 2, joined, ints(key_rows, value_rows), axis=1)
    if len(values[0].end.uses()) > 1:
        _replace_map(b, values[0], kv, key_rows)
    old = [query.end, *ends]
    replace(query.end, _like(q, query.end))
    replace(ends[0], b.op("Reshape", k, ints(0, heads, key_width, total)))
    replace(ends[1], b.op("Reshape", v, ints(0, heads, value_width, total)))
    remove_unused(old)


def _stacked(b: Builder, convs: list[ir.Node]) -> ir.Value:
    """One convolution with the rows of all `convs`, which read the same map."""
    held = [weights(conv) for conv in convs]
    rows = np.concatenate([each[0] for each in held if each is not None])
    bias = np.concatenate([each[1] for each in held if each is not None])
    made = b.op("Conv", source(convs[0]), rows, bias, kernel_shape=[1, 1])
    shape = dims(output(convs[0]))
    made.type = output(convs[0]).type
    if shape is not None:
        made.shape = _shape((shape[0], len(rows), *shape[2:]))
    return made


def _rows(projection: Projection) -> int:
    held = weights(projection.conv)
    assert held is not None
    return len(held[1])


def _extra(keys: list[Projection], values: list[Projection]) -> Array:
    """(1, key rows + value rows, all tokens): the constant maps of every scale, zero where there is none."""
    columns = []
    for pair in zip(keys, values, strict=True):
        halves = [
            np.zeros((1, _rows(each), each.tokens), np.float32)
            if each.extra is None
            else np.broadcast_to(each.extra, (1, *each.extra.shape[1:])).reshape(1, -1, each.tokens)
            for each in pair
        ]
        columns.append(np.concatenate(halves, axis=1))
    return np.concatenate(columns, axis=2)


def _replace_map(b: Builder, value: Projection, kv: ir.Value, start: int) -> None:
    """Let those who read the first values as a map read them from the merged map."""
    reshapes = {id(use.node) for use in value.end.uses() if use.node.op_type == "Reshape"}
    part = b.op("Slice", kv, ints(start), ints(start + _rows(value)), ints(1))
    part.type, part.shape = value.end.type, value.end.shape
    for use in list(value.end.uses()):
        if id(use.node) not in reshapes:
            use.node.replace_input_with(use.idx, part)


def _like(value: ir.Value, model: ir.Value) -> ir.Value:
    value.type, value.shape = model.type, model.shape
    return value


def _shape(sizes: tuple[int, ...]) -> ir.Shape:
    return ir.Shape([None if size == -1 else size for size in sizes])
