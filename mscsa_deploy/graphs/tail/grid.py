"""Bilinear upsampling by a whole factor, seen as cells of four logits.

Half-pixel bilinear interpolation of an (h, w) map to (h * s, w * s) cuts the large map into (h + 1) * (w + 1)
cells of s * s pixels. The pixels of one cell are convex combinations of the same four small-map values, its
corners; at the border corners repeat, which is what clamping the coordinates means. Cells of the first and
last row and column reach half over the edge and are cropped.

Source: the coordinate rule ``half_pixel`` of the ONNX Resize operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import UserError


@dataclass(frozen=True, slots=True)
class TailShape:
    """What the tail turns into what.

    Args:
        batch: Images; -1 for a dynamic batch.
        classes: Channels of the logits.
        height: Of the logits.
        width: Of the logits.
        scale: Rows and columns of the class map per row and column of the logits.
    """

    batch: int
    classes: int
    height: int
    width: int
    scale: int

    @classmethod
    def between(cls, logits: tuple[int, ...], size: tuple[int, int]) -> TailShape:
        """From the logits' shape (N, C, h, w) and the class map's (H, W).

        Raises:
            UserError: H and W are not the same whole multiple of h and w.
        """
        batch, classes, height, width = logits
        scale = size[0] // height
        if scale < 1 or (height * scale, width * scale) != tuple(size):
            raise UserError(
                f"class map {size[0]}x{size[1]} of logits {height}x{width}: expected one whole factor",
                hint="keep the input size a multiple of the model's output stride",
            )
        return cls(batch, classes, height, width, scale)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the class map."""
        return self.height * self.scale, self.width * self.scale

    @property
    def cells(self) -> int:
        """Cells of one image."""
        return (self.height + 1) * (self.width + 1)

    @property
    def margin(self) -> int:
        """Rows and columns of the first cells that lie outside the map."""
        return (self.scale + 1) // 2


def fractions(scale: int) -> Array:
    """(scale,) float64: how far each pixel of a cell lies from the first to the second corner, 0 to 1."""
    offset = (scale + 1) // 2
    return (np.arange(scale) + 0.5 + scale / 2 - offset) / scale


def cell_weights(scale: int) -> Array:
    """(4, scale * scale) float32: weight of each corner for each pixel, both row-major; columns sum to 1."""
    second = fractions(scale)
    axis = np.stack([1 - second, second])
    weights: Array = np.einsum("ap,bq->abpq", axis, axis).reshape(4, scale * scale)
    return weights.astype(np.float32)


def cell_corners(shape: TailShape) -> Array:
    """(batch * cells, 4) int64: where the four corners of each cell lie in the flat logits, for class 0."""
    rows = [np.clip(np.arange(shape.height + 1) + step, 0, shape.height - 1) for step in (-1, 0)]
    columns = [np.clip(np.arange(shape.width + 1) + step, 0, shape.width - 1) for step in (-1, 0)]
    corners = [(row[:, None] * shape.width + column).reshape(-1) for row in rows for column in columns]
    one_image = np.stack(corners, axis=1)
    images = np.arange(shape.batch) * (shape.classes * shape.height * shape.width)
    return (images[:, None, None] + one_image).reshape(-1, 4).astype(np.int64)


def axis_matrix(source: int, scale: int) -> Array:
    """(source * scale, source) float32: the interpolation of one axis as a matrix; rows sum to 1."""
    position = np.clip((np.arange(source * scale) + 0.5) / scale - 0.5, 0, source - 1)
    first = np.floor(position).astype(int)
    second = np.minimum(first + 1, source - 1)
    matrix = np.zeros((source * scale, source))
    rows = np.arange(source * scale)
    np.add.at(matrix, (rows, first), 1 - (position - first))
    np.add.at(matrix, (rows, second), position - first)
    return matrix.astype(np.float32)
