"""Running a reference and its candidates over images, side by side, and adding up what they answered."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.core.tensors import Array, TensorSpec
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import SpecError, StageError, UnsupportedError, UserError
from mscsa_deploy.imaging.preprocess import model_input
from mscsa_deploy.parity.compare import Comparator
from mscsa_deploy.workflow.evaluate import ImageSet
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.judge import Judge, class_count

if TYPE_CHECKING:
    from mscsa_deploy.imaging.preprocess import Preprocess
    from mscsa_deploy.parity.opened import RunFile
    from mscsa_deploy.runtimes.protocol import Session
    from mscsa_deploy.workflow.contestants import Contestant


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is run on what; everything a worker process needs to do its part.

    Args:
        reference: What the others are held against.
        candidates: The others, each of which can run here.
        place: The images: a folder, a list, or a shipped set.
        task: ``"cls"`` or ``"seg"``.
        preprocess: How a picture becomes the input of all of them.
        labels: Class names; empty if unknown.
        limit: At most so many images; None for all.
        threads: Compute threads of each session.
    """

    reference: Contestant
    candidates: tuple[Contestant, ...]
    place: str
    task: Task
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    limit: int | None = None
    threads: int = 1

    def images(self, classes: int | None = None) -> ImageSet:
        """The images, to be scored with `classes` classes, or as many as occur if 0; with None nothing is scored."""
        dataset = open_images(self.place, self.task, classes, self.labels)
        return ImageSet(dataset, self.preprocess, self.task, classes or 0, self.limit)


@dataclass(slots=True)
class Score:
    """What one contestant answered over some images.

    Args:
        judge: Its answers against labels or masks.
        outputs: Its outputs against the reference's, by the reference's name; empty for the reference.
        executed: Arithmetic that it really ran in.
        failure: Why it stopped; empty while it runs.
    """

    judge: Judge
    outputs: dict[str, Comparator] = field(default_factory=dict)
    executed: str = ""
    failure: str = ""

    def extend(self, other: Score) -> None:
        """Add what it answered over further images."""
        self.judge.extend(other.judge)
        for name, comparator in other.outputs.items():
            self.outputs.setdefault(name, Comparator()).extend(comparator)
        self.executed, self.failure = self.executed or other.executed, self.failure or other.failure


def run_part(contest: Contest, indices: Sequence[int] | None = None, progress: Progress = silent) -> list[Score]:
    """Run the reference and every candidate over the images `indices` (all if None), each image once.

    Returns:
        One score for the reference and one per candidate, in that order.

    Raises:
        UserError: There are no images, or a model does not take one picture of the size that is preprocessed to.
        UnsupportedError: The reference cannot run here.
        StageError: The reference failed.
    """
    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(_open(contest.reference, contest))
        images = contest.images(_classes(reference, contest))
        if len(images) == 0:
            raise UserError(f"'{images.dataset.name}' holds no images", hint="name a folder of images")
        scores = [Score(images.judge()) for _ in range(1 + len(contest.candidates))]
        sessions: dict[int, Session] = {}
        for position, candidate in enumerate(contest.candidates, start=1):
            try:
                sessions[position] = stack.enter_context(_open(candidate, contest))
                scores[position].executed = sessions[position].executed_precision
            except (StageError, UnsupportedError) as error:
                scores[position].failure = str(error)
        scores[0].executed = reference.executed_precision
        wanted = range(len(images)) if indices is None else indices
        for done, index in enumerate(wanted):
            progress(done, len(wanted), "verify")
            _run_image(images, index, reference, sessions, scores)
        progress(len(wanted), len(wanted), "verify")
    return scores


def _open(contestant: Contestant, contest: Contest) -> Session:
    """A session for `contestant`, which takes one picture of the size that is preprocessed to."""
    from mscsa_deploy.runtimes import RUNTIMES

    session = RUNTIMES.load(contestant.runtime)().load(contestant.path, contestant.settings(contest.threads))
    spec, size = session.inputs[0], (contest.preprocess.height, contest.preprocess.width)
    wanted = (1, *size, 3) if spec.dtype == "uint8" else (1, 3, *size)
    fits = len(spec.shape) == 4 and all(size in (-1, want) for size, want in zip(spec.shape, wanted, strict=True))
    if len(session.inputs) != 1 or not fits or spec.dtype not in ("float32", "uint8"):
        session.close()
        inputs = ", ".join(f"{each.name} {each.dtype} {list(each.shape)}" for each in session.inputs)
        raise SpecError(
            f"'{contestant.label}' takes {inputs}, expected one picture of {size[0]}x{size[1]} pixels, float32 NCHW or "
            "uint8 NHWC, as the reference's preprocessing makes it",
            hint="compare models of one input size, or give the right --preprocess",
        )
    return session


def _classes(session: Session, contest: Contest) -> int:
    """How many classes a model tells apart: as it declares, as its labels are, as it answers; 0 for class maps."""
    known = class_count(session.outputs, contest.labels)
    if known:
        return known
    declared = session.inputs[0]
    picture = np.zeros((contest.preprocess.height, contest.preprocess.width, 3), np.uint8)
    answers = session.run({declared.name: model_input(picture, contest.preprocess, declared.dtype)})
    return class_count([TensorSpec(name, str(each.dtype), each.shape) for name, each in answers.items()], ())


def _run_image(
    images: ImageSet, index: int, reference: Session, sessions: Mapping[int, Session], scores: Sequence[Score]
) -> None:
    image, target = images.dataset.load(index)
    made: dict[str, Array] = {}

    def run(session: Session) -> dict[str, Array]:
        declared = session.inputs[0]
        if declared.dtype not in made:
            made[declared.dtype] = model_input(image, images.preprocess, declared.dtype)
        return session.run({declared.name: made[declared.dtype]})

    expected = run(reference)
    scores[0].judge.add(next(iter(expected.values())), target)
    for position, session in sessions.items():
        score = scores[position]
        if score.failure:
            continue
        try:
            outputs = paired(expected, run(session))
        except StageError as error:
            score.failure = str(error)
            continue
        for name, answer in outputs.items():
            score.outputs.setdefault(name, Comparator()).add(expected[name], answer, names=[str(index)])
        score.judge.add(next(iter(outputs.values())), target)


def paired(expected: Mapping[str, Array], answered: Mapping[str, Array]) -> dict[str, Array]:
    """The candidate's outputs by the reference's names; outputs called otherwise are paired in order.

    Raises:
        SpecError: There are not as many of them.
    """
    if set(expected) <= set(answered):
        return {name: answered[name] for name in expected}
    if len(expected) == len(answered):
        return dict(zip(expected, answered.values(), strict=True))
    raise SpecError(
        f"the reference has the outputs {sorted(expected)}, the candidate {sorted(answered)}",
        hint="export both with the same outputs",
    )


def runner(contestant: Contestant, contest: Contest) -> RunFile:
    """What runs another file the way `contestant` is run; for `parity.bisect` and `parity.noise`.

    It is fed decoded pictures, and makes of them what its file declares: normalized values, or pixels. Other inputs get
    what the feed holds under their names.
    """

    def run(path: Path, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        from mscsa_deploy.runtimes import RUNTIMES

        settings = contestant.settings(contest.threads)
        with RUNTIMES.load(contestant.runtime)().load(path, settings) as session:
            declared, *others = session.inputs
            answers = []
            for feed in feeds:
                tensor = model_input(next(iter(feed.values())), contest.preprocess, declared.dtype)
                answers.append(session.run({declared.name: tensor, **{each.name: feed[each.name] for each in others}}))
            return answers

    return run
