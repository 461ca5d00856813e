"""Analytic bias correction: take back the mean error that rounding the weights causes.

Rounding a convolution's weights from W to W' moves its output by (W' - W) * x; the mean of that over the
calibration samples is constant per channel, so the bias can absorb it (Nagel et al. 2019, section 4.2, with
measured instead of assumed means). Padding is ignored: means are taken over the unpadded map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mscsa_deploy.calibration.checks import plain_session
from mscsa_deploy.calibration.source import initializers, opset_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.tensors import Array


def corrected(source: Source, samples: Samples, recipe: CalibrationRecipe, left_float: set[str]) -> tuple[Source, int]:
    """A copy of `source` whose quantized 2-D convolutions have corrected biases, and how many were corrected.

    Args:
        source: The float model.
        samples: What to take channel means over; one is in memory at a time.
        recipe: Its weight settings say how weights will be rounded.
        left_float: Nodes whose weights are not rounded.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    stored = initializers(model)
    convolutions = [node for node in model.graph.node if node.name not in left_float and _is_correctable(node, stored)]
    means = _channel_means(source, sorted({node.input[0] for node in convolutions}), samples)
    for node in convolutions:
        weight = numpy_helper.to_array(stored[node.input[1]])
        shift = _mean_shift(rounded(weight, recipe) - weight, means[node.input[0]])
        if any(node.input[2:]):
            old = numpy_helper.to_array(initializers(model)[node.input[2]])
        else:
            old = np.zeros(weight.shape[0], np.float32)
        # A name of its own: two convolutions may share one bias.
        name = f"{node.name}_corrected_bias"
        model.graph.initializer.append(numpy_helper.from_array((old - shift).astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)
    notes = (*source.notes, f"{len(convolutions)} biases corrected")
    return replace(source, model=model, notes=notes), len(convolutions)


def _is_correctable(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether it is a convolution of pictures whose weights and bias, if it has one, are in the file."""
    if node.op_type != "Conv" or not all(name in stored for name in node.input[1:] if name):
        return False
    return len(stored[node.input[1]].dims) == 4


def rounded(weight: Array, recipe: CalibrationRecipe) -> Array:
    """(out, in / groups, kh, kw) weights as symmetric integers of the recipe's width would hold them."""
    levels = 63 if recipe.reduce_range else 127
    axes = tuple(range(1, weight.ndim)) if recipe.per_channel else None
    scale = np.abs(weight).max(axis=axes, keepdims=True) / levels
    scale = np.where(scale > 0, scale, 1)
    return (np.round(weight / scale) * scale).astype(np.float32)


def _mean_shift(error: Array, mean: Array) -> Array:
    """Mean output error per output channel for weight errors (out, in / groups, kh, kw) and input means (in,)."""
    summed = error.sum(axis=(2, 3), dtype=np.float64)
    outputs, inputs = summed.shape
    groups = mean.size // inputs
    per_output = mean.reshape(groups, inputs).repeat(outputs // groups, axis=0)
    return np.asarray((summed * per_output).sum(axis=1))


def _channel_means(source: Source, tensors: list[str], samples: Samples) -> dict[str, Array]:
    """Mean of each (1, C, H, W) tensor per channel, over all samples: (C,) float64."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    axes = "mscsa_deploy_mean_axes"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), axes))
    opset = opset_of(model)
    names = []
    for name in tensors:
        mean = f"{name}_channel_mean"
        if opset >= 18:
            node = helper.make_node("ReduceMean", [name, axes], [mean], keepdims=0)
        else:
            node = helper.make_node("ReduceMean", [name], [mean], axes=[0, 2, 3], keepdims=0)
        model.graph.node.append(node)
        model.graph.output.append(helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, [None]))
        names.append(mean)
    session = plain_session(model)
    sums = [np.float64(0)] * len(names)
    for feed in samples:
        sums = [total + value for total, value in zip(sums, session.run(names, dict(feed)), strict=True)]
    return {name: np.asarray(total) / len(samples) for name, total in zip(tensors, sums, strict=True)}
