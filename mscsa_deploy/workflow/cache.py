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
    place = cache_root() / stage / content_key({**parts, "mscsa_deploy": __version__})
    if not place.is_dir():
        with output_directory(place) as work:
            record = make(work)
            (work / RECORD).write_bytes(msgspec.json.encode(record, enc_hook=str))
    else:
        logger.info("%s: taken from the cache (%s)", stage, place.name)
    data = (place / RECORD).read_bytes()
    return place, msgspec.json.decode(data, type=kind, dec_hook=lambda wanted, value: wanted(value))


def relative(artifact: Artifact, folder: Path) -> Artifact:
    """`artifact` with its path relative to `folder`, to be kept in a record."""
    return replace(artifact, path=artifact.path.relative_to(folder))


def located(artifact: Artifact, folder: Path) -> Artifact:
    """`artifact` of a record with its path below `folder` again."""
    return replace(artifact, path=folder / artifact.path)
