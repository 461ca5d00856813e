"""`predict`: a bundle's answers to pictures, through the light runner; neither torch nor onnx is imported."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.output import write_output

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.runner import Prediction, Runner

ANSWERS = "predictions.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What to answer, and with what.

    Args:
        bundle: Directory or zip.
        images: Picture files, and folders whose pictures are meant.
        runtime: Only this one.
        precision: Only this one.
        threads: Compute threads; the bundle's own where None.
        class_maps: Also write the class map of each picture, PNG of class numbers.
    """

    bundle: Path
    images: tuple[Path, ...]
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    class_maps: bool = False


class Share(Record, frozen=True, kw_only=True):
    """A class of a segmented picture: number, name and percent of the pixels."""

    index: int
    label: str
    percent: float


class Guess(Record, frozen=True, kw_only=True):
    """A class of a classified picture: number, name and probability in percent."""

    index: int
    label: str
    percent: float


class Problem(Record, frozen=True, kw_only=True):
    """What was wrong with one picture, in the words of an error."""

    kind: str
    message: str
    hint: str


class Answer(Record, frozen=True, kw_only=True):
    """The answer to one picture.

    Args:
        image: As it was named.
        size: (height, width) in pixels; None if it could not be read.
        classes: Segmentation: the classes in it, the largest first.
        top: Classification: the best classes, the most probable first.
        overlay: Name of the overlay picture in the output directory.
        class_map: Name of the class map in the output directory.
        parts_ms: Milliseconds spent in each part.
        error: Why there is no answer; None when there is one.
    """

    image: str
    size: tuple[int, int] | None = None
    classes: tuple[Share, ...] = ()
    top: tuple[Guess, ...] = ()
    overlay: str = ""
    class_map: str = ""
    parts_ms: dict[str, float] = msgspec.field(default_factory=dict)
    error: Problem | None = None


class Answers(Record, frozen=True, kw_only=True):
    """All answers, and what gave them.

    Args:
        model: Name of the model.
        task: ``"cls"`` or ``"seg"``.
        artifact: The file of the bundle that ran.
        runtime: What ran it.
        precision: What it was asked to compute in.
        threads: Compute threads.
        images: One answer per picture, in the order asked.
        notes: What the user should know about the choice.
    """

    model: str
    task: str
    artifact: str
    runtime: str
    precision: str
    threads: int
    images: tuple[Answer, ...]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Answer, ...]:
        """The pictures without an answer."""
        return tuple(answer for answer in self.images if answer.error is not None)

    def error(self) -> UserError | None:
        """One error for all pictures that could not be read; None when all could."""
        failed = self.failed
        if not failed:
            return None
        first = failed[0].error
        assert first is not None
        if len(self.images) == 1:
            return UserError(first.message, hint=first.hint)
        return UserError(
            f"{len(failed)} of {len(self.images)} pictures have no answer: {first.message}", hint=first.hint
        )


def run_predict(
    request: PredictRequest, out: Path | None = None, *, force: bool = False, progress: Progress = silent
) -> Answers:
    """Answer every picture; with `out`, leave overlays (segmentation) and the answers there.

    A picture that cannot be read has an `error` in its answer and does not keep the others from theirs.

    Raises:
        UserError: The bundle is damaged, a name is unknown, `out` exists, or no picture at all can be read.
        UnsupportedError: Nothing in the bundle can run here as asked.
    """
    from mscsa_deploy.runner import load

    images = _pictures(request.images)
    with _kept_warnings() as notes:
        runner = load(request.bundle, runtime=request.runtime, precision=request.precision, threads=request.threads)
    with runner, contextlib.ExitStack() as stack:
        if request.class_maps and runner.manifest.task != "seg":
            raise UserError(f"'{request.bundle}' classifies, so there are no class maps", hint="drop --classmap")
        work = stack.enter_context(write_output(out, force=force)) if out is not None else None
        answers = []
        for done, (image, name) in enumerate(zip(images, _names(images), strict=True)):
            progress(done, len(images), "predict")
            answers.append(_answer(runner, image, name, work, class_maps=request.class_maps))
        found = _record(runner, tuple(answers), tuple(notes))
        error = found.error()
        if error is not None and len(found.failed) == len(images):
            raise error
        if work is not None:
            from mscsa_deploy.core.config import to_json

            (work / ANSWERS).write_bytes(to_json(found))
    return found


def _record(runner: Runner, answers: tuple[Answer, ...], notes: tuple[str, ...]) -> Answers:
    manifest, chosen = runner.manifest, runner.candidate
    if manifest.model.random_weights:
        notes = ("the model has random weights: its answers mean nothing", *notes)
    return Answers(
        model=manifest.model.name,
        task=manifest.task,
        artifact=chosen.entry.path,
        runtime=chosen.runtime,
        precision=chosen.precision,
        threads=runner.threads,
        images=answers,
        notes=notes,
    )


@contextlib.contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """The texts of the warnings that the block gives."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        yield notes
    notes += [str(warning.message) for warning in caught if warning.category is RuntimeWarning]


def _pictures(places: Sequence[Path]) -> list[Path]:
    """The named pictures, folders replaced by the pictures in them."""
    from mscsa_deploy.imaging.layouts import pictures_in

    found: list[Path] = []
    for place in places:
        inside = pictures_in(place) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"the folder '{place}' holds no pictures", hint="name picture files, or a folder of them")
        found += inside
    return found


def _names(images: Sequence[Path]) -> list[str]:
    """A file name for each picture's answer, without suffix; a second picture of one name gets a number."""
    used: dict[str, int] = {}
    names = []
    for image in images:
        used[image.stem] = used.get(image.stem, 0) + 1
        names.append(image.stem if used[image.stem] == 1 else f"{image.stem}-{used[image.stem]}")
    return names


def _answer(runner: Runner, image: Path, name: str, work: Path | None, *, class_maps: bool) -> Answer:
    from mscsa_deploy.imaging.decode import decode

    try:
        # The runner decodes again, so that the time it tells is that of a caller with a file.
        prediction = runner.predict(image)
        pixels = decode(image) if work is not None and prediction.class_map is not None else None
    except UserError as error:
        return Answer(image=str(image), error=Problem(kind=error.kind, message=error.message, hint=error.hint))
    overlay = class_map = ""
    if work is not None and pixels is not None and prediction.class_map is not None:
        overlay = _write_overlay(runner, pixels, prediction.class_map, work / f"{name}.overlay.png")
        class_map = _write_class_map(prediction.class_map, work / f"{name}.classes.png") if class_maps else ""
    return Answer(
        image=str(image),
        size=prediction.size,
        classes=_shares(runner, prediction),
        top=tuple(
            Guess(index=rank.index, label=rank.label, percent=round(100.0 * rank.probability, 4))
            for rank in prediction.top
        ),
        overlay=overlay,
        class_map=class_map,
        parts_ms={part: round(ms, 3) for part, ms in prediction.parts_ms.items()},
    )


def _shares(runner: Runner, prediction: Prediction) -> tuple[Share, ...]:
    from mscsa_deploy.imaging.overlay import shares

    if prediction.class_map is None:
        return ()
    labels = runner.manifest.labels
    return tuple(
        Share(index=index, label=labels[index], percent=round(100.0 * share, 4))
        for index, share in shares(prediction.class_map, len(labels))
    )


def _write_overlay(runner: Runner, pixels: Array, classes: Array, path: Path) -> str:
    from PIL import Image

    from mscsa_deploy.imaging.overlay import overlay, with_legend
    from mscsa_deploy.imaging.palette import default_palette

    manifest = runner.manifest
    palette = manifest.palette or default_palette(len(manifest.labels))
    drawn = with_legend(overlay(pixels, classes, palette), classes, manifest.labels, palette)
    # Of a photograph of 40 million pixels, 60 MB in 3 s; the usual level takes 14 s for 50 MB.
    Image.fromarray(drawn).save(path, compress_level=1)
    return path.name


def _write_class_map(classes: Array, path: Path) -> str:
    """Write class numbers as a gray PNG, 8 bit, or 16 bit past 256 classes; returns its name."""
    from PIL import Image

    Image.fromarray(classes).save(path)
    return path.name
