"""Output directories that appear whole, each with the hash of every file in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mscsa_deploy import __version__
from mscsa_deploy.core.config import Record, to_json
from mscsa_deploy.core.files import MANIFEST, output_directory, sha256_file


class FileList(Record, frozen=True, kw_only=True):
    """The files of an output directory that is no bundle."""

    schema: int = 1
    made_by: str = f"mscsa-deploy {__version__}"
    files: dict[str, str]


@contextlib.contextmanager
def write_output(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a directory to fill; it becomes `path`, with a ``manifest.json``, when the block ends well.

    Raises:
        UserError: `path` exists and `force` is false.
        StageError: The disk is full.
    """
    with output_directory(path, force=force) as work:
        yield work
        hashes = {
            file.relative_to(work).as_posix(): sha256_file(file) for file in sorted(work.rglob("*")) if file.is_file()
        }
        (work / MANIFEST).write_bytes(to_json(FileList(files=hashes)))
