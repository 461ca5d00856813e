"""The light way to use a bundle: load it, give it pictures, get class maps or class names.

Needs numpy, Pillow, msgspec and one inference library; neither torch nor onnx.

    from mscsa_deploy.runner import load

    with load("topformer.zip") as runner:
        answer = runner.predict("street.jpg")
"""

from __future__ import annotations

import operator
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, SupportsIndex

import numpy as np
from PIL import Image

from mscsa_deploy.bundle.consistency import check_session
from mscsa_deploy.bundle.selection import Candidate, answering, made_elsewhere, select
from mscsa_deploy.bundle.store import Bundle, read_bundle
from mscsa_deploy.core.vocabulary import MOST_THREADS
from mscsa_deploy.errors import SpecError, StageError, UserError
from mscsa_deploy.imaging.classmap import best_classes, class_map, resize_nearest
from mscsa_deploy.imaging.decode import decode
from mscsa_deploy.imaging.preprocess import check_image, model_input
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import SessionSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mscsa_deploy.bundle.manifest import Manifest, Postprocess
    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.runtimes.protocol import Session

TOP = 5


@dataclass(frozen=True, slots=True)
class Ranked:
    """One class of a classification: its number, its label and its probability 0..1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one picture.

    Args:
        size: (height, width) of the picture, upright.
        class_map: Segmentation: (H, W) class numbers at the picture's size, uint8, or uint16 past 256
            classes. None for classification.
        top: Classification: the most probable classes, the best first. Empty for segmentation.
        parts_ms: Milliseconds spent in ``decode``, ``preprocess``, ``network`` and ``postprocess``.
    """

    size: tuple[int, int]
    class_map: Array | None
    top: tuple[Ranked, ...]
    parts_ms: dict[str, float]


@dataclass(slots=True, repr=False)
class Runner:
    """A loaded bundle, made by `load`; also a context manager that closes itself.

    Args:
        bundle: The verified bundle.
        candidate: What of it is running.
        threads: Compute threads.
        session: The open session.
    """

    bundle: Bundle
    candidate: Candidate
    threads: int
    session: Session

    def __repr__(self) -> str:
        return f"Runner({self.manifest.model.name}: {self.candidate}, threads={self.threads})"

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about itself."""
        return self.bundle.manifest

    def predict(self, image: str | Path | bytes | Image.Image | Array, *, top: int = TOP) -> Prediction:
        """The answer to one picture.

        Args:
            image: A path, a picture file's bytes, an image of Pillow, or (H, W, 3) uint8 RGB.
            top: How many classes a classification tells, at most; ``len(manifest.labels)`` for all of them.

        Raises:
            UserError: The picture cannot be read.
            SpecError: The array is no (H, W, 3) uint8 picture.
            StageError: The runtime failed, or the network answered with NaN.
        """
        begin = time.perf_counter()
        pixels = decode(image) if isinstance(image, str | Path | bytes | Image.Image) else image
        check_image(pixels)
        decoded = time.perf_counter()
        tensor = model_input(pixels, self.manifest.preprocess, self.candidate.entry.inputs[0].dtype)
        ready = time.perf_counter()
        output = self.run(tensor)
        answered = time.perf_counter()
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        classes, ranked = self.answer(output, size, top=top)
        marks = (begin, decoded, ready, answered, time.perf_counter())
        parts = ("decode", "preprocess", "network", "postprocess")
        spent = {name: 1e3 * (b - a) for name, a, b in zip(parts, marks, marks[1:], strict=False)}
        return Prediction(size=size, class_map=classes, top=ranked, parts_ms=spent)

    def run(self, tensor: Array) -> Array:
        """The network's output for an input tensor, as the artefact's input and postprocess record describe.

        Raises:
            SpecError: `tensor` has another dtype or shape.
        """
        entry = self.candidate.entry
        return self.session.run({entry.inputs[0].name: tensor})[entry.postprocess.tensor]

    def close(self) -> None:
        """Release the session; closing twice is allowed."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def answer(
        self, output: Array, size: tuple[int, int], *, top: int = TOP
    ) -> tuple[Array | None, tuple[Ranked, ...]]:
        """What the network's output means for a picture of `size` (height, width).

        Args:
            output: As `run` returns it, batch 1.
            size: Of the class map, in pixels.
            top: How many classes a classification tells, at most.

        Returns:
            The class map and no classes (segmentation), or None and the best classes.

        Raises:
            StageError: The network answered with NaN.
        """
        post = self.candidate.entry.postprocess
        if self.manifest.task == "cls":
            return None, self._ranked(output[0], post, top)
        spec = self.manifest.preprocess
        if post.decide == "none":
            classes = output[0]
        elif post.upsample == "bilinear":
            classes = class_map(output[0], (spec.height, spec.width))
        else:
            classes = _argmax(output[0])
        return resize_nearest(classes, size), ()

    def _ranked(self, values: Array, post: Postprocess, top: int) -> tuple[Ranked, ...]:
        if post.decide == "softmax":
            best = best_classes(values, top)
        else:
            order = np.argsort(-values, kind="stable")[:top]
            best = tuple((int(index), float(values[index])) for index in order)
        labels = self.manifest.labels
        return tuple(
            Ranked(index, labels[index] if index < len(labels) else str(index), share) for index, share in best
        )


def load(
    bundle: str | Path | Bundle,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    cache: Path | None = None,
    values: bool = False,
) -> Runner:
    """Open a bundle with the artefact that suits this machine.

    See `mscsa_deploy.bundle.selection.select` for the order of preference. Using an artefact that was made
    for instructions which this processor lacks, or may lack, or on another architecture, warns.

    Args:
        bundle: Directory, zip, or an already read bundle.
        runtime: Only this one, e.g. ``"onnxruntime"``.
        precision: Only this one: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``.
        threads: Compute threads, at most `MOST_THREADS`; by default as many as it was measured with, but no more than
            there are cores.
        cache: Directory where the runtime may keep what it compiled, to load sooner the next time.
        values: Rather an artefact that answers with values per class than one that answers with class maps.

    Raises:
        UserError: It is no bundle, a file of it was changed, a name is unknown, or `threads` is out of range.
        SpecError: The file has other inputs or outputs than the bundle says.
        UnsupportedError: Nothing in it can run here; the message says what there is and what is missing.
    """
    if threads is not None and not (
        isinstance(threads, SupportsIndex) and 1 <= operator.index(threads) <= MOST_THREADS
    ):
        raise UserError(f"threads is {threads!r}, expected 1 to {MOST_THREADS}")
    opened = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
    _check_resize(opened.manifest)
    chosen = select(opened, runtime=runtime, precision=precision, values=values)
    for doubt in _doubts(opened.manifest, chosen):
        warnings.warn(doubt, RuntimeWarning, stacklevel=2)
    return _open(opened, chosen, threads or _threads(opened.manifest, chosen), cache)


def load_answering(runner: Runner, *, cache: Path | None = None) -> Runner | None:
    """The network of `runner` once more, with its upsampling and argmax inside the graph.

    It answers with class maps sooner, and with nothing else. None where the bundle holds no such file for this
    runtime and precision, because it was not faster, or where this machine cannot run it.

    Args:
        runner: Opened with ``load(..., values=True)``; it stays open.
        cache: As of `load`.
    """
    chosen = answering(runner.candidate, runner.bundle)
    return None if chosen is None else _open(runner.bundle, chosen, runner.threads, cache)


def _open(bundle: Bundle, chosen: Candidate, threads: int, cache: Path | None) -> Runner:
    settings = SessionSettings(
        threads=threads,
        precision=chosen.precision,
        device=chosen.device,
        options=chosen.options,
        cache="" if cache is None else str(cache),
    )
    session = RUNTIMES.load(chosen.runtime)().load(bundle.file(chosen.entry.path), settings)
    try:
        check_session(session, chosen.entry)
    except SpecError:
        session.close()
        raise
    return Runner(bundle, chosen, threads, session)


def _doubts(manifest: Manifest, chosen: Candidate) -> Iterator[str]:
    """What may make `chosen` slow or wrong on this machine."""
    from mscsa_deploy.core.environment import architecture, isa_doubts

    if made := made_elsewhere(manifest):
        check = "check it with the golden pair" if manifest.golden else "check its answers"
        yield f"the bundle was measured and verified on {made}, not on {architecture()}; {check}"
    yield from isa_doubts(f"'{chosen.entry.path}'", chosen.entry.requires)


def _threads(manifest: Manifest, chosen: Candidate) -> int:
    from mscsa_deploy.core.environment import usable_cores

    choice = manifest.recommended
    wanted = choice.threads if choice is not None and choice.artifact == chosen.entry.path else chosen.threads
    return min(max(wanted, 1), usable_cores())


def _argmax(values: Array) -> Array:
    """(H, W) winning class of (classes, H, W) values; of equal values the lower class wins."""
    if not np.isfinite(values).all():
        raise StageError("argmax", "the output", "it holds NaN or infinity", hint="check it with 'verify'")
    classes: Array = np.argmax(values, axis=0).astype(np.uint8 if len(values) <= 256 else np.uint16)
    return classes


def _check_resize(manifest: Manifest) -> None:
    if manifest.task == "seg" and manifest.preprocess.resize != "stretch":
        raise UserError(
            "the bundle segments a crop of the picture, which cannot be laid back over the whole",
            hint="make the bundle with resize = 'stretch'",
        )
