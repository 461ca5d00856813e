"""Cross-layer equalization: scale channels between two convolutions so that one range fits both.

A channel that leaves one convolution `s` times smaller and enters the next `s` times larger changes nothing as
long as what lies between is positively homogeneous, like Relu (Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", section 4.1). Scales are rounded to powers of two, so the
equalized float model gives bit-identical results.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from mscsa_deploy.calibration.placement import Wiring
from mscsa_deploy.calibration.source import initializers, set_initializer

if TYPE_CHECKING:
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.tensors import Array

# Equalizing one pair disturbs its neighbors; a few sweeps settle a chain.
SWEEPS = 4
# 2^10 keeps scaled weights and activations far from overflow.
MAX_EXPONENT = 10


def equalized(source: Source) -> tuple[Source, int]:
    """A copy of `source` with every Conv-(Relu)-Conv pair equalized, and how many pairs there are."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    pairs = find_pairs(model)
    for _ in range(SWEEPS):
        for first, second in pairs:
            _equalize(model, first, second)
    notes = (*source.notes, f"{len(pairs)} convolution pairs equalized")
    return replace(source, model=model, notes=notes), len(pairs)


def find_pairs(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """2-D convolutions of which the second alone reads the first, directly or through a Relu."""
    wiring = Wiring(model.graph)
    weights = initializers(model)
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    pairs = []
    for first in model.graph.node:
        if first.op_type != "Conv":
            continue
        follower = _only_reader(wiring, first.output[0])
        if follower is not None and follower.op_type == "Relu":
            follower = _only_reader(wiring, follower.output[0])
        if follower is None or follower.op_type != "Conv":
            continue
        constants = [*first.input[1:], follower.input[1]]
        stored = all(name in weights and uses[name] == 1 for name in constants)
        if stored and all(len(weights[each.input[1]].dims) == 4 for each in (first, follower)):
            pairs.append((first, follower))
    return pairs


def _only_reader(wiring: Wiring, name: str) -> onnx.NodeProto | None:
    readers = wiring.readers.get(name, [])
    return readers[0] if len(readers) == 1 and name not in wiring.outputs else None


def _equalize(model: onnx.ModelProto, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    stored = initializers(model)
    weight_out = numpy_helper.to_array(stored[first.input[1]])
    weight_in = numpy_helper.to_array(stored[second.input[1]])
    depthwise = weight_in.shape[1] == 1 and weight_in.shape[0] == weight_out.shape[0]
    if not depthwise and weight_in.shape[1] != weight_out.shape[0]:
        return
    range_out = np.abs(weight_out).reshape(weight_out.shape[0], -1).max(axis=1)
    range_in = np.abs(weight_in).max(axis=(1, 2, 3) if depthwise else (0, 2, 3))
    scale = _powers_of_two(range_out, range_in)
    set_initializer(model, first.input[1], weight_out / scale[:, None, None, None])
    if len(first.input) > 2:
        set_initializer(model, first.input[2], numpy_helper.to_array(stored[first.input[2]]) / scale)
    shape = (-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)
    set_initializer(model, second.input[1], weight_in * scale.reshape(shape))


def _powers_of_two(range_out: Array, range_in: Array) -> Array:
    """Per channel sqrt(range_out / range_in), rounded to a power of two; 1 where a channel is dead."""
    alive = (range_out > 0) & (range_in > 0)
    ratio = np.where(alive, range_out, 1) / np.where(alive, range_in, 1)
    exponent = np.clip(np.round(0.5 * np.log2(ratio)), -MAX_EXPONENT, MAX_EXPONENT)
    return np.exp2(exponent).astype(np.float32)
