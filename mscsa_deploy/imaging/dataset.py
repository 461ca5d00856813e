"""Image sets: folders, CSV lists and composed scenes behind one small protocol."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.decode import check_size, decode, is_readable
from mscsa_deploy.imaging.layouts import Sample, folder_samples, list_samples, mask_samples, read_folders
from mscsa_deploy.imaging.lookalikes import Looks, alike, looks
from mscsa_deploy.imaging.scenes import open_scenes

Target = int | npt.NDArray[np.integer] | None
MAX_UNREADABLE_SHARE = 0.01
UNLABELED = 255
"""In masks: pixels that are not judged."""
_MASK_MODES = {"L", "P", "1", "I;16"}

log = logging.getLogger(__name__)


class Dataset(Protocol):
    """Pictures, and for each a label, a mask or nothing."""

    name: str
    labels: tuple[str, ...] | None

    def __len__(self) -> int:
        """How many pictures."""

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], Target]:
        """Picture `index` as (H, W, 3) uint8 RGB, with its class id, its (H, W) mask of class ids, or None."""

    def content_hash(self, index: int) -> str:
        """Hash of what picture `index` shows; equal for the same file in two sets."""

    def target_hash(self, index: int) -> str:
        """Hash of the target of picture `index`; empty where the picture's own hash covers it."""


@dataclass
class FileDataset:
    """Pictures in files.

    Args:
        name: How messages and reports call the set.
        samples: Its pictures and their targets.
        labels: Class names in the order of class ids, where the set itself names them.
        skipped: Unreadable files that were left out.
        reduce_zero_label: Whether 0 in its masks means unlabeled and class ids begin at 1.
    """

    name: str
    samples: tuple[Sample, ...]
    labels: tuple[str, ...] | None = None
    skipped: tuple[Path, ...] = ()
    reduce_zero_label: bool = False
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], Target]:
        """Picture `index` and its target; see `Dataset.load`.

        Raises:
            UserError: A file cannot be read, or a mask does not fit its picture.
        """
        sample = self.samples[index]
        image = decode(sample.image)
        if sample.mask is None:
            return image, sample.label
        mask = read_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            raise UserError(
                f"mask '{sample.mask}' is {mask.shape[1]}x{mask.shape[0]} pixels, its picture is "
                f"{image.shape[1]}x{image.shape[0]}",
                hint="masks have the size of the upright picture",
            )
        return image, without_zero_label(mask) if self.reduce_zero_label else mask

    def content_hash(self, index: int) -> str:
        """SHA-256 of the picture's file."""
        if index not in self._hashes:
            self._hashes[index] = sha256_file(self.samples[index].image)
        return self._hashes[index]

    def target_hash(self, index: int) -> str:
        """SHA-256 of the mask's file and how it is read, or the label."""
        sample = self.samples[index]
        if sample.mask is None:
            return str(sample.label)
        return sha256_file(sample.mask) + ("-reduced" if self.reduce_zero_label else "")

    def looks(self) -> Looks:
        """What tells pictures that look alike; see `lookalikes`."""
        contents = [self.content_hash(index) for index in range(len(self))]
        return looks([sample.image for sample in self.samples], contents)

    def part_of(self, index: int) -> str:
        """A set of files has one part, the whole."""
        del index
        return self.name


class PicturesOnly:
    """The pictures of another set, without its targets: what a model answers that was not trained for these classes.

    Args:
        dataset: The set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.name = dataset.name
        self.labels: tuple[str, ...] | None = None
        self.content_hash = dataset.content_hash
        self.skipped = skipped(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], Target]:
        """Picture `index` and None; see `Dataset.load`."""
        return self.dataset.load(index)[0], None

    def target_hash(self, index: int) -> str:
        """There is none."""
        del index
        return "none"


def read_mask(path: Path) -> npt.NDArray[np.integer]:
    """(H, W) class ids of a PNG mask: gray or palette indices, uint8, or uint16 for a 16-bit mask; 255 is ignored.

    Raises:
        UserError: The file cannot be read, is too large, or holds colors instead of class ids.
    """
    try:
        with Image.open(path) as image:
            check_size(image, f"mask '{path}'")
            image.load()
            if image.mode not in _MASK_MODES:
                raise UserError(
                    f"mask '{path}' is a {image.mode} picture, expected one class id a pixel",
                    hint="save masks as gray or palette PNG",
                )
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"mask '{path}' is not readable: {error}", hint="save masks as gray PNG") from error
    return values.astype(np.uint8) if values.dtype == bool else values


def without_zero_label(mask: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """A mask whose 0 is unlabeled and whose class ids begin at 1, in this project's form: 255 and ids from 0."""
    unlabeled = (mask == 0) | (mask == UNLABELED)
    return np.where(unlabeled, UNLABELED, mask - np.minimum(mask, 1)).astype(mask.dtype)


def open_dataset(
    place: str | Path, task: Task, *, labels: Sequence[str] | None = None, classes: int | None = None
) -> Dataset:
    """The image set at `place`.

    Args:
        place: A folder (``images/`` and ``masks/``; one folder per class; or bare pictures), a CSV list
            (``image,label`` or ``image,mask``), or a TOML file: of a composed set, or one that names folders.
        task: ``"cls"`` or ``"seg"``: which targets to look for. A composed set has none for ``"cls"``.
        labels: The model's class names; class folders and labels of these names get their ids.
        classes: How many classes the model has, if it is judged by class folders or labels; 0 if that is not known.

    Raises:
        UserError: There is nothing there, no picture in it, a target is missing or wrong, or more than 1 % of the
            pictures cannot be read.
    """
    path = Path(place)
    if not path.exists():
        raise UserError(f"there is no image set at '{place}'", hint="name a folder, a CSV list or a scene set")
    if path.suffix == ".toml":
        return _described(path, task, labels, classes)
    if path.is_dir():
        samples, found = folder_samples(path, task, labels, classes)
    elif path.suffix.lower() == ".csv":
        samples, found = list_samples(path, task, labels, classes)
    else:
        raise UserError(f"'{place}' is no image set", hint="name a folder, a CSV list or a scene set")
    return _readable(FileDataset(str(path), samples, found))


def _described(path: Path, task: Task, labels: Sequence[str] | None, classes: int | None) -> Dataset:
    """What a TOML file describes: composed scenes, or pictures and masks in folders of any name."""
    folders = read_folders(path)
    if folders is None:
        return open_scenes(path) if task == "seg" else PicturesOnly(open_scenes(path))
    if task == "seg":
        samples, found = mask_samples(folders.images, folders.masks), None
    else:
        samples, found = folder_samples(folders.images, task, labels, classes)
    return _readable(FileDataset(str(path), samples, found, reduce_zero_label=folders.reduce_zero_label))


def _readable(dataset: FileDataset) -> FileDataset:
    """The set without the pictures that cannot be read."""
    if not dataset.samples:
        raise UserError(f"'{dataset.name}' holds no pictures", hint="put JPEG, PNG, WebP, BMP, GIF or TIFF files there")
    readable = [is_readable(sample.image) for sample in dataset.samples]
    bad = tuple(sample.image for sample, good in zip(dataset.samples, readable, strict=True) if not good)
    if not bad:
        return dataset
    some = ", ".join(f"'{path.name}'" for path in bad[:3]) + (", ..." if len(bad) > 3 else "")
    if len(bad) > MAX_UNREADABLE_SHARE * len(readable):
        raise UserError(
            f"{len(bad)} of the {len(readable)} pictures of '{dataset.name}' cannot be read ({some}), "
            f"expected at most {MAX_UNREADABLE_SHARE:.0%}",
            hint="repair or remove them",
        )
    log.warning(
        "'%s': %d of %d pictures cannot be read and are left out: %s", dataset.name, len(bad), len(readable), some
    )
    good = tuple(sample for sample, ok in zip(dataset.samples, readable, strict=True) if ok)
    return replace(dataset, samples=good, skipped=bad, _hashes={})


def skipped(dataset: Dataset) -> tuple[Path, ...]:
    """The unreadable files that a set left out; only sets of files have some."""
    found: tuple[Path, ...] = getattr(dataset, "skipped", ())
    return found


def refuse_overlap(*datasets: Dataset) -> None:
    """Raise `UserError` if two of the sets share a picture, judged by content; warn of pictures that look alike."""
    owner: dict[str, tuple[int, int]] = {}
    for number, dataset in enumerate(datasets):
        shared: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            first, _ = owner.setdefault(dataset.content_hash(index), (number, index))
            if first != number:
                shared.setdefault(first, []).append(index)
        for first, indices in shared.items():
            raise UserError(
                f"'{datasets[first].name}' and '{dataset.name}' share {len(indices)} pictures, the first is "
                f"{_describe(dataset, indices[0])}; calibration, validation and evaluation must be disjoint",
                hint="remove the shared pictures from one of them",
            )

    _warn_of_lookalikes([dataset for dataset in datasets if isinstance(dataset, FileDataset)])


def _warn_of_lookalikes(datasets: Sequence[FileDataset]) -> None:
    """One warning for all pictures of a set that look like one of another; composed scenes are what they are."""
    if len(datasets) < 2:
        return
    found = []
    for (one, first), (other, second) in itertools.combinations([(each, each.looks()) for each in datasets], 2):
        found += [(one.samples[a].image, other.samples[b].image) for a, b in alike(first, second)]
    if found:
        some = ", ".join(f"'{one}' and '{other}'" for one, other in found[:3]) + (", ..." if len(found) > 3 else "")
        log.warning(
            "%d pictures look like one of another set (%s): near-duplicates make accuracy look better than it is",
            len(found),
            some,
        )


def _describe(dataset: Dataset, index: int) -> str:
    if isinstance(dataset, FileDataset):
        return f"'{dataset.samples[index].image}'"
    return f"number {index}"
