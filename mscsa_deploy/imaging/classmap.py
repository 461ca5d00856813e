"""From a segmentation network's small logits to a class map, fast and without changing a pixel.

The plain way upsamples every class to full size and compares: 150 classes at 512x512 are 39 million values
for an answer of 0.26 million. Two facts avoid nearly all of them. Inside the cell between four neighboring
logits, a bilinear value lies between the smallest and the largest of the four. So a class whose largest
corner stays below some other class's smallest corner cannot win anywhere in that cell; most cells keep
one class and need no arithmetic at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.errors import SpecError, StageError

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array

_PLAIN_BEYOND = 0.25
"""Share of all (class, pixel) pairs from which the plain form is faster than gathering candidates."""

_STRIP_ROWS = 16

_ROUNDING = 8.0 * float(np.finfo(np.float32).eps)


def class_map(logits: Array, height: int, width: int) -> Array:
    """The class that wins at each pixel after bilinear upsampling with half-pixel centers.

    Half-pixel centers are what ``align_corners=False`` means. Equal, bit for bit, to `plain_class_map`;
    of equal values the lower class wins.

    Args:
        logits: (classes, h, w) float.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) uint8, or uint16 past 256 classes.

    Raises:
        SpecError: `logits` has another rank or no values.
        StageError: `logits` holds NaN or infinity.
    """
    logits = _checked(logits)
    classes = logits.shape[0]
    low, high = _cell_bounds(logits)
    # Weights are rounded: a float32 value may leave its corners' range by some units in the last place.
    slack = np.float32(_ROUNDING * max(float(-logits.min()), float(logits.max())))
    candidate = high >= low.max(axis=0) - slack
    counts = np.count_nonzero(candidate, axis=0)
    y0, _, _, _ = _axis(logits.shape[1], height)
    x0, _, _, _ = _axis(logits.shape[2], width)
    counts_of_pixels = counts[y0][:, x0]
    pairs = int(counts_of_pixels.sum(where=counts_of_pixels > 1))
    if pairs > _PLAIN_BEYOND * classes * height * width:
        return plain_class_map(logits, height, width)
    # argmax of booleans is the first candidate: the answer wherever there is only one.
    winners: Array = np.argmax(candidate, axis=0)[y0][:, x0].astype(_dtype(classes))
    for count in np.unique(counts_of_pixels):
        if count > 1:
            rows, columns = np.nonzero(counts_of_pixels == count)
            winners[rows, columns] = _contest(logits, candidate, int(count), (rows, columns), (height, width))
    return winners


def plain_class_map(logits: Array, height: int, width: int) -> Array:
    """As `class_map`, upsampling every class: the definition that the fast form is tested against."""
    logits = _checked(logits)
    y0, y1, top, bottom = _axis(logits.shape[1], height)
    x0, x1, left, right = _axis(logits.shape[2], width)
    winners = np.empty((height, width), dtype=_dtype(logits.shape[0]))
    for start in range(0, height, _STRIP_ROWS):
        strip = slice(start, min(height, start + _STRIP_ROWS))
        first = int(y0[strip.start])
        wide = logits[:, first : int(y1[strip.stop - 1]) + 1]
        wide = wide[:, :, x0] * left + wide[:, :, x1] * right
        best = np.full((strip.stop - start, width), -np.inf, dtype=np.float32)
        winner = winners[strip]
        for label, plane in enumerate(wide):
            value = (
                plane[y0[strip] - first] * top[strip, None] + plane[y1[strip] - first] * bottom[strip, None]
            )
            ahead = value > best
            np.copyto(best, value, where=ahead)
            np.copyto(winner, winner.dtype.type(label), where=ahead)
    return winners


def resize_nearest(classes: Array, height: int, width: int) -> Array:
    """A class map at another size: each pixel takes the class under its center.

    Args:
        classes: (h, w) integer class map.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width), the same dtype.
    """
    rows = ((2 * np.arange(height) + 1) * classes.shape[0]) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * classes.shape[1]) // (2 * width)
    resized: Array = np.ascontiguousarray(classes[rows][:, columns])
    return resized


def _checked(logits: Array) -> Array:
    if logits.ndim != 3 or 0 in logits.shape:
        raise SpecError(f"logits of shape {list(logits.shape)}, expected (classes, h, w)")
    if not np.isfinite(logits).all():
        raise StageError(
            "upsampling", "the logits", "they hold NaN or infinity", hint="check the artefact with 'verify'"
        )
    return np.ascontiguousarray(logits, dtype=np.float32)


def _dtype(classes: int) -> type[np.unsignedinteger]:
    return np.uint8 if classes <= 256 else np.uint16


def _axis(size: int, target: int) -> tuple[Array, Array, Array, Array]:
    """For each of `target` pixels: its two neighbors among `size` samples and the weight of each.

    Source: the half-pixel rule of torch.nn.functional.interpolate and of ONNX Resize.
    """
    place = np.maximum((np.arange(target, dtype=np.float64) + 0.5) * size / target - 0.5, 0.0)
    first = np.minimum(place.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    weight = (place - first).astype(np.float32)
    return first, second, np.float32(1.0) - weight, weight


def _cell_bounds(logits: Array) -> tuple[Array, Array]:
    """Smallest and largest of the four corners of each cell, (classes, h, w) each; the border repeats."""
    bounds = []
    for pick in (np.minimum, np.maximum):
        across = logits.copy()
        pick(across[:, :, :-1], logits[:, :, 1:], out=across[:, :, :-1])
        both = across.copy()
        pick(both[:, :-1], across[:, 1:], out=both[:, :-1])
        bounds.append(both)
    return bounds[0], bounds[1]


def _contest(
    logits: Array, candidate: Array, count: int, pixels: tuple[Array, Array], size: tuple[int, int]
) -> Array:
    """The winning class of each of `pixels`, whose cells have `count` candidates each."""
    height, width = logits.shape[1:]
    y0, y1, top, bottom = (values[pixels[0]] for values in _axis(height, size[0]))
    x0, x1, left, right = (values[pixels[1]] for values in _axis(width, size[1]))
    cells = y0 * width + x0
    # Candidates of every cell with that many, lowest class first; `slot` leads from a cell to its list.
    listed = np.nonzero(np.count_nonzero(candidate, axis=0).reshape(-1) == count)[0]
    slot = np.empty(height * width, dtype=np.int64)
    slot[listed] = np.arange(len(listed))
    order = np.nonzero(candidate.reshape(len(logits), -1)[:, listed].T)[1].reshape(len(listed), count)
    flat, plane = logits.reshape(-1), height * width
    corners = y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1
    best = np.full(len(cells), -np.inf, dtype=np.float32)
    winner = np.zeros(len(cells), dtype=np.int64)
    mine = order[slot[cells]]
    for place in range(count):
        label = mine[:, place]
        a, b, c, d = (flat[label * plane + corner] for corner in corners)
        value = (a * left + b * right) * top + (c * left + d * right) * bottom
        ahead = value > best
        best = np.where(ahead, value, best)
        winner = np.where(ahead, label, winner)
    return winner
