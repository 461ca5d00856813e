"""Judges: what counts a model's answers against labels and masks, one per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from mscsa_deploy.core.tensors import Array, TensorSpec
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.imaging.classmap import class_map, resize_nearest
from mscsa_deploy.parity.metrics import ConfusionMatrix, ImageScores, TopK

if TYPE_CHECKING:
    from mscsa_deploy.imaging.preprocess import Preprocess

HEADLINES: Mapping[Task, str] = MappingProxyType({"seg": "mIoU", "cls": "top-1"})
"""The metric that a task is judged by first."""


def class_count(outputs: Sequence[TensorSpec], labels: Sequence[str]) -> int:
    """How many classes a model with these outputs tells apart; 0 where neither they nor its labels say it."""
    output = outputs[0] if outputs else None
    if output is not None and output.dtype.startswith("float") and len(output.shape) > 1 and output.shape[1] > 0:
        return output.shape[1]
    return len(labels)


def judge_for(task: Task, classes: int, spec: Preprocess) -> Judge:
    """What scores a model's answers by the task metric.

    Args:
        task: ``"cls"`` or ``"seg"``.
        classes: How many there are; 0 where nothing tells: then those that occur are counted.
        spec: Says at which size the model segments.
    """
    return _SegmentationJudge(classes, spec) if task == "seg" else _ClassificationJudge()


class Judge(Protocol):
    """Counts answers against labels or masks; images without one are not counted."""

    def add(self, output: Array, target: int | Array | None) -> None:
        """Count one answer, (1, classes, ...) values or a (1, H, W) class map, against the image's target."""

    def extend(self, other: Self) -> None:
        """Add what another judge of the same kind counted."""

    def scores(self) -> dict[str, ImageScores]:
        """Per-image counts by metric name, the headline metric first; empty when nothing was counted."""


@dataclass
class _SegmentationJudge:
    """Class maps at the picture's size against masks."""

    classes: int
    spec: Preprocess
    matrix: ConfusionMatrix = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(self.classes or None)

    def add(self, output: Array, target: int | Array | None) -> None:
        if not isinstance(target, np.ndarray):
            return
        answer = output[0]
        if answer.ndim == 3:
            answer = class_map(answer, (self.spec.height, self.spec.width))
        self.matrix.add(target, resize_nearest(answer, target.shape[:2]))

    def extend(self, other: Self) -> None:
        self.matrix.extend(other.matrix)

    def scores(self) -> dict[str, ImageScores]:
        if not self.matrix.images:
            return {}
        return {HEADLINES["seg"]: self.matrix.mean_iou(), "pixel accuracy": self.matrix.pixel_accuracy()}


@dataclass
class _ClassificationJudge:
    """Logits against labels."""

    ranks: TopK = field(default_factory=TopK)

    def add(self, output: Array, target: int | Array | None) -> None:
        if isinstance(target, int):
            self.ranks.add(output, np.array([target]))

    def extend(self, other: Self) -> None:
        self.ranks.extend(other.ranks)

    def scores(self) -> dict[str, ImageScores]:
        if not self.ranks.images:
            return {}
        return {HEADLINES["cls"]: self.ranks.top(1), "top-5": self.ranks.top(5)}
