"""Task metrics from labels: mean intersection over union, pixel accuracy, top-k accuracy; all in percent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mscsa_deploy.errors import SpecError, UserError

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array

MOST_CLASSES = 4096
"""Beyond this, class numbers that a model gave out are taken for damage where its number of classes is not known."""
IGNORE = 255
"""Pixels of this class in a mask are not judged."""
FROM_ONE = (
    "if 0 is unlabeled in these masks and classes begin at 1, as in ADE20K's own, name the folders in a TOML file "
    "with 'reduce_zero_label = true'"
)


class ImageScores(Protocol):
    """One metric's counts per image, from which its value over any weighting of the images follows."""

    @property
    def images(self) -> int:
        """How many images were scored."""

    def values(self, weights: Array) -> Array:
        """The metric in percent for each weighting.

        Args:
            weights: (weightings, images) float64, how often each image counts.

        Returns:
            (weightings,) float64, 0..100.
        """


@dataclass(frozen=True, slots=True)
class MeanIou:
    """Per image and class: pixels shared, true and predicted; each (images, classes) int64."""

    shared: Array
    reference: Array
    predicted: Array

    @property
    def images(self) -> int:
        """How many images were scored."""
        return int(self.shared.shape[0])

    def values(self, weights: Array) -> Array:
        """Mean over the classes that the reference or the prediction holds, as mmsegmentation averages."""
        shared = weights @ self.shared.astype(np.float64)
        union = weights @ (self.reference + self.predicted - self.shared).astype(np.float64)
        present = union > 0
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=present)
        mean: Array = 100.0 * iou.sum(axis=1) / np.maximum(1, present.sum(axis=1))
        return mean


@dataclass(frozen=True, slots=True)
class Fraction:
    """Per image: how many units were right and how many were judged; each (images,) int64."""

    right: Array
    judged: Array

    @property
    def images(self) -> int:
        """How many images were scored."""
        return int(self.right.shape[0])

    def values(self, weights: Array) -> Array:
        """Units that were right, over the units judged."""
        right, judged = weights @ self.right.astype(np.float64), weights @ self.judged.astype(np.float64)
        fraction: Array = 100.0 * right / np.maximum(1.0, judged)
        return fraction


def value(scores: ImageScores) -> float:
    """The metric over all images, each counted once; percent."""
    return float(scores.values(np.ones((1, scores.images)))[0])


class ConfusionMatrix:
    """Counts pixels by true and predicted class, image by image.

    Args:
        num_classes: Classes are 0..num_classes-1; None where nothing tells how many there are, then as many as occur.

    Source: the counting and averaging of mmsegmentation's IoUMetric and of the Pascal VOC evaluation.
    """

    def __init__(self, num_classes: int | None) -> None:
        if num_classes is not None and num_classes < 1:
            raise UserError(f"a metric over {num_classes} classes", hint="the model must have at least one class")
        self._known = num_classes is not None
        self._total = np.zeros((num_classes or 1, num_classes or 1), dtype=np.int64)
        self._counts: list[Array] = []

    def add(self, reference: Array, predicted: Array) -> Array:
        """Count one image and return its matrix, (classes, classes) int64, rows are the reference's classes.

        Args:
            reference: (H, W) integer mask, `IGNORE` where a pixel is not judged.
            predicted: (H, W) integer class map.

        Raises:
            SpecError: The shapes differ, a value is no integer, or a class is out of range.
        """
        reference, predicted = np.asarray(reference), np.asarray(predicted)
        if reference.shape != predicted.shape:
            raise SpecError(
                f"the class map is {list(predicted.shape)} and its mask {list(reference.shape)}",
                hint="score at the size of the mask: resize the class map by nearest",
            )
        if reference.dtype.kind not in "iu" or predicted.dtype.kind not in "iu":
            raise SpecError(f"class maps are integers, not {reference.dtype} and {predicted.dtype}")
        judged = reference != IGNORE
        true, guess = reference[judged].astype(np.int64), predicted[judged].astype(np.int64)
        self._check_range(true, "mask")
        self._check_range(guess, "class map")
        if not self._known:
            self._widen(1 + max(int(classes.max(initial=0)) for classes in (true, guess)))
        matrix = np.bincount(true * self.num_classes + guess, minlength=self.num_classes**2)
        matrix = matrix.reshape(self.num_classes, self.num_classes)
        self._total += matrix
        self._counts.append(np.stack([np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)]))
        return matrix

    def extend(self, other: ConfusionMatrix) -> None:
        """Add every image that `other` counted, after those counted here.

        Raises:
            SpecError: `other` counts another number of classes.
        """
        if not self._known and not other._known:
            width = max(self.num_classes, other.num_classes)
            self._widen(width)
            other._widen(width)
        if other.num_classes != self.num_classes:
            raise SpecError(f"confusion matrices of {self.num_classes} and {other.num_classes} classes do not add up")
        # Counts that came from another process may be read-only.
        self._total = self._total + other._total
        self._counts += other._counts

    def _check_range(self, classes: Array, what: str) -> None:
        limit = self.num_classes if self._known else MOST_CLASSES
        if classes.size and not 0 <= classes.min() <= classes.max() < limit:
            wrong = int(classes.max() if classes.min() >= 0 else classes.min())
            raise SpecError(
                f"the {what} holds class {wrong}, expected 0..{limit - 1} or {IGNORE} for pixels that are not judged",
                hint=FROM_ONE if wrong == limit else "check the model's class count and the masks' values",
            )

    def _widen(self, classes: int) -> None:
        """Make room for as many classes, if there is less."""
        more = classes - self.num_classes
        if more > 0:
            self._total = np.pad(self._total, ((0, more), (0, more)))
            self._counts = [np.pad(counts, ((0, 0), (0, more))) for counts in self._counts]

    @property
    def num_classes(self) -> int:
        """How many classes are told apart; where nothing tells, one more than the highest that occurred."""
        return len(self._total)

    @property
    def matrix(self) -> Array:
        """The sum over all images, (classes, classes) int64, rows are the reference's classes."""
        return self._total.copy()

    @property
    def images(self) -> int:
        """How many images were counted."""
        return len(self._counts)

    def mean_iou(self) -> MeanIou:
        """The counts behind the mean IoU, per image.

        Raises:
            UserError: No image was counted.
        """
        counts = self._stacked()
        return MeanIou(counts[:, 0], counts[:, 1], counts[:, 2])

    def pixel_accuracy(self) -> Fraction:
        """The counts behind the pixel accuracy, per image."""
        counts = self._stacked()
        return Fraction(counts[:, 0].sum(axis=1), counts[:, 1].sum(axis=1))

    def class_iou(self) -> Array:
        """IoU per class over all images, (classes,) float64 percent; NaN for a class that never occurs."""
        shared = np.diagonal(self._total).astype(np.float64)
        union = self._total.sum(axis=0) + self._total.sum(axis=1) - shared
        iou: Array = np.divide(100.0 * shared, union, out=np.full_like(shared, np.nan), where=union > 0)
        return iou

    def _stacked(self) -> Array:
        if not self._counts:
            raise UserError("no image was scored", hint="give at least one labeled image")
        return np.stack(self._counts)


class TopK:
    """Counts images whose true class is among the k highest scores.

    Equal scores rank by class number, and a row with NaN is wrong, so that a model which answers the same
    for every class is right by chance only.
    """

    def __init__(self) -> None:
        self._ranks: list[Array] = []

    def add(self, scores: Array, labels: Array) -> None:
        """Count a batch.

        Args:
            scores: (N, classes) float, logits or probabilities.
            labels: (N,) integer classes.

        Raises:
            SpecError: The shapes do not fit or a label is out of range.
        """
        scores, labels = np.asarray(scores), np.asarray(labels)
        if scores.ndim != 2 or labels.shape != scores.shape[:1]:
            raise SpecError(
                f"scores {list(scores.shape)} and labels {list(labels.shape)}, expected (N, classes) and (N,)"
            )
        classes = scores.shape[1]
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise SpecError(f"a label lies outside 0..{classes - 1}: {int(labels.min())}..{int(labels.max())}")
        true = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
        ahead = (scores == true) & (np.arange(classes)[None, :] < labels[:, None])
        rank = np.count_nonzero((scores > true) | ahead, axis=1)
        self._ranks.append(np.where(np.isnan(scores).any(axis=1), classes, rank))

    def extend(self, other: TopK) -> None:
        """Add every image that `other` counted, after those counted here."""
        self._ranks += other._ranks

    @property
    def images(self) -> int:
        """How many images were counted."""
        return sum(len(rank) for rank in self._ranks)

    def top(self, k: int) -> Fraction:
        """The counts behind top-`k` accuracy, per image.

        Raises:
            UserError: No image was counted.
        """
        if not self.images:
            raise UserError("no image was scored", hint="give at least one labeled image")
        rank = np.concatenate(self._ranks)
        return Fraction((rank < k).astype(np.int64), np.ones_like(rank, dtype=np.int64))
