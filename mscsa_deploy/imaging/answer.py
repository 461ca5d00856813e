"""From a network's logits to the answer people see: a class map at input size, or the best classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mscsa_deploy.errors import SpecError

Floats = npt.NDArray[np.float32]


def class_map(logits: Floats, size: tuple[int, int]) -> npt.NDArray[np.uint8 | np.uint16]:
    """The class of each pixel after bilinear upsampling (half-pixel centers, as the models were trained).

    Works on one band between two rows of logits at a time, and there only on classes that can win: a bilinear
    value lies between its four corners, so a class whose largest corner is below another class's smallest one
    in every cell of the band is never the answer.

    Args:
        logits: (classes, h, w) float32.
        size: (height, width) of the result in pixels, not below (h, w).

    Returns:
        (height, width) uint8, or uint16 past 256 classes; the lowest class where classes are equal.

    Raises:
        SpecError: `logits` has another rank, or is larger than `size`.
    """
    if logits.ndim != 3 or logits.shape[1] > size[0] or logits.shape[2] > size[1]:
        raise SpecError(
            f"logits of shape {list(logits.shape)} cannot become a class map of {size[0]}x{size[1]}"
        )
    dtype = np.uint8 if logits.shape[0] <= 256 else np.uint16
    source = np.ascontiguousarray(logits.transpose(1, 2, 0))
    top, bottom, down = _taps(source.shape[0], size[0])
    left, right, across = _taps(source.shape[1], size[1])
    result = np.empty(size, dtype=dtype)
    for first in np.unique(top):
        rows = np.flatnonzero(top == first)
        band = source[[first, bottom[rows[-1]]]]
        classes = _possible_winners(band)
        band = np.ascontiguousarray(band[:, :, classes])
        columns = band[:, left] + (band[:, right] - band[:, left]) * across[None, :, None]
        values = columns[0] + (columns[1] - columns[0]) * down[rows][:, None, None]
        result[rows] = classes[np.argmax(values, axis=-1)]
    return result


def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Per target index: the two source indices and the weight of the second; clamped at the borders."""
    center = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(center).astype(np.intp)
    return low, np.minimum(low + 1, source - 1), (center - low).astype(np.float32)


def _possible_winners(band: Floats) -> npt.NDArray[np.intp]:
    """Classes of a (2, w, classes) band that may be largest somewhere, in ascending order."""
    high, low = band.max(axis=0), band.min(axis=0)
    if len(high) > 1:
        high, low = np.maximum(high[:-1], high[1:]), np.minimum(low[:-1], low[1:])
    return np.flatnonzero((high >= low.max(axis=1, keepdims=True)).any(axis=0))


def best_classes(logits: Floats, count: int = 5) -> tuple[tuple[int, float], ...]:
    """The `count` best classes of (classes,) logits with their softmax probabilities, the best first."""
    shifted = np.exp(logits - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple((int(index), float(probabilities[index])) for index in order)
