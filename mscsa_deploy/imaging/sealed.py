"""Evaluation pictures that nothing which makes choices may see: they are handed out sealed, and opened to be quoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from mscsa_deploy.imaging.dataset import skipped

if TYPE_CHECKING:
    from mscsa_deploy.imaging.dataset import Dataset


class SealedDataset:
    """A set that can be counted and told from others, but not read.

    `open` gives the readable set to its caller alone; whoever else holds the sealed one goes on seeing nothing.

    Args:
        dataset: The evaluation set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.name = dataset.name
        self.labels = dataset.labels
        # What proves that sets are disjoint is free.
        self.content_hash = dataset.content_hash
        self.target_hash = dataset.target_hash
        self.skipped = skipped(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def open(self) -> Dataset:
        """The set itself, once every choice is made."""
        return self._dataset

    def load(self, index: int) -> NoReturn:
        """Nothing.

        Raises:
            AssertionError: Always. No user can cause it: code of this package chose by what only judges.
        """
        raise AssertionError(
            f"evaluation picture {index} of '{self.name}' was read before the choices were made; "
            "choose on the validation set, the evaluation set is for the accuracy stage and the report"
        )
