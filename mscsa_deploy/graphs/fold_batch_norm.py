"""BatchNorm folded into the convolutions around it.

In inference BatchNorm is ``s * x + t`` per channel, with ``s = weight / sqrt(variance + eps)`` and
``t = bias - mean * s``. All of the following are exact in real arithmetic (float32: rounding only).

Backward, into a convolution or linear layer that only the norm reads: ``W' = s W``, ``b' = s b + t``.

Forward, into everything that reads the norm, which must all be able to take it:

- a convolution without padding or a linear layer: ``W' = W diag(s)``, ``b' = b + W t``;
- a zero-padded, strided depthwise convolution: ``W' = s W``. The shift cannot become a bias, because the zeros
  of the border are not shifted; it becomes the constant map ``conv(t everywhere, W)``, exact at the border.
  The map is passed on forward: a 1x1 convolution behind turns it into ``W map``, added to its output;
- Split over channels, average pooling that does not count padding, and spatial means commute with it.

A constant map is as cheap as the norm it replaces, and the norm it replaces stood on the larger map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.graphs.match import (
    LocalPass,
    constant,
    conv_pads,
    dims,
    is_depthwise,
    is_pointwise,
    only_feeds,
    output,
    producer,
    replace,
    set_weights,
    source,
    users,
    weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.graphs.build import Builder


@dataclass(frozen=True, slots=True)
class Affine:
    """``scale * x + shift``.

    Args:
        scale: (C,) float64.
        shift: (C, 1, 1), or (C, H, W) where it differs over the map; float64.
    """

    scale: Array
    shift: Array

    @property
    def per_channel(self) -> bool:
        """Whether the shift is one number per channel."""
        return self.shift.shape[1:] == (1, 1)


class FoldBatchNorm(LocalPass):
    """Removes BatchNormalization nodes whose scale and shift the neighboring convolutions can hold."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Fold backward if possible, else forward."""
        affine = batch_norm(node)
        if affine is None:
            return False
        before = producer(source(node), "Conv", "Gemm")
        if before is not None and only_feeds(source(node), node) and weights(before) is not None:
            _fold_backward(before, affine, b)
        elif _absorbed(output(node), affine, None):
            _absorbed(output(node), affine, b)
        else:
            return False
        replace(output(node), source(node))
        return True


def batch_norm(node: ir.Node) -> Affine | None:
    """What a BatchNormalization outside training does, if its numbers are constant and its output goes on."""
    if node.op_type != "BatchNormalization" or node.attributes.get_int("training_mode", 0) != 0:
        return None
    arrays = [constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays) or output(node).is_graph_output():
        return None
    weight, bias, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    scale = weight / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Affine(scale, (bias - mean * scale)[:, None, None])


def _fold_backward(node: ir.Node, affine: Affine, b: Builder) -> None:
    held = weights(node)
    assert held is not None
    weight, bias = (array.astype(np.float64) for array in held)
    scaled = weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    set_weights(node, scaled, bias * affine.scale + affine.shift.reshape(-1), b)


def _absorbed(value: ir.Value, affine: Affine, b: Builder | None) -> bool:
    """Whether all that reads `value` can take `affine` upon itself; done if there is a builder."""
    readers = users(value)
    if not readers:
        return False
    return all(index == 0 and _taken_by(node, affine, b) for node, index in readers)


def _taken_by(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    taker = _TAKERS.get(node.op_type) if node.domain == "" else None
    return taker is not None and taker(node, affine, b)


def _by_pool(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    padded = any(node.attributes.get_ints("pads", [0]))
    counted = node.attributes.get_int("count_include_pad", 0)
    ceiled = node.attributes.get_int("ceil_mode", 0)
    fits = affine.per_channel and not ceiled and not (padded and counted)
    return fits and _absorbed(output(node), affine, b)


def _by_mean(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    return _is_spatial_mean(node) and affine.per_channel and _absorbed(output(node), affine, b)


def _by_conv(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    if weights(node) is None or conv_pads(node) is None:
        return False
    if not any(conv_pads(node) or ()) and affine.per_channel:
        return _by_linear(node, affine, b)
    if is_pointwise(node):
        return _by_pointwise_with_map(node, affine, b)
    return _by_strided_depthwise(node, affine, b)


def _by_split(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    if node.attributes.get_int("axis", 0) != 1:
        return False
    sizes = [(dims(part) or (0, -1))[1] for part in node.outputs]
    if -1 in sizes:
        return False
    starts = np.cumsum([0, *sizes])
    for part, start, size in zip(node.outputs, starts, sizes, strict=False):
        piece = Affine(affine.scale[start : start + size], affine.shift[start : start + size])
        unread = not part.uses() and not part.is_graph_output()
        if not unread and not _absorbed(part, piece, b):
            return False
    return True


def _is_spatial_mean(node: ir.Node) -> bool:
    if (dims(source(node)) or ())[2:] == () or len(node.inputs) < 2:
        return False
    axes = constant(node.inputs[1])
    return axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _by_linear(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    held = weights(node)
    if held is None or not affine.per_channel:
        return False
    if b is None:
        return True
    weight, bias = (array.astype(np.float64) for array in held)
    groups = node.attributes.get_int("group", 1)
    outputs, inputs = weight.shape[:2]
    # Row o of a grouped convolution reads the channels of its own group.
    rows = np.repeat(np.arange(groups), outputs // groups)
    scale = affine.scale.reshape(groups, inputs)[rows]
    shift = affine.shift.reshape(groups, inputs)[rows]
    extra = (weight.reshape(outputs, inputs, -1).sum(axis=2) * shift).sum(axis=1)
    set_weights(node, weight * scale.reshape(outputs, inputs, *[1] * (weight.ndim - 2)), bias + extra, b)
    return True


def _by_pointwise_with_map(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    if output(node).is_graph_output():
        return False
    if b is None:
        return True
    held = weights(node)
    assert held is not None
    weight, bias = (array.astype(np.float64) for array in held)
    extra = np.einsum("oi,ihw->ohw", weight[:, :, 0, 0], affine.shift)
    set_weights(node, weight * affine.scale.reshape(1, -1, 1, 1), bias, b)
    _add_behind(node, extra, b)
    return True


def _by_strided_depthwise(node: ir.Node, affine: Affine, b: Builder | None) -> bool:
    strides = tuple(node.attributes.get_ints("strides", [1, 1]))
    size = (dims(source(node)) or ())[2:]
    dilated = tuple(node.attributes.get_ints("dilations", [1, 1])) != (1, 1)
    if not is_depthwise(node) or max(strides) == 1 or len(size) != 2 or -1 in size or dilated:
        return False
    if output(node).is_graph_output() or affine.scale.size != affine.shift.shape[0]:
        return False
    held, pads = weights(node), conv_pads(node)
    assert held is not None
    assert pads is not None
    weight, bias = (array.astype(np.float64) for array in held)
    shift = _depthwise(np.broadcast_to(affine.shift, (affine.scale.size, *size)), weight, pads, strides)
    behind = Affine(np.ones_like(affine.scale), shift)
    passed_on = _absorbed(output(node), behind, None)
    if b is None:
        return True
    set_weights(node, weight * affine.scale.reshape(-1, 1, 1, 1), bias, b)
    if passed_on:
        _absorbed(output(node), behind, b)
    else:
        _add_behind(node, shift, b)
    return True


def _depthwise(x: Array, weight: Array, pads: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """(C, H, W) by (C, 1, k, l), zero-padded (top, left, bottom, right): (C, h, w)."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1]]
    result: Array = np.einsum("chwkl,ckl->chw", windows, weight[:, 0])
    return result


def _add_behind(node: ir.Node, extra: Array, b: Builder) -> None:
    """Add the constant map (C, H, W) to the output of `node`."""
    made = output(node)
    readers = users(made) or []
    kind = made.dtype.numpy() if made.dtype is not None else np.float32
    following = b.after(node)
    total = following.op("Add", made, extra[None].astype(kind))
    total.shape, total.type = made.shape, made.type
    for reader, index in readers:
        reader.replace_input_with(index, total)


_TAKERS: dict[str, Callable[[ir.Node, Affine, Builder | None], bool]] = {
    "Split": _by_split,
    "AveragePool": _by_pool,
    "ReduceMean": _by_mean,
    "Gemm": _by_linear,
    "Conv": _by_conv,
}
