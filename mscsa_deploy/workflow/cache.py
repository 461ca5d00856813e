"""Finished work, kept under a key made of everything that decides it, so that nothing is done twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mscsa_deploy import __version__
from mscsa_deploy.core.files import cache_root, content_key, output_directory

logger = logging.getLogger(__name__)


def cached_directory(stage: str, parts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The directory that `make` filled for these `parts`, now or in an earlier run.

    Args:
        stage: Name of the piece of work; a directory level of the cache.
        parts: Everything that decides the content: hashes of inputs, settings, versions of the tools.
        make: Fills the empty directory it is given; on an error nothing is kept.
    """
    place = cache_root() / stage / content_key({**parts, "mscsa_deploy": __version__})
    if place.is_dir():
        logger.info("%s: taken from the cache (%s)", stage, place.name)
        return place
    with output_directory(place) as work:
        make(work)
    return place
