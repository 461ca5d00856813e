"""Tokens and maps: how PVTv2's stream is laid out between its convolutions.

Tokens (N, h*w, C) and a map (N, C, h, w) hold the same numbers in another order, so everything here is exact:
values are moved, never changed, and a linear layer on tokens is a 1x1 convolution on the map.

Three passes, of which a runtime takes those that help it:

- `MlpToConvs`: an MLP with a depthwise convolution inside becomes three convolutions on one map. The tokens
  are transposed where they have C channels instead of twice where they have 8 C.
- `PermuteMaps`: tokens to map is written as Reshape to (N, h, w, C) and one Transpose (and back likewise),
  which ONNX Runtime folds into the reordering that its blocked convolutions do anyway.
- `SinkTokenReshape`: Reshape from (N, h, w, C) to tokens moves behind normalization and addition, which do
  not care, until it meets its opposite and both vanish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from mscsa_deploy.graphs.build import ints
from mscsa_deploy.graphs.linear import linear_of, static
from mscsa_deploy.graphs.match import (
    LocalPass,
    dims,
    is_depthwise,
    only_feeds,
    output,
    producer,
    replace,
    sole_user,
    source,
)

if TYPE_CHECKING:
    from mscsa_deploy.graphs.build import Builder

ACTIVATIONS = ("Gelu", "Relu", "HardSwish", "Clip")


class MlpToConvs(LocalPass):
    """Rewrites linear, depthwise convolution, activation, linear on tokens as three convolutions on a map."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match at the second linear layer."""
        second = linear_of(output(node)) if node.op_type in ("Reshape", "Add", "MatMul") else None
        activation = producer(second.tokens, *ACTIVATIONS) if second is not None else None
        if second is None or activation is None or not _single(second.tokens):
            return False
        depthwise = _map_behind(source(activation))
        if depthwise is None or not is_depthwise(depthwise.producer()):
            return False
        conv = depthwise.producer()
        assert conv is not None
        hidden = _tokens_before(source(conv))
        first = linear_of(hidden) if hidden is not None else None
        size = dims(source(conv))
        alone = only_feeds(depthwise, _reader(depthwise)) and _single(source(conv))
        if first is None or size is None or -1 in size[1:] or dims(depthwise) != size or not alone:
            return False
        x = to_map(b, first.tokens, (size[2], size[3]))
        y = first.as_conv(b, x)
        y = b.op("Conv", y, *conv.inputs[1:], **_plain(conv))
        y.type, y.shape = depthwise.type, depthwise.shape
        y = b.op(activation.op_type, y, *activation.inputs[1:], **_plain(activation))
        y.type, y.shape = depthwise.type, depthwise.shape
        replace(output(node), to_tokens(b, second.as_conv(b, y)))
        return True


class PermuteMaps(LocalPass):
    """Rewrites token-to-map and map-to-token moves as one Transpose of four axes and a free Reshape."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match at the last of the two nodes of either move."""
        tokens = _tokens_before(output(node)) if node.op_type == "Reshape" else None
        size = dims(output(node))
        if tokens is not None and size is not None:
            channels_last = b.op("Reshape", tokens, ints(0, size[2], size[3], size[1]))
            channels_last.type, channels_last.shape = tokens.type, static((size[0], *size[2:], size[1]))
            made = b.op("Transpose", channels_last, perm=[0, 3, 1, 2])
            replace(output(node), made)
            return True
        x = _map_behind(output(node)) if node.op_type == "Transpose" else None
        size = dims(x)
        if x is None or size is None or -1 in size[1:]:
            return False
        channels_last = b.op("Transpose", x, perm=[0, 2, 3, 1])
        channels_last.type, channels_last.shape = x.type, static((size[0], *size[2:], size[1]))
        replace(output(node), b.op("Reshape", channels_last, ints(0, size[2] * size[3], size[1])))
        return True


class SinkTokenReshape(LocalPass):
    """Moves Reshape from (N, h, w, C) to tokens behind LayerNormalization and Add, and drops it at its end."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match at the node behind the Reshape."""
        if node.op_type == "Reshape":
            return _cancel(node)
        if node.op_type == "LayerNormalization":
            wide = _wide(source(node)) if node.attributes.get_int("axis", -1) in (-1, 2) else None
            others = node.inputs[1:]
            sources = [wide]
        elif node.op_type == "Add":
            sources, others = [_wide(value) for value in node.inputs], []
        else:
            return False
        first = sources[0]
        if first is None or any(each is None or dims(each) != dims(first) for each in sources):
            return False
        attributes = {**_plain(node), "axis": -1} if node.op_type == "LayerNormalization" else {}
        made = b.op(node.op_type, *sources, *others, **attributes)
        made.type, made.shape = first.type, first.shape
        shape = dims(first) or ()
        replace(output(node), b.op("Reshape", made, ints(0, shape[1] * shape[2], shape[3])))
        return True


def _cancel(node: ir.Node) -> bool:
    """Drop a Reshape to (N, h, w, C) right behind the one from that shape."""
    wide, shape = _wide(source(node)), dims(output(node))
    if wide is None or shape is None or dims(wide) != shape or output(node).is_graph_output():
        return False
    replace(output(node), wide)
    return True


def _wide(value: ir.Value | None) -> ir.Value | None:
    """The (N, h, w, C) value whose tokens `value` is."""
    reshape = producer(value, "Reshape")
    if reshape is None:
        return None
    before, after = dims(source(reshape)), dims(value)
    if before is None or after is None or len(before) != 4 or len(after) != 3 or -1 in before[1:]:
        return None
    fits = after[0] == before[0] and after[1:] == (before[1] * before[2], before[3])
    return source(reshape) if fits else None


def to_map(b: Builder, tokens: ir.Value, size: tuple[int, int]) -> ir.Value:
    """Tokens (N, h*w, C) as a map (N, C, h, w)."""
    batch, count, channels = dims(tokens) or ()
    turned = b.op("Transpose", tokens, perm=[0, 2, 1])
    turned.type, turned.shape = tokens.type, static((batch, channels, count))
    made = b.op("Reshape", turned, ints(0, channels, *size))
    made.type, made.shape = tokens.type, static((batch, channels, *size))
    return made


def to_tokens(b: Builder, x: ir.Value) -> ir.Value:
    """A map (N, C, h, w) as tokens (N, h*w, C)."""
    batch, channels, height, width = dims(x) or ()
    flat = b.op("Reshape", x, ints(0, channels, height * width))
    flat.type, flat.shape = x.type, static((batch, channels, height * width))
    made = b.op("Transpose", flat, perm=[0, 2, 1])
    made.type, made.shape = x.type, static((batch, height * width, channels))
    return made


def _tokens_before(value: ir.Value) -> ir.Value | None:
    """The tokens that are moved into the map `value` (N, C, h, w) by Transpose and Reshape."""
    reshape = producer(value, "Reshape")
    turn = producer(source(reshape), "Transpose") if reshape is not None else None
    if turn is None or list(turn.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    after, tokens = dims(value), dims(source(turn))
    if after is None or tokens is None or len(after) != 4 or len(tokens) != 3 or -1 in after[1:]:
        return None
    return source(turn) if tokens[1:] == (after[2] * after[3], after[1]) else None


def _map_behind(value: ir.Value) -> ir.Value | None:
    """The map (N, C, h, w) whose tokens `value` is, moved by Reshape and Transpose."""
    turn = producer(value, "Transpose")
    if turn is None or list(turn.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    reshape = producer(source(turn), "Reshape")
    x, flat = (source(reshape), dims(source(turn))) if reshape is not None else (None, None)
    size = dims(x)
    if x is None or size is None or flat is None or len(size) != 4 or len(flat) != 3:
        return None
    return x if flat[1] == size[1] and flat[2] in (-1, size[2] * size[3]) else None


def _reader(value: ir.Value) -> ir.Node:
    return next(iter(value.uses())).node


def _single(value: ir.Value) -> bool:
    return sole_user(value) is not None


def _plain(node: ir.Node) -> dict[str, ir.Attr]:
    """The attributes as a new node takes them."""
    return {name: attribute.value for name, attribute in node.attributes.items()}
