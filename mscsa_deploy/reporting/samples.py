"""The raw latencies behind a report's rows, read back."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Report
    from mscsa_deploy.core.tensors import Array

_NS_PER_MS = 1e6


def read_samples(report: Report, directory: Path) -> dict[int, Array]:
    """The raw latencies in milliseconds of each row (by its place) whose samples file is there.

    Raises:
        UserError: A samples file is damaged.
    """
    found: dict[int, Array] = {}
    for place, row in enumerate(report.rows):
        for path in (directory / row.samples_file, directory / "samples" / row.samples_file):
            if row.samples_file and path.is_file():
                found[place] = _samples_ms(path)
                break
    return found


def _samples_ms(path: Path) -> Array:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            nanoseconds: Array = arrays["samples_ns"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"the samples file '{path}' is damaged: {error}") from error
    milliseconds: Array = nanoseconds.astype(np.float64) / _NS_PER_MS
    return milliseconds
