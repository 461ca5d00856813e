"""Finished work, kept under a key made of everything that decides it, so that nothing is done twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mscsa_deploy import __version__
from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.files import cache_root, content_key, output_directory
from mscsa_deploy.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")
RECORD = "record.json"


def cached(stage: str, parts: Mapping[str, Any], kind: type[T], make: Callable[[Path], T]) -> tuple[Path, T]:
    """The directory that `make` filled for these `parts` and what it returned, now or in an earlier run.

    Artefacts inside what is returned have paths relative to the directory; see `located`.

    Args:
        stage: Name of the piece of work; a directory level of the cache.
        parts: Everything that decides the content: hashes of inputs, settings, versions of the tools.
        kind: Type of the record, made of dataclasses and plain containers.
        make: Fills the empty directory it is given; on an error nothing is kept.
    """
    if known := find(stage, parts, kind):
        logger.info("%s: taken from the cache (%s)", stage, known[0].name)
        return known
    try:
        with output_directory(_place(stage, parts)) as work:
            record = make(work)
            (work / RECORD).write_bytes(msgspec.json.encode(record, enc_hook=str))
    except UserError:
        # Another process may have done the same work meanwhile; then it is there, and otherwise this is an error.
        if not _place(stage, parts).is_dir():
            raise
    made = find(stage, parts, kind)
    assert made is not None
    return made


def find(stage: str, parts: Mapping[str, Any], kind: type[T]) -> tuple[Path, T] | None:
    """What an earlier `cached` with these `parts` left; None if there is nothing."""
    place = _place(stage, parts)
    if not place.is_dir():
        return None
    data = (place / RECORD).read_bytes()
    return place, msgspec.json.decode(data, type=kind, dec_hook=lambda wanted, value: wanted(value))


def _place(stage: str, parts: Mapping[str, Any]) -> Path:
    return cache_root() / stage / content_key({**parts, "mscsa_deploy": __version__})


def relative(artifact: Artifact, folder: Path) -> Artifact:
    """`artifact` with its path relative to `folder`, to be kept in a record."""
    return replace(artifact, path=artifact.path.relative_to(folder))


def located(artifact: Artifact, folder: Path) -> Artifact:
    """`artifact` of a record with its path below `folder` again."""
    return replace(artifact, path=folder / artifact.path)
