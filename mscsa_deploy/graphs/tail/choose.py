"""Choosing a tail by measuring, and judging that two tails give the same class map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.errors import StageError
from mscsa_deploy.graphs.tail.files import write_with_tail
from mscsa_deploy.graphs.tail.grid import TailShape, axis_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mscsa_deploy.core.tensors import Array

# Two values closer than this share of the logits' range are equal up to float32 rounding.
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class TailChoice:
    """What was chosen and why.

    Args:
        form: Name of the fastest form.
        path: Its file.
        scores_ms: What `score` said of every form measured.
    """

    form: str
    path: Path
    scores_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class PixelCheck:
    """How two class maps of the same logits compare.

    Args:
        pixels: Of the map.
        different: Pixels whose class differs.
        ties: Of those, pixels where both classes have the same interpolated logit up to rounding.
    """

    pixels: int
    different: int
    ties: int

    @property
    def equal(self) -> bool:
        """Whether the maps are the same but for ties."""
        return self.different == self.ties


def choose_tail(
    logits_model: Path,
    names: Sequence[str],
    *,
    score: Callable[[Sequence[Path]], Sequence[float]],
    folder: Path,
) -> TailChoice:
    """The form of `names` with the lowest `score`.

    Args:
        logits_model: ONNX file from pictures to logits (N, C, h, w); the class map has the pictures' size.
        names: Forms to measure, from `forms.forms_for`.
        score: Latencies in ms of ONNX files on the runtime and device in question, all files together, so that
            they can take turns, and on real pictures: the dynamic forms take as long as the picture is intricate.
        folder: Receives one file per form.

    Raises:
        StageError: `names` is empty, or a form left an invalid graph.
        UserError: The model does not fit.
    """
    if not names:
        raise StageError("tail", logits_model.name, "there is no form to choose from")
    files = {name: folder / f"{logits_model.stem}.{name}.onnx" for name in names}
    for name, path in files.items():
        write_with_tail(logits_model, name, path)
    scores = dict(zip(files, score(tuple(files.values())), strict=True))
    best = min(scores, key=lambda name: scores[name])
    return TailChoice(best, files[best], scores)


def check_pixels(logits: Array, reference: Array, candidate: Array, *, tie: float = TIE) -> PixelCheck:
    """How `candidate` compares with `reference`, the class map of the plain form.

    Args:
        logits: (N, C, h, w) float32 that both maps were made from.
        reference: (N, H, W) class map of form `plain`.
        candidate: (N, H, W) class map of another form.
        tie: Two values closer than this share of the logits' range count as equal.
    """
    shape = TailShape.between(logits.shape, reference.shape[1:])
    images, rows, columns = np.nonzero(reference != candidate)
    tall, wide = axis_matrix(shape.height, shape.scale), axis_matrix(shape.width, shape.scale)

    def values(classes: Array) -> Array:
        maps = logits[images, classes[images, rows, columns]].astype(np.float64)
        result: Array = np.einsum("nh,nhw,nw->n", tall[rows], maps, wide[columns])
        return result

    gap = np.abs(values(reference) - values(candidate))
    ties = int((gap <= tie * float(np.ptp(logits))).sum())
    return PixelCheck(reference.size, len(rows), ties)
