"""Where the pictures of a set lie and what their targets are: folders, CSV lists, and TOML that names folders."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mscsa_deploy.core.config import Config, read_toml
from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.errors import UserError, unknown_name

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
Found = tuple[tuple["Sample", ...], tuple[str, ...] | None]
_NUMBER = re.compile(r"[+-]?\s*\d*\.?\d+([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and its target: a class id, a mask file, or neither."""

    image: Path
    label: int | None = None
    mask: Path | None = None


class PictureFolders(Config, frozen=True, kw_only=True):
    """Pictures and masks in folders of any name, both relative to the TOML file.

    Args:
        images: The pictures.
        masks: Their masks, PNG files of the same names; none if it is left out.
        reduce_zero_label: Whether 0 in a mask means unlabeled and class ids begin at 1, as in ADE20K's own masks.
    """

    format: Literal["folders-1"]
    images: Path
    masks: Path | None = None
    reduce_zero_label: bool = False


class _Manifest(msgspec.Struct):
    """What tells kinds of TOML files apart."""

    format: str = ""


def read_folders(path: Path) -> PictureFolders | None:
    """The TOML file at `path`, its folders made absolute; None if it describes a set of another kind.

    Raises:
        UserError: It cannot be read, has a wrong or unknown key, or a folder does not exist.
    """
    if read_toml(path, _Manifest).format != "folders-1":
        return None
    named = read_toml(path, PictureFolders)
    images = path.parent / named.images
    masks = path.parent / named.masks if named.masks else None
    for folder in filter(None, (images, masks)):
        if not folder.is_dir():
            raise UserError(f"'{path}': there is no folder '{folder}'", hint="folders are relative to the TOML file")
    return msgspec.structs.replace(named, images=images, masks=masks)


def pictures_in(folder: Path) -> list[Path]:
    """Picture files anywhere below `folder`, sorted; hidden ones and other kinds of files are left out."""

    def visible(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and visible(path) and path.is_file()
    )


def folder_samples(folder: Path, task: Task, labels: Sequence[str] | None, classes: int | None = None) -> Found:
    """Samples of a folder, and the class names that its layout gives; `labels` and `classes` as for `class_ids`.

    Raises:
        UserError: A mask is missing, pictures lie both in class folders and beside them, or a class folder does
            not fit `labels` or `classes`.
    """
    if task == "seg":
        return _segmentation_folder(folder), None
    folders = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    folders = [entry for entry in folders if pictures_in(entry)]
    if not folders or (len(folders) == 1 and folders[0].name == "images"):
        return tuple(Sample(path) for path in pictures_in(folder)), None
    loose = [path for path in pictures_in(folder) if path.parent == folder]
    if loose:
        raise UserError(
            f"'{folder}' has class folders and loose pictures ('{loose[0].name}')",
            hint="put every picture into the folder of its class, or all of them into one folder",
        )
    names = [entry.name for entry in folders]
    ids = class_ids(names, labels, classes, where=str(folder))
    samples = [Sample(path, label=ids[entry.name]) for entry in folders for path in pictures_in(entry)]
    return tuple(samples), tuple(labels) if labels else tuple(names)


def _segmentation_folder(folder: Path) -> tuple[Sample, ...]:
    images, masks = folder / "images", folder / "masks"
    if not images.is_dir():
        if masks.is_dir():
            raise UserError(f"'{folder}' has 'masks' but no 'images'", hint="put the pictures into 'images'")
        return tuple(Sample(path) for path in pictures_in(folder))
    return mask_samples(images, masks if masks.is_dir() else None)


def mask_samples(images: Path, masks: Path | None) -> tuple[Sample, ...]:
    """The pictures below `images`, each with the mask of its name below `masks`.

    Raises:
        UserError: A mask is missing.
    """
    paths = pictures_in(images)
    if masks is None:
        return tuple(Sample(path) for path in paths)
    pairs = [(path, masks / path.relative_to(images).with_suffix(".png")) for path in paths]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(pairs)} pictures of '{images}' have no mask, the first is '{missing[0]}'",
            hint="masks are PNG files of class ids with the name of their picture",
        )
    return tuple(Sample(path, mask=mask) for path, mask in pairs)


def list_samples(path: Path, task: Task, labels: Sequence[str] | None, classes: int | None = None) -> Found:
    """Samples of a CSV list with the columns ``image,label`` or ``image,mask``; paths are relative to the list.

    `labels` and `classes` are as for `class_ids`. Spaces around a cell, and capitals in the header, mean nothing.

    Raises:
        UserError: The header, a path or a label is wrong, with the line.
    """
    wanted = "mask" if task == "seg" else "label"
    rows = list(_rows(path, wanted))
    for line, row in rows:
        for column in {"image", wanted} & row.keys():
            if column != "label" and not (path.parent / row[column]).is_file():
                raise UserError(f"'{path}' line {line}: there is no file '{row[column]}'", hint="check the list")
    if not rows or wanted not in rows[0][1]:
        return tuple(Sample(path.parent / row["image"]) for _, row in rows), None
    if task == "seg":
        return tuple(Sample(path.parent / row["image"], mask=path.parent / row["mask"]) for _, row in rows), None
    names = sorted({row["label"] for _, row in rows})
    ids = class_ids(names, labels, classes, where=str(path))
    found = None if all(name.isdecimal() for name in names) else tuple(labels or names)
    return tuple(Sample(path.parent / row["image"], label=ids[row["label"]]) for _, row in rows), found


def _rows(path: Path, wanted: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of each row; columns other than the picture and the wanted target are dropped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = reader.fieldnames or []
            reader.fieldnames = [name.strip().lower() for name in header]
            if "image" not in reader.fieldnames:
                raise UserError(
                    f"'{path}' starts with the columns {header}, expected 'image,{wanted}'",
                    hint="the first line of a list names its columns",
                )
            for row in reader:
                kept = {key: (row[key] or "").strip() for key in ("image", wanted) if key in row}
                if not all(kept.values()):
                    raise UserError(f"'{path}' line {reader.line_num}: expected '{','.join(kept)}', a value is missing")
                yield reader.line_num, kept
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' is not a UTF-8 CSV list: {error}") from error


def class_ids(
    names: Sequence[str], labels: Sequence[str] | None, classes: int | None = None, *, where: str
) -> dict[str, int]:
    """The class id of each name: its place among `labels`, itself if all are numbers, else its place in order.

    Args:
        names: Of class folders, or the labels of a list.
        labels: The model's class names, if known.
        classes: How many classes the model tells apart, if it is to be judged by these names: without `labels`, names
            stand for ids only where there is one for each class. 0 if that is not known.
        where: The set, for messages.

    Raises:
        UserError: `labels` are given and a name is none of them, a name is a number that is no class id, or names
            cannot tell the ids.
    """
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    for name in names if labels or classes is not None else ():
        if not name.isdecimal() and name not in (labels or ()) and _NUMBER.fullmatch(name):
            raise UserError(
                f"'{where}': the label '{name}' is no class id, expected a whole number from 0 or a class name",
                hint="leave pictures without a label out of the set",
            )
    if labels is None:
        if classes is not None and len(names) != classes:
            some = ", ".join(f"'{name}'" for name in sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            has = f"has {classes} and does not say their names" if classes else "says neither their names nor how many"
            ids = f"class ids, 0 to {classes - 1}," if classes else "class ids, from 0,"
            raise UserError(
                f"'{where}' names {len(names)} classes ({some}), the model {has}: which is which is not known",
                hint=f"give {ids} in place of the names; or put the pictures into one folder, where answers are "
                "compared and not scored",
            )
        return {name: place for place, name in enumerate(sorted(names))}
    for name in names:
        if name not in labels:
            error = unknown_name("class", name, labels)
            raise UserError(f"'{where}': {error.message}", hint=error.hint)
    return {name: list(labels).index(name) for name in names}
