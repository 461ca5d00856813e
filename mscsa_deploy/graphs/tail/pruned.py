"""Tails that first drop the classes that win nowhere in the image.

A class is kept if in at least one cell (see ``grid``) its highest corner reaches the highest of all classes'
lowest corners; no other class can win a pixel. Exact as ``cells`` is; the number of classes kept depends on
the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.graphs.build import Builder, ints
from mscsa_deploy.graphs.tail.static import RESIZE

if TYPE_CHECKING:
    import onnx_ir as ir

    from mscsa_deploy.graphs.tail.grid import TailShape


def pruned(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """The plain form on the classes kept, classes first."""
    kept = _kept(b, logits)
    scales = np.array([1, 1, shape.scale, shape.scale], dtype=np.float32)
    large = b.op("Resize", b.op("Gather", logits, kept, axis=1), None, scales, **RESIZE)
    winner = b.op("ArgMax", large, axis=1, keepdims=0)
    return b.op("Gather", b.op("Cast", kept, to=dtype), winner, axis=0)


def pruned_channels_last(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """The plain form on the classes kept, classes last."""
    kept = _kept(b, logits)
    scales = np.array([1, shape.scale, shape.scale, 1], dtype=np.float32)
    last = b.op("Transpose", b.op("Gather", logits, kept, axis=1), perm=[0, 2, 3, 1])
    winner = b.op("ArgMax", b.op("Resize", last, None, scales, **RESIZE), axis=3, keepdims=0)
    return b.op("Gather", b.op("Cast", kept, to=dtype), winner, axis=0)


def _kept(b: Builder, logits: ir.Value) -> ir.Value:
    """(n,) int64: the classes that can win somewhere in the batch, ascending."""
    pool = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}
    highest = b.op("MaxPool", logits, **pool)
    below = b.op("MaxPool", b.op("Neg", logits), **pool)
    bar = b.op("Neg", b.op("ReduceMin", below, ints(1), keepdims=1))
    somewhere = b.op("Cast", b.op("GreaterOrEqual", highest, bar), to=1)
    # One axis at a time, because of OpenVINO on ARM; see `cells`.
    for axis in (3, 2, 0):
        somewhere = b.op("ReduceMax", somewhere, ints(axis), keepdims=0)
    return b.op("Squeeze", b.op("NonZero", b.op("Cast", somewhere, to=9)), ints(0))
