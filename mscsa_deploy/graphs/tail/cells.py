"""The tail that interpolates only where classes compete.

Every pixel of a cell (see ``grid``) is a convex combination of the cell's four corners, so a class can win
anywhere in the cell only if its highest corner reaches the highest of all classes' lowest corners. Most cells
have one such candidate and are filled with it. The others are grouped by how many candidates they have; each
group interpolates its own best classes with one matrix product of (candidates, 4) by (4, pixels) per cell.

Exact: in real arithmetic no dropped class can win, and of equal values the lowest class wins as in ArgMax. In
float32 a pixel can differ from the plain form only where its two best values are equal up to rounding.

Where classes compete nearly everywhere (noise, an untrained model) this would be slower than interpolating
all of them, so an If takes the static form once the candidates exceed a share of all classes in all cells.

The number of ambiguous cells depends on the image, so shapes inside are data dependent; runtimes that need
static shapes take a form of ``static``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.graphs.build import Builder, ints, scalar
from mscsa_deploy.graphs.tail.grid import TailShape, cell_corners, cell_weights
from mscsa_deploy.graphs.tail.static import strips_first

if TYPE_CHECKING:
    import onnx_ir as ir

# Cells with at most this many candidates are one group of fixed width; it holds nearly all of them, and the
# few richer cells do not make it pay for their width.
FEW = 4
# Group sizes are rounded up to this, so that a runtime that plans per shape meets few shapes.
BUCKET = 64
# Above this share of (cell, class) pairs the static form is faster: measured 0.11 to 0.14 for 150 classes.
SHARE = 0.1


class _Cells:
    """What is known of every cell: candidate counts, the sum of the candidates' indices, highest corners.

    Behind an INT8 network the logits come out of a DequantizeLinear. ONNX Runtime 1.31 gives every reader of such
    a value a copy of its own and aborts the process where the reader is a branch of an If, or reaches it through
    nothing but pooling and reshaping. So everything here reads the logits through two negations, which are exact.
    """

    def __init__(self, b: Builder, logits: ir.Value, shape: TailShape) -> None:
        self.shape = shape
        negative = b.op("Neg", logits)
        self.logits = logits = b.op("Neg", negative)
        cells = shape.batch * shape.cells
        by_class = ints(shape.classes, cells)
        pool = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}
        highest = b.op("MaxPool", logits, **pool)
        below = b.op("MaxPool", negative, **pool)
        bar = b.op("Neg", b.op("ReduceMin", below, ints(1), keepdims=1))
        candidate = b.op("Cast", b.op("GreaterOrEqual", highest, bar), to=1)
        if shape.batch > 1:
            highest, candidate = (b.op("Transpose", each, perm=[1, 0, 2, 3]) for each in (highest, candidate))
        self.highest = b.op("Reshape", highest, by_class)
        sums = np.stack([np.ones(shape.classes), np.arange(shape.classes)]).astype(np.float32)
        count, only = b.many("Split", 2, b.op("MatMul", sums, b.op("Reshape", candidate, by_class)), ints(1, 1), axis=0)
        self.count, self.only = count, only
        self.flat = b.op("Reshape", logits, ints(-1))


def cells(b: Builder, logits: ir.Value, shape: TailShape, dtype: int) -> ir.Value:
    """(N, H, W) class map of `dtype` from (N, C, h, w) logits."""
    parts = _Cells(b, logits, shape)
    several = b.op("Greater", parts.count, scalar(1.5))
    # Over the one axis that matters: OpenVINO on ARM splits a reduction over several, and now and then reads garbage
    # for the second (2026.4.1).
    widest = b.op("ReduceMax", parts.count, ints(1), keepdims=0)
    if shape.classes > FEW:
        many = b.op("Greater", parts.count, scalar(FEW + 0.5))
        groups = [(b.op("And", several, b.op("Not", many)), None), (many, widest)]
    else:
        groups = [(several, widest)]
    work = b.constant(scalar(0.0))
    for mask, width in groups:
        size = b.op("ReduceSum", b.op("Cast", mask, to=1), ints(1), keepdims=0)
        work = b.op("Add", work, b.op("Mul", size, scalar(FEW) if width is None else width))
    limit = scalar(SHARE * shape.batch * shape.cells * shape.classes)
    with b.branch("everywhere") as everywhere:
        everywhere.output(strips_first(everywhere, parts.logits, shape, dtype))
    with b.branch("contested") as contested:
        contested.output(_fill(contested, parts, groups, dtype))
    much = b.op("Squeeze", b.op("Greater", work, limit), ints(0))
    return b.op("If", much, then_branch=everywhere.graph, else_branch=contested.graph)


def _fill(b: Builder, parts: _Cells, groups: list[tuple[ir.Value, ir.Value | None]], dtype: int) -> ir.Value:
    """(N, H, W): every cell with its only class, then the cells of each group with what wins in them."""
    shape = parts.shape
    total, pixels = shape.batch * shape.cells, shape.scale * shape.scale
    only = b.op("Reshape", b.op("Cast", parts.only, to=dtype), ints(total, 1))
    filled = b.op("Expand", only, ints(total, pixels))
    # The fill-up cell 0 may belong to the second group, so that one is written last.
    for mask, width in groups:
        places = _where(b, mask)
        most = b.constant(ints(FEW)) if width is None else b.op("Reshape", b.op("Cast", width, to=7), ints(1))
        classes = b.op("Cast", _decide(b, parts, places, most), to=dtype)
        filled = b.op("ScatterND", filled, b.op("Unsqueeze", places, ints(1)), classes)
    return _assemble(b, filled, shape)


def _where(b: Builder, mask: ir.Value) -> ir.Value:
    """(n,) int64: the cells where (1, cells) `mask` holds, filled up to a full bucket with cell 0."""
    found = b.op("Gather", b.op("NonZero", mask), scalar(1, np.int64), axis=0)
    count = b.op("Shape", found)
    fill = b.op("Mod", b.op("Neg", count), ints(BUCKET))
    fill = b.op("Where", b.op("Equal", count, ints(0)), ints(BUCKET), fill)
    return b.op("Concat", found, b.op("Expand", ints(0), fill), axis=0)


def _decide(b: Builder, parts: _Cells, cells: ir.Value, width: ir.Value) -> ir.Value:
    """(n, pixels) float32: the winning class of each pixel of `cells` among their best `width` classes."""
    shape = parts.shape
    scores = b.op("Transpose", b.op("Gather", parts.highest, cells, axis=1), perm=[1, 0])
    best = b.many("TopK", 2, scores, width, axis=1, sorted=0)[1]
    first = b.op("Unsqueeze", b.op("Mul", best, scalar(shape.height * shape.width, np.int64)), ints(2))
    corners = b.op("Gather", cell_corners(shape), cells, axis=0)
    places = b.op("Add", first, b.op("Unsqueeze", corners, ints(1)))
    pixels = b.op("MatMul", b.op("Gather", parts.flat, places, axis=0), cell_weights(shape.scale))
    top = b.op("ReduceMax", pixels, ints(1), keepdims=1)
    # Classes count down from the number of classes, so that the maximum over equal values is the lowest.
    down = b.op("Sub", scalar(shape.classes), b.op("Cast", best, to=1))
    winners = b.op("Where", b.op("Equal", pixels, top), b.op("Unsqueeze", down, ints(2)), scalar(0))
    return b.op("Sub", scalar(shape.classes), b.op("ReduceMax", winners, ints(1), keepdims=0))


def _assemble(b: Builder, filled: ir.Value, shape: TailShape) -> ir.Value:
    """(cells, pixels) to (N, H, W): cells side by side, the outer halves of the border cells cropped."""
    scale, rows, columns = shape.scale, shape.height + 1, shape.width + 1
    tiles = b.op("Reshape", filled, ints(shape.batch, rows, columns, scale, scale))
    whole = b.op(
        "Reshape",
        b.op("Transpose", tiles, perm=[0, 1, 3, 2, 4]),
        ints(shape.batch, rows * scale, columns * scale),
    )
    start, (height, width) = shape.margin, shape.size
    return b.op("Slice", whole, ints(start, start), ints(start + height, start + width), ints(1, 2))
