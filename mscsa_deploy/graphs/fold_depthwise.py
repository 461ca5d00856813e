"""A per-channel scale and shift behind a sum of maps, moved into the convolutions that make the summands.

A depthwise 1x1 convolution is ``s * x + t`` per channel. With ``x`` a sum of gated and upsampled maps,

    s * (local * gate + up(bias) + up(rest)) = (s * local) * gate + up(s * bias) + up(s * rest),

because bilinear interpolation acts on every channel alone and is linear. Its weights sum to one, so a constant
added before it is the same constant after it: ``t`` goes into the bias of one convolution that reaches the
sum through additions and interpolations only. Exact in real arithmetic; float32 rounding only.

This is TopFormer's segmentation head, whose fusing convolution is depthwise for the tiny model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.graphs.match import (
    LocalPass,
    conv_pads,
    is_depthwise,
    only_feeds,
    output,
    replace,
    set_weights,
    source,
    weights,
)

if TYPE_CHECKING:
    import onnx_ir as ir

    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.graphs.build import Builder


class FoldDepthwiseScale(LocalPass):
    """Removes depthwise 1x1 convolutions behind sums of convolutions."""

    def rewrite(self, node: ir.Node, b: Builder) -> bool:
        """Match at the depthwise convolution."""
        if node.op_type != "Conv" or not is_depthwise(node) or any(conv_pads(node) or ()):
            return False
        held = weights(node)
        strides = tuple(node.attributes.get_ints("strides", [1, 1]))
        if held is None or held[0].shape[1:] != (1, 1, 1) or strides != (1, 1):
            return False
        # A lone convolution in front is the exporter's business; here there is a sum to reach through.
        before = source(node).producer()
        if before is None or before.op_type != "Add" or output(node).is_graph_output():
            return False
        scale, shift = held[0].reshape(-1).astype(np.float64), held[1].astype(np.float64)
        if not _scaled(source(node), node, scale, None) or not _shifted(source(node), shift, None):
            return False
        _scaled(source(node), node, scale, b)
        _shifted(source(node), shift, b)
        replace(output(node), source(node))
        return True


def _scaled(value: ir.Value, reader: ir.Node, scale: Array, b: Builder | None) -> bool:
    """Whether `value`, which only `reader` may read, can be scaled at its origin; done if there is a builder."""
    node = value.producer()
    if node is None or node.domain != "" or not only_feeds(value, reader):
        return False
    if node.op_type == "Conv":
        held = weights(node)
        if held is None or len(held[1]) != len(scale):
            return False
        if b is not None:
            set_weights(node, held[0] * scale.reshape(-1, 1, 1, 1), held[1] * scale, b)
        return True
    if node.op_type == "Add":
        return all(_scaled(source(node, index), node, scale, b) for index in (0, 1))
    if node.op_type == "Mul":
        index = next((i for i in (0, 1) if _scaled(source(node, i), node, scale, None)), None)
        return index is not None and _scaled(source(node, index), node, scale, b)
    return _interpolates(node) and _scaled(source(node), node, scale, b)


def _shifted(value: ir.Value, shift: Array, b: Builder | None) -> bool:
    """Whether a bias can be found that is added to `value` as it is; extended if there is a builder."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Conv":
        held = weights(node)
        if held is not None and b is not None:
            set_weights(node, held[0], held[1] + shift, b)
        return held is not None
    if node.op_type == "Add":
        index = next((i for i in (0, 1) if _shifted(source(node, i), shift, None)), None)
        return index is not None and _shifted(source(node, index), shift, b)
    return _interpolates(node) and _shifted(source(node), shift, b)


def _interpolates(node: ir.Node) -> bool:
    """Whether `node` is a linear Resize whose weights sum to one everywhere."""
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "linear":
        return False
    outside = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    return outside != "tf_crop_and_resize"
