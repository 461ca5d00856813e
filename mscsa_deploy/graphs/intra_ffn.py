"""The depthwise convolutions of Intra-FFN as one.

Intra-FFN runs one feed-forward per stage on its own channels: 1x1 convolution, depthwise convolution,
activation, 1x1 convolution. Depthwise convolution and activation treat every channel alone, so those of all
stages are one on the concatenated channels. Exact: the same operations on the same numbers.

The 1x1 convolutions stay per stage. As one convolution with a block-diagonal matrix they would be exact as
well, but do 3.5 times the work, and no runtime skips the zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mscsa_deploy.graphs.build import ints
from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    dims,
    is_depthwise,
    is_pointwise,
    output,
    producer,
    replace,
    sole_user,
    source,
    weights,
)

if TYPE_CHECKING:
    from mscsa_deploy.graphs.build import Builder

ACTIVATIONS = ("Clip", "Relu", "HardSwish", "Gelu")


class MergeStageDepthwise(LocalPass):
    """Merges the depthwise convolutions, and the activations behind them, of parallel feed-forwards."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match at the Concat of the branches."""
        if node.op_type != "Concat" or node.attributes.get_int("axis", 0) != 1 or len(node.inputs) < 2:
            return False
        branches = [_branch(value) for value in node.inputs]
        found = [each for each in branches if each is not None]
        if len(found) != len(branches) or len({_kind(conv, act) for _, conv, act, _ in found}) != 1:
            return False
        splits = {id(source(first).producer()) for first, *_ in found}
        if len(splits) != 1 or producer(source(found[0][0]), "Split") is None:
            return False
        _merge(b, node, found)
        return True


def _branch(value: ir.Value | None) -> tuple[ir.Node, ir.Node, ir.Node, ir.Node] | None:
    """First 1x1 convolution, depthwise convolution, activation, last 1x1 convolution in front of `value`."""
    last = producer(value, "Conv")
    act = producer(source(last), *ACTIVATIONS) if last is not None else None
    conv = producer(source(act), "Conv") if act is not None else None
    first = producer(source(conv), "Conv") if conv is not None else None
    if last is None or act is None or conv is None or first is None:
        return None
    alone = all(sole_user(output(each)) is not None for each in (first, conv, act, last))
    return (first, conv, act, last) if alone and _fits(first, conv, last) else None


def _fits(first: ir.Node, conv: ir.Node, last: ir.Node) -> bool:
    return is_pointwise(first) and is_pointwise(last) and is_depthwise(conv)


def _kind(conv: ir.Node, act: ir.Node) -> tuple[object, ...]:
    """What must be the same for all branches; the channel counts need not."""
    held = weights(conv)
    assert held is not None
    limits = tuple(None if (c := constant(value)) is None else float(c) for value in act.inputs[1:])
    settings = {key: attr.value for key, attr in conv.attributes.items() if key != "group"}
    size = (dims(output(conv)) or ())[2:]
    activation = sorted((key, attr.value) for key, attr in act.attributes.items())
    return (held[0].shape[1:], str(sorted(settings.items())), size, act.op_type, limits, str(activation))


def _merge(b: Builder, concat: ir.Node, found: list[tuple[ir.Node, ir.Node, ir.Node, ir.Node]]) -> None:
    held = [weights(conv) for _, conv, _, _ in found]
    kernels = np.concatenate([each[0] for each in held if each is not None])
    biases = np.concatenate([each[1] for each in held if each is not None])
    settings = {key: attr.value for key, attr in found[0][1].attributes.items()}
    wide = b.op("Concat", *(output(first) for first, *_ in found), axis=1)
    wide = b.op("Conv", wide, kernels, biases, **{**settings, "group": len(biases)})
    act = found[0][2]
    wide = b.op(act.op_type, wide, *act.inputs[1:], **{key: each.value for key, each in act.attributes.items()})
    widths = [len(each[1]) for each in held if each is not None]
    parts = b.many("Split", len(widths), wide, ints(*widths), axis=1)
    outs = []
    for part, (_, _, branch_act, last) in zip(parts, found, strict=True):
        part.type, part.shape = output(branch_act).type, output(branch_act).shape
        made = b.op("Conv", part, *last.inputs[1:], **{key: each.value for key, each in last.attributes.items()})
        made.type, made.shape = output(last).type, output(last).shape
        outs.append(made)
    replace(output(concat), b.op("Concat", *outs, axis=1))
