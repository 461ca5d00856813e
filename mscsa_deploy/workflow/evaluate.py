"""Accuracy and agreement of one artefact over an image set, measured through the session that an app would use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.files import content_key
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.report import Metric
from mscsa_deploy.core.tensors import Array, TensorSpec
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.imaging.preprocess import Preprocess, model_input, preprocess
from mscsa_deploy.parity.bootstrap import paired_drop
from mscsa_deploy.parity.compare import Comparator, Parity
from mscsa_deploy.parity.metrics import ImageScores, value
from mscsa_deploy.workflow.judge import Judge, judge_for

if TYPE_CHECKING:
    from mscsa_deploy.imaging.dataset import Dataset
    from mscsa_deploy.runtimes.protocol import Session


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images something is judged on, and how the model wants to see them.

    Args:
        dataset: Images and, where there are any, labels or masks.
        preprocess: The model's own preprocessing.
        task: ``"cls"`` or ``"seg"``.
        classes: Of the model's output; 0 if not known.
        limit: At most this many images, the first ones; None for all.
    """

    dataset: Dataset
    preprocess: Preprocess
    task: Task
    classes: int
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.dataset) if self.limit is None else min(self.limit, len(self.dataset))

    @property
    def key(self) -> str:
        """Changes whenever a picture, a target, or how either is read does."""
        targets = [self.dataset.target_hash(index) for index in range(len(self))]
        facts = {"task": self.task, "classes": self.classes, "preprocess": to_plain(self.preprocess)}
        return content_key({**facts, "images": self.hashes, "targets": targets})

    @property
    def hashes(self) -> tuple[str, ...]:
        """Content hash of every image, in order."""
        return tuple(self.dataset.content_hash(index) for index in range(len(self)))

    def judge(self) -> Judge:
        """What scores a model's answers to these images by the task metric."""
        return judge_for(self.task, self.classes, self.preprocess)

    def input(self, index: int) -> Array:
        """Image `index` as the model takes it, (1, 3, h, w) float32."""
        return preprocess(self.dataset.load(index)[0], self.preprocess)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one artefact answered over an image set.

    Args:
        images: How many images were run.
        scores: Per-image counts by metric name, the headline metric first; empty without labels.
        parity: How far the outputs lie from the reference's; None when this is the reference.
        parts: Headline metric over the named parts of the set (e.g. seen and held-out objects), percent.
        kept: Whether it was taken from an earlier run of the same.
    """

    images: int
    scores: Mapping[str, ImageScores] = field(default_factory=dict)
    parity: Parity | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    kept: bool = False

    def metric(self, reference: Evaluation | None) -> Metric | None:
        """The headline metric with its drop against `reference` and the paired bootstrap interval."""
        if not self.scores:
            return None
        (name, headline), *rest = self.scores.items()
        others = {other: round(value(scores), 4) for other, scores in rest}
        others |= {f"{name} {part}": round(percent, 4) for part, percent in self.parts.items()}
        if reference is None or not reference.scores:
            return Metric(name=name, value=value(headline), images=self.images, others=others)
        drop = paired_drop(reference.scores[name], headline)
        return Metric(
            name=name,
            value=drop.value,
            reference=drop.reference,
            drop=drop.points,
            drop_ci95=(drop.low, drop.high),
            images=self.images,
            others=others,
        )


def evaluate(
    session: Session,
    images: ImageSet,
    *,
    reference: Path | None = None,
    keep: Path | None = None,
    progress: Progress = silent,
    label: str = "evaluate",
) -> Evaluation:
    """Run every image of `images` and score the answers.

    Args:
        session: A loaded artefact with one image input, batch 1.
        images: What to run.
        reference: Outputs that an earlier call kept, to compare with.
        keep: Where to keep this run's outputs, a ``.npy`` of (images, ...).
        progress: Told about every image.
        label: What the progress calls this.

    Raises:
        UserError: The session takes more than one image, or there are no images.
        StageError: It failed on an image.
    """
    (found,) = evaluate_all([session], images, reference=reference, keep=keep, progress=progress, label=label)
    if isinstance(found, StageError):
        raise found
    return found


def evaluate_all(
    sessions: Sequence[Session],
    images: ImageSet,
    *,
    reference: Path | None = None,
    keep: Path | None = None,
    progress: Progress = silent,
    label: str = "evaluate",
) -> list[Evaluation | StageError]:
    """As `evaluate` for several sessions, with each image decoded once; one that fails does not stop the others.

    Args:
        sessions: All of them take one picture.
        images: What to run.
        reference: Outputs that an earlier call kept, to compare with.
        keep: Where to keep the outputs of the first session.
        progress: Told about every image.
        label: What the progress calls this.
    """
    if len(images) == 0:
        raise UserError(f"'{images.dataset.name}' holds no images", hint="name a folder of images")
    expected = np.load(reference, mmap_mode="r") if reference is not None else None
    runs = [_Run(session, images.judge(), None if expected is None else Comparator()) for session in sessions]
    kept: Array | None = None
    for index in range(len(images)):
        progress(index, len(images), label)
        image, target = images.dataset.load(index)
        tensors = {
            dtype: model_input(image, images.preprocess, dtype) for dtype in {run.declared.dtype for run in runs}
        }
        for run in runs:
            run.add(
                tensors[run.declared.dtype],
                target,
                None if expected is None else expected[index : index + 1],
                name=str(index),
            )
        if keep is not None and runs[0].output is not None:
            if kept is None:
                shape = (len(images), *runs[0].output.shape[1:])
                kept = np.lib.format.open_memmap(keep, mode="w+", dtype=runs[0].output.dtype, shape=shape)
            kept[index] = runs[0].output[0]
    progress(len(images), len(images), label)
    return [run.failure or run.result(images) for run in runs]


@dataclass
class _Run:
    """One session on its way over the images."""

    session: Session
    judge: Judge
    comparator: Comparator | None
    output: Array | None = None
    failure: StageError | None = None

    @property
    def declared(self) -> TensorSpec:
        """Its picture input."""
        return self.session.inputs[0]

    def add(self, tensor: Array, target: int | Array | None, expected: Array | None, *, name: str) -> None:
        if self.failure is not None:
            return
        try:
            self.output = next(iter(self.session.run({self.declared.name: tensor}).values()))
        except StageError as error:
            self.output, self.failure = None, error
            return
        if self.comparator is not None and expected is not None:
            self.comparator.add(expected, self.output, names=[name])
        self.judge.add(self.output, target)

    def result(self, images: ImageSet) -> Evaluation:
        scores = self.judge.scores()
        return Evaluation(
            images=len(images),
            scores=scores,
            parity=self.comparator.result() if self.comparator else None,
            parts=part_values(images, scores),
        )


def part_values(images: ImageSet, scores: Mapping[str, ImageScores]) -> dict[str, float]:
    """The headline metric over each named part of the set, where the set has parts."""
    part_of: Callable[[int], str] | None = getattr(images.dataset, "part_of", None)
    if part_of is None or not scores:
        return {}
    headline = next(iter(scores.values()))
    parts = [part_of(index) for index in range(len(images))]
    weights = {part: np.array([[float(other == part) for other in parts]]) for part in dict.fromkeys(parts)}
    if len(weights) < 2:
        return {}
    return {part: float(headline.values(weight)[0]) for part, weight in weights.items()}
