"""Which images a command works on: what the user named, or the scenes that come with the project."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.shipped import shipped_folder
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.imaging.dataset import Dataset

log = logging.getLogger(__name__)

SHIPPED_SETS = ("calibration", "validation", "evaluation")


def shipped_set(name: str) -> Path:
    """The manifest of a shipped scene set: ``calibration``, ``validation`` or ``evaluation``."""
    assert name in SHIPPED_SETS, name
    return shipped_folder("calibration") / "scenes" / f"{name}.toml"


def quoted_images(task: Task) -> Dataset:
    """The shipped pictures that reports quote: they take no part in any choice, under whatever name they come."""
    return open_images(shipped_set("evaluation"), task)


def warn_of_quoted(dataset: Dataset, task: Task) -> None:
    """Warn where `dataset` holds pictures that reports quote: what is found on them is no ground for a choice."""
    quoted = quoted_images(task)
    theirs = {quoted.content_hash(index) for index in range(len(quoted))}
    shared = sum(dataset.content_hash(index) in theirs for index in range(len(dataset)))
    if shared:
        log.warning(
            "%d pictures of '%s' are evaluation pictures: what is chosen by this ranking makes their scores look "
            "better than they are",
            shared,
            dataset.name,
        )


def open_images(place: str | Path, task: Task, classes: int | None = None, labels: Sequence[str] = ()) -> Dataset:
    """The images at `place`: a folder, a CSV list, a scene-set manifest, or the bare name of a shipped set.

    The masks of a shipped set are of its own classes: a model with another number of them gets the pictures only.

    Args:
        place: Where they are.
        task: ``"cls"`` or ``"seg"``: which targets to look for.
        classes: Of the model that is judged on them, if one is; 0 if that is not known.
        labels: Its class names in channel order, if known: class folders of these names get their ids.

    Raises:
        UserError: There is nothing at `place`, or nothing readable in it.
    """
    from mscsa_deploy.imaging.dataset import PicturesOnly, open_dataset

    shipped = str(place) in SHIPPED_SETS and not Path(place).exists()
    path = shipped_set(str(place)) if shipped else Path(place)
    if not path.exists():
        raise UserError(
            f"there are no images at '{place}'",
            hint=f"name a folder, a CSV list, or a shipped set ({', '.join(SHIPPED_SETS)})",
        )
    dataset = open_dataset(path, task, labels=labels or None, classes=classes)
    if shipped and classes is not None and len(dataset.labels or ()) != classes:
        log.warning("the shipped set '%s' has no labels for this model: answers are compared, not scored", place)
        return PicturesOnly(dataset)
    return dataset
