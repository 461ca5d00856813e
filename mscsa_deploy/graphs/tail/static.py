"""Tails with static shapes: every class is interpolated everywhere, in different orders.

All are the same arithmetic up to float32 rounding; they differ in how much memory they touch at once and in
which axis the argmax walks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.graphs.build import Builder, ints
from mscsa_deploy.graphs.tail.grid import TailShape, axis_matrix

if TYPE_CHECKING:
    import onnx_ir as ir

RESIZE = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
# Rows of logits per strip: a strip's interpolated classes then fit a second-level cache for 150 classes.
STRIP_ROWS = 2


def plain(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """Resize, then ArgMax over axis 1: the tail as usually written, and the reference of all others."""
    scales = np.array([1, 1, shape.scale, shape.scale], dtype=np.float32)
    large = b.op("Resize", logits, None, scales, **RESIZE)
    return b.op("Cast", b.op("ArgMax", large, axis=1, keepdims=0), to=dtype)


def channels_last(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """Classes moved to the last axis first, so that the argmax walks neighbouring values."""
    scales = np.array([1, shape.scale, shape.scale, 1], dtype=np.float32)
    large = b.op("Resize", b.op("Transpose", logits, perm=[0, 2, 3, 1]), None, scales, **RESIZE)
    return b.op("Cast", b.op("ArgMax", large, axis=3, keepdims=0), to=dtype)


def strips(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """Separable interpolation as two matrix products, a few rows of logits at a time.

    Vertical first on (N, h, w * C), then horizontal on (N, rows, w, C), classes last throughout.
    """
    vertical = axis_matrix(shape.height, shape.scale)
    horizontal = b.constant(axis_matrix(shape.width, shape.scale))
    last = b.op("Transpose", logits, perm=[0, 2, 3, 1])
    rows = b.op("Reshape", last, ints(0, shape.height, shape.width * shape.classes))
    maps = []
    for start in range(0, shape.height, STRIP_ROWS):
        stop = min(start + STRIP_ROWS, shape.height)
        low, high = max(start - 1, 0), min(stop + 1, shape.height)
        part = b.op("Slice", rows, ints(low), ints(high), ints(1))
        tall = b.op("MatMul", vertical[start * shape.scale : stop * shape.scale, low:high], part)
        lines = (stop - start) * shape.scale
        wide = b.op("MatMul", horizontal, b.op("Reshape", tall, ints(0, lines, shape.width, shape.classes)))
        maps.append(b.op("Cast", b.op("ArgMax", wide, axis=3, keepdims=0), to=dtype))
    return maps[0] if len(maps) == 1 else b.op("Concat", *maps, axis=1)


def strips_first(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """`strips` with classes first: a strip of (N, C, rows, W) is interpolated, then its argmax taken."""
    vertical = axis_matrix(shape.height, shape.scale)
    horizontal = axis_matrix(shape.width, shape.scale)
    wide = b.op("MatMul", logits, np.ascontiguousarray(horizontal.T))
    maps = []
    for start in range(0, shape.height, STRIP_ROWS):
        stop = min(start + STRIP_ROWS, shape.height)
        low, high = max(start - 1, 0), min(stop + 1, shape.height)
        part = b.op("Slice", wide, ints(low), ints(high), ints(2))
        tall = b.op("MatMul", vertical[start * shape.scale : stop * shape.scale, low:high], part)
        maps.append(b.op("Cast", b.op("ArgMax", tall, axis=1, keepdims=0), to=dtype))
    return maps[0] if len(maps) == 1 else b.op("Concat", *maps, axis=1)
