"""Hashes, whole-or-nothing outputs, and the content-keyed cache directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.errors import StageError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHUNK_BYTES = 1 << 20
CACHE_VARIABLE = "MSCSA_DEPLOY_CACHE"


def sha256_file(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_key(parts: Mapping[str, Any]) -> str:
    """A short key (20 hexadecimal digits) that changes whenever any of `parts` does.

    Args:
        parts: JSON-serializable facts: file hashes, settings, tool versions.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def cache_root() -> Path:
    """Where work in progress and measured results are kept between runs.

    The environment variable ``MSCSA_DEPLOY_CACHE`` moves it.

    Raises:
        UserError: It cannot be made.
    """
    from platformdirs import user_cache_path

    named = os.environ.get(CACHE_VARIABLE)
    place = Path(named) if named else user_cache_path("mscsa-deploy")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache directory '{place}' cannot be made: {error.strerror}",
            hint=f"set {CACHE_VARIABLE} to a directory that can be written",
        ) from error
    return place


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise `UserError` if `path` exists and may not be replaced."""
    if path.exists() and not force:
        raise UserError(f"'{path}' already exists", hint="choose another place or replace it with --force")


@contextlib.contextmanager
def output_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path` that becomes `path` when the block ends well.

    On any error nothing is left at `path` (or what stood there before stays as it was).

    Raises:
        UserError: `path` exists and `force` is false, or its parent cannot be written.
        StageError: The disk is full or the directory cannot be moved into place.
    """
    refuse_existing(path, force=force)
    if path.is_file():
        raise UserError(f"'{path}' is a file, expected a directory", hint="choose another place for the output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write in '{path.parent}': {error.strerror}") from error
    try:
        # mkdtemp makes the directory private; an output is as readable as any other new directory.
        work.chmod(0o755)
        yield work
        _replace_directory(work, path)
    except OSError as error:
        raise StageError("write", str(path), error.strerror or str(error), hint="free some space and rerun") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_failed(path: Path, error: OSError) -> StageError:
    return StageError("write", str(path), error.strerror or str(error), hint="free some space and rerun")


def _replace_directory(work: Path, path: Path) -> None:
    old = None
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        path.rename(old / "was")
    try:
        work.rename(path)
    except OSError:
        if old is not None:
            (old / "was").rename(path)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def output_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary file name beside `path` that becomes `path` when the block ends well.

    Raises:
        UserError: `path` exists and `force` is false.
        StageError: The disk is full.
    """
    refuse_existing(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    work = Path(name)
    try:
        yield work
        work.chmod(0o644)
        work.replace(path)
    except OSError as error:
        raise StageError("write", str(path), error.strerror or str(error), hint="free some space and rerun") from error
    finally:
        work.unlink(missing_ok=True)
