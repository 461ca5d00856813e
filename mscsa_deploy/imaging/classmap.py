"""From a segmentation network's small logits to a class map, fast and without changing a pixel.

The plain way upsamples every class to full size and compares: 150 classes at 512x512 are 39 million values
for an answer of 0.26 million. A bilinear value inside the cell between four neighboring logits lies between
the smallest and the largest of the four. So a class whose largest corner stays below another class's
smallest corner cannot win anywhere in that cell. Most cells keep one class and need no arithmetic at all;
the others are upsampled band by band, with the few classes that are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.errors import SpecError, StageError

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array

_ROUNDING = 8.0 * float(np.finfo(np.float32).eps)
"""A float32 interpolation may leave its corners' range by some units in the last place."""


def class_map(logits: Array, size: tuple[int, int]) -> Array:
    """The class that wins at each pixel after bilinear upsampling with half-pixel centers.

    Half-pixel centers are what ``align_corners=False`` means; borders repeat. In float32, first along a row:
    ``v = a + (b - a) * t`` of the left and right neighbor, then the same of the upper and lower ``v``. Of
    equal values the lower class wins.

    Args:
        logits: (classes, h, w) float.
        size: (height, width) of the result in pixels.

    Returns:
        (height, width) uint8, or uint16 past 256 classes.

    Raises:
        SpecError: `logits` has another rank or no values.
        StageError: `logits` holds NaN or infinity.
    """
    if logits.ndim != 3 or 0 in logits.shape:
        raise SpecError(f"logits of shape {list(logits.shape)}, expected (classes, h, w)")
    if not np.isfinite(logits).all():
        raise StageError("upsampling", "the logits", "they hold NaN or infinity", hint="check it with 'verify'")
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    candidate = _candidates(logits)
    counts = np.count_nonzero(candidate, axis=0)
    top, bottom, down = _taps(logits.shape[1], size[0])
    left, right, across = _taps(logits.shape[2], size[1])
    dtype = np.uint8 if len(logits) <= 256 else np.uint16
    # Of booleans, argmax is the first that is true: the answer wherever there is only one.
    winners: Array = np.argmax(candidate, axis=0).astype(dtype)[top][:, left]
    for row in np.unique(top):
        columns = np.flatnonzero(counts[row, left] > 1)
        if columns.size == 0:
            continue
        rows = slice(int(np.searchsorted(top, row)), int(np.searchsorted(top, row, side="right")))
        labels = np.flatnonzero(candidate[:, row, counts[row] > 1].any(axis=1))
        band = logits[labels][:, [row, bottom[rows.start]]]
        start = band[:, :, left[columns]]
        wide = start + (band[:, :, right[columns]] - start) * across[columns]
        winners[rows, columns] = labels.astype(dtype)[_largest(wide, down[rows])]
    return winners


def resize_nearest(classes: Array, size: tuple[int, int]) -> Array:
    """A class map at another size: each pixel takes the class under its center.

    Args:
        classes: (h, w) integer class map.
        size: (height, width) of the result in pixels.

    Returns:
        (height, width), the same dtype.
    """
    rows, columns = (((2 * np.arange(to) + 1) * of) // (2 * to) for to, of in zip(size, classes.shape, strict=True))
    resized: Array = np.ascontiguousarray(classes[rows][:, columns])
    return resized


def best_classes(logits: Array, count: int = 5) -> tuple[tuple[int, float], ...]:
    """The `count` best classes of (classes,) logits with their softmax probabilities 0..1, the best first.

    Raises:
        StageError: `logits` holds NaN or infinity.
    """
    if not np.isfinite(logits).all():
        raise StageError("softmax", "the logits", "they hold NaN or infinity", hint="check it with 'verify'")
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-logits, kind="stable")[:count]
    return tuple((int(index), float(probabilities[index])) for index in order)


def _largest(wide: Array, down: Array) -> Array:
    """Which of `wide` (labels, 2, columns) is largest `down` of the way from its first row to its second."""
    best = np.full((len(down), wide.shape[2]), -np.inf, dtype=np.float32)
    winner = np.zeros(best.shape, dtype=np.intp)
    for place, (upper, lower) in enumerate(wide):
        value = upper + (lower - upper) * down[:, None]
        np.copyto(winner, place, where=value > best)
        np.maximum(best, value, out=best)
    return winner


def _taps(source: int, target: int) -> tuple[Array, Array, Array]:
    """For each of `target` pixels: its two neighbors among `source` samples and the second one's weight.

    Source: the half-pixel rule of torch.nn.functional.interpolate and of ONNX Resize.
    """
    place = np.clip((np.arange(target, dtype=np.float64) + 0.5) * source / target - 0.5, 0.0, source - 1.0)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, source - 1), (place - first).astype(np.float32)


def _candidates(logits: Array) -> Array:
    """(classes, h, w) bool: which classes can win between a logit and its right and lower neighbors."""
    bounds = []
    for pick in (np.minimum, np.maximum):
        across = logits.copy()
        pick(across[:, :, :-1], logits[:, :, 1:], out=across[:, :, :-1])
        both = across.copy()
        pick(both[:, :-1], across[:, 1:], out=both[:, :-1])
        bounds.append(both)
    slack = np.float32(_ROUNDING * max(float(-logits.min()), float(logits.max())))
    possible: Array = bounds[1] >= bounds[0].max(axis=0) - slack
    return possible
