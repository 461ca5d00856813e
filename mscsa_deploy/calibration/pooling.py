"""Average pools as depthwise convolutions with constant weights, whose integer kernels are several times faster.

The numbers stay the same up to rounding: equal weights of 1/k^2 are exact on integers with a scale per channel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from mscsa_deploy.calibration.source import Source


def pools_as_convs(source: Source, left_float: Container[str] = ()) -> tuple[Source, int]:
    """A copy of `source` with its average pools as convolutions of the same names, and how many there were.

    Only pools of (N, C, H, W) without padding and with a known C: padding makes the divisor differ at the border.

    Args:
        source: The float model.
        left_float: Nodes that stay float, and so stay pools.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    channels = {value.name: _channels(value) for value in (*model.graph.input, *model.graph.value_info)}
    count = 0
    for node in model.graph.node:
        if node.op_type != "AveragePool" or node.name in left_float:
            continue
        settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        depth = channels.get(node.input[0], 0)
        if depth and _is_plain(settings):
            _turn(model, node, settings, depth)
            count += 1
    if not count:
        return source, 0
    notes = (*source.notes, f"{count} average pools run as convolutions")
    return replace(source, model=model, asked=source.model, notes=notes), count


def _channels(value: onnx.ValueInfoProto) -> int:
    """C of a four-dimensional tensor; 0 where it is not known."""
    sizes = value.type.tensor_type.shape.dim
    return int(sizes[1].dim_value) if len(sizes) == 4 else 0


def _is_plain(settings: Mapping[str, Any]) -> bool:
    padded = any(settings.get("pads", ())) or settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    dilated = any(step != 1 for step in settings.get("dilations", ()))
    return not (padded or dilated or settings.get("ceil_mode", 0)) and len(settings["kernel_shape"]) == 2


def _turn(model: onnx.ModelProto, node: onnx.NodeProto, settings: Mapping[str, Any], depth: int) -> None:
    kernel = settings["kernel_shape"]
    weights = np.full((depth, 1, *kernel), 1.0 / float(np.prod(kernel)), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, f"{node.name}_weights"))
    node.op_type = "Conv"
    node.input.append(f"{node.name}_weights")
    del node.attribute[:]
    strides = settings.get("strides", [1, 1])
    for name, value in (("kernel_shape", kernel), ("strides", strides), ("group", depth)):
        node.attribute.append(helper.make_attribute(name, value))
