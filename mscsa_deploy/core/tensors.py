"""The one place where a tensor's name, dtype and shape are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mscsa_deploy.errors import SpecError

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one model input or output.

    Args:
        name: The tensor's name in the graph.
        dtype: NumPy dtype name, e.g. ``"float32"`` or ``"uint8"``.
        shape: Sizes per axis, NCHW for images; -1 stands for a free axis (a dynamic batch).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def check(self, array: Array) -> None:
        """Raise `SpecError` unless `array` has this dtype and shape."""
        if not isinstance(array, np.ndarray):
            raise SpecError(f"tensor '{self.name}' is a {type(array).__name__}, expected a NumPy array")
        if array.dtype.name != self.dtype:
            raise SpecError(f"tensor '{self.name}' has dtype {array.dtype.name}, expected {self.dtype}")
        fits = len(array.shape) == len(self.shape) and all(
            size in (-1, actual) for size, actual in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            raise SpecError(f"tensor '{self.name}' has shape {list(array.shape)}, expected {list(self.shape)}")


def check_feed(specs: tuple[TensorSpec, ...], feed: Feed) -> None:
    """Raise `SpecError` unless `feed` holds exactly the tensors of `specs`, each as declared."""
    wanted = {spec.name for spec in specs}
    if wanted != set(feed):
        missing, extra = sorted(wanted - set(feed)), sorted(set(feed) - wanted)
        raise SpecError(
            f"inputs do not fit the model: missing {missing}, unexpected {extra}, expected {sorted(wanted)}"
        )
    for spec in specs:
        spec.check(feed[spec.name])
