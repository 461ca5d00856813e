"""How certain a drop in a task metric is: the paired bootstrap over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.errors import UserError
from mscsa_deploy.parity.metrics import ImageScores, value

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array

RESAMPLES = 2000
SEED = 20261122
_CELLS_PER_CHUNK = 2_000_000


@dataclass(frozen=True, slots=True)
class Drop:
    """Reference minus candidate, in points; a gain is negative.

    Args:
        reference: The reference's value, percent.
        value: The candidate's value, percent.
        points: `reference` - `value`.
        low: Lower end of the 95 % interval of `points`.
        high: Upper end of it.
        images: How many images both were scored on.
    """

    reference: float
    value: float
    points: float
    low: float
    high: float
    images: int


def paired_drop(reference: ImageScores, candidate: ImageScores, *, seed: int = SEED) -> Drop:
    """The drop from `reference` to `candidate` with its paired bootstrap percentile interval (95 %).

    Images are drawn with replacement, the same draw for both sides, so that what both find hard cancels.

    Args:
        reference: Per-image counts of the reference.
        candidate: Per-image counts of the candidate, over the same images in the same order.
        seed: Of the draws; the same seed gives the same interval.

    Raises:
        UserError: The two were not scored on equally many images, or on none.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    images = reference.images
    if images != candidate.images or images == 0:
        raise UserError(
            f"the reference was scored on {images} images and the candidate on {candidate.images}",
            hint="score both on the same images",
        )
    random = np.random.default_rng(seed)
    chunk = max(1, _CELLS_PER_CHUNK // images)
    drops = []
    for start in range(0, RESAMPLES, chunk):
        weights = _draws(random, min(chunk, RESAMPLES - start), images)
        drops.append(reference.values(weights) - candidate.values(weights))
    low, high = np.percentile(np.concatenate(drops), [2.5, 97.5])
    before, after = value(reference), value(candidate)
    return Drop(before, after, before - after, float(low), float(high), images)


def _draws(random: np.random.Generator, count: int, images: int) -> Array:
    """(count, images) float64: how often each image was drawn in each of `count` draws of `images` images."""
    return random.multinomial(images, np.full(images, 1.0 / images), size=count).astype(np.float64)
