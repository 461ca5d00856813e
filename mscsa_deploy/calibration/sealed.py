"""Evaluation pictures that a search must not see: reading them before they are opened is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mscsa_deploy.errors import GateError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mscsa_deploy.imaging.dataset import Dataset, Target


class SealedDataset:
    """A dataset whose pictures cannot be loaded until `open` was called; hashes and length are free.

    Args:
        dataset: The evaluation set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._sealed = True
        self.name = dataset.name
        self.labels = dataset.labels

    def __len__(self) -> int:
        return len(self._dataset)

    def open(self) -> None:
        """End the search: from now on the pictures may be read."""
        self._sealed = False

    def content_hash(self, index: int) -> str:
        """Hash of picture `index`, needed to prove that sets are disjoint."""
        return self._dataset.content_hash(index)

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], Target]:
        """Picture `index` and its target.

        Raises:
            GateError: The set is still sealed: something that makes choices tried to look at it.
        """
        if self._sealed:
            raise GateError(
                f"evaluation picture {index} of '{self.name}' was read before the choices were made",
                hint="choose on the validation set; the evaluation set is for the final report only",
            )
        return self._dataset.load(index)
