"""How far one run's output lies from another's, accumulated image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.core.report import ParityNumbers
from mscsa_deploy.errors import SpecError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.core.tensors import Array

_SLAB = 1 << 20
"""Values compared at a time, so that full-size logits need no second copy in double precision."""


@dataclass(frozen=True, slots=True)
class ImageParity:
    """The comparison of one image, kept so that the worst one can be named.

    Args:
        name: What the image is called; its position when the caller gave no name.
        max_abs: Largest absolute difference; infinite where only one side is finite.
        argmax_agreement: Percent of positions with the same class, 0..100; None without classes.
    """

    name: str
    max_abs: float
    argmax_agreement: float | None


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of one output over all images.

    The four distances are None for class maps: the distance between two class numbers means nothing.

    Args:
        max_abs: Largest absolute difference over all images, in the output's unit.
        max_abs_over_range: `max_abs` over the reference's range (its maximum minus its minimum, all images).
        cosine: Cosine of the angle between the two outputs, all images flattened into one vector; -1..1.
        argmax_agreement: Percent of positions (pixels, or images for classification) where both sides pick
            the same class, 0..100; None when the output has no class axis.
        sqnr_db: Signal to noise, ``10 log10(sum reference^2 / sum difference^2)``; infinite when equal.
        images: How many images were compared.
        nonfinite: Values that are NaN or infinite on one side and not the same on the other.
        worst: The images in which the output lies furthest apart: by distance, then by agreement.
    """

    max_abs: float | None
    max_abs_over_range: float | None
    cosine: float | None
    argmax_agreement: float | None
    sqnr_db: float | None
    images: int
    nonfinite: int
    worst: tuple[ImageParity, ...]

    def numbers(self) -> ParityNumbers:
        """The parity as a report holds it."""
        fields = ("max_abs", "max_abs_over_range", "cosine", "argmax_agreement", "sqnr_db")
        values = {name: getattr(self, name) for name in fields}
        return ParityNumbers(**{n: v if v is None or math.isfinite(v) else None for n, v in values.items()})


class Comparator:
    """Adds up `Parity` over many images without keeping their outputs.

    Axis 0 counts images. Floating outputs have their classes on axis 1; integer outputs are class maps.
    """

    def __init__(self) -> None:
        self._classmap: bool | None = None
        self._max_abs = 0.0
        self._low, self._high = math.inf, -math.inf
        self._dot = self._reference_energy = self._candidate_energy = self._noise = 0.0
        self._same = self._positions = self._nonfinite = 0
        self._images: list[ImageParity] = []

    def add(self, reference: Array, candidate: Array, *, names: Sequence[str] = ()) -> None:
        """Compare the outputs of one batch.

        Args:
            reference: (N, classes, ...) float, or (N, H, W) integer class map.
            candidate: The same shape and kind.
            names: One name per image, for messages.

        Raises:
            SpecError: The two differ in shape or kind, or an earlier batch was of the other kind.
        """
        reference, candidate = np.asarray(reference), np.asarray(candidate)
        classmap = _is_classmap(reference)
        if reference.shape != candidate.shape or classmap != _is_classmap(candidate) or reference.ndim == 0:
            raise SpecError(
                f"outputs cannot be compared: the reference is {reference.dtype} {list(reference.shape)}, "
                f"the candidate {candidate.dtype} {list(candidate.shape)}",
                hint="give both models the same output boundary and input size",
            )
        if self._classmap not in (None, classmap):
            raise SpecError("outputs cannot be compared: class maps and floating values were mixed")
        self._classmap = classmap
        for position, (one, other) in enumerate(zip(reference, candidate, strict=True)):
            name = names[position] if names else str(len(self._images))
            if classmap:
                self._images.append(ImageParity(name, 0.0, self._count(one == other)))
            else:
                self._images.append(self._add_floats(name, one, other))

    def _add_floats(self, name: str, reference: Array, candidate: Array) -> ImageParity:
        max_abs = 0.0
        flat, other = reference.reshape(-1), candidate.reshape(-1)
        for start in range(0, flat.size, _SLAB):
            max_abs = max(max_abs, self._add_slab(flat[start : start + _SLAB], other[start : start + _SLAB]))
        self._max_abs = max(self._max_abs, max_abs)
        if reference.ndim == 0 or reference.shape[0] < 2:
            return ImageParity(name, max_abs, None)
        same = np.argmax(reference, axis=0) == np.argmax(candidate, axis=0)
        if math.isinf(max_abs):
            same &= ~_one_sided(reference, candidate).any(axis=0)
        return ImageParity(name, max_abs, self._count(same))

    def _add_slab(self, reference: Array, candidate: Array) -> float:
        """Add some values in double precision; returns their largest absolute difference."""
        one, other = reference.astype(np.float64), candidate.astype(np.float64)
        finite = np.isfinite(one) & np.isfinite(other)
        bad = 0
        if not finite.all():
            bad = int(_one_sided(one, other).sum())
            self._nonfinite += bad
            one, other = one[finite], other[finite]
        difference = other - one
        if one.size:
            self._low, self._high = min(self._low, float(one.min())), max(self._high, float(one.max()))
        self._dot += float(one @ other)
        self._reference_energy += float(one @ one)
        self._candidate_energy += float(other @ other)
        self._noise += float(difference @ difference)
        return math.inf if bad else float(np.abs(difference).max(initial=0.0))

    def _count(self, same: Array) -> float:
        self._same += int(np.count_nonzero(same))
        self._positions += same.size
        return 100.0 * float(np.count_nonzero(same)) / max(1, same.size)

    def extend(self, other: Comparator) -> None:
        """Add everything that `other` compared, as if it had been added here, after what was.

        Raises:
            SpecError: One compared class maps and the other floating values.
        """
        if not other._images:
            return
        if self._classmap not in (None, other._classmap):
            raise SpecError("outputs cannot be compared: class maps and floating values were mixed")
        self._classmap = other._classmap
        self._max_abs = max(self._max_abs, other._max_abs)
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)
        self._dot += other._dot
        self._reference_energy += other._reference_energy
        self._candidate_energy += other._candidate_energy
        self._noise += other._noise
        self._same += other._same
        self._positions += other._positions
        self._nonfinite += other._nonfinite
        self._images += other._images

    def result(self) -> Parity:
        """The comparison of everything added so far.

        Raises:
            UserError: Nothing was added.
        """
        if not self._images:
            raise UserError("nothing was compared", hint="give at least one image")
        agreement = 100.0 * self._same / self._positions if self._positions else None
        max_abs = over_range = cosine = sqnr_db = None
        if self._nonfinite:
            max_abs, over_range, cosine, sqnr_db = math.inf, math.inf, 0.0, -math.inf
        elif not self._classmap:
            max_abs, over_range = self._max_abs, _ratio(self._max_abs, self._high - self._low)
            cosine, sqnr_db = self._cosine(), self._sqnr_db()
        return Parity(
            max_abs=max_abs,
            max_abs_over_range=over_range,
            cosine=cosine,
            argmax_agreement=agreement,
            sqnr_db=sqnr_db,
            images=len(self._images),
            nonfinite=self._nonfinite,
            worst=self._worst(),
        )

    def _cosine(self) -> float:
        if self._noise == 0.0:
            return 1.0
        norm = math.sqrt(self._reference_energy) * math.sqrt(self._candidate_energy)
        return min(1.0, max(-1.0, self._dot / norm)) if norm else 0.0

    def _sqnr_db(self) -> float:
        if self._noise == 0.0:
            return math.inf
        if self._reference_energy == 0.0:
            return -math.inf
        return 10.0 * math.log10(self._reference_energy / self._noise)

    def _worst(self) -> tuple[ImageParity, ...]:
        furthest = max(self._images, key=lambda image: image.max_abs)
        least = min(
            self._images,
            key=lambda image: 100.0 if image.argmax_agreement is None else image.argmax_agreement,
        )
        return (furthest, least)


def _one_sided(reference: Array, candidate: Array) -> Array:
    """Where a value is NaN or infinite and not the same on both sides.

    The same infinity on both sides (a masked logit) is agreement; NaN never is.
    """
    bad: Array = ~(np.isfinite(reference) & np.isfinite(candidate)) & (reference != candidate)
    return bad


def _is_classmap(array: Array) -> bool:
    return array.dtype.kind in "iub"


def _ratio(value: float, span: float) -> float:
    """`value` over `span`, where a constant reference has no range: equal is 0, anything else infinite."""
    if span > 0.0:
        return value / span
    return 0.0 if value == 0.0 else math.inf
