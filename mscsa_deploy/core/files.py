"""Hashes, whole-or-nothing outputs, and the content-keyed cache directory."""

from __future__ import annotations

import contextlib
import errno
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
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the system says when nothing more can be written."""
MANIFEST = "manifest.json"
OUR_KEYS = (b'"schema_version"', b'"made_by"')
"""One of these stands in the manifest of every output: the first in a bundle's, the second in any other's."""


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
    """Raise `UserError` if `path` may not, or cannot, become an output.

    It exists and `force` is false; it is a directory that this tool did not make, which `force` does not replace
    either; or nothing can be written there, which is better known before the work than after it.
    """
    if path.exists() and not force:
        raise UserError(f"'{path}' already exists", hint="choose another place or replace it with --force")
    if path.is_dir() and not _is_output(path):
        raise UserError(
            f"'{path}' holds something else than an output of mscsa-deploy, which --force does not replace",
            hint="choose another place, or empty it yourself",
        )
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise UserError(f"'{place}' is a file, expected a directory", hint="choose another place for the output")
    if not os.access(place, os.W_OK | os.X_OK):
        raise _not_writable(place, "no permission, or a read-only disk")


def _is_output(folder: Path) -> bool:
    """Whether the directory is empty, or has a manifest of ours: of a bundle, or of another output."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return next(folder.iterdir(), None) is None
    text = manifest.read_bytes()
    return any(key in text for key in OUR_KEYS)


def _not_writable(place: Path, reason: str | None) -> UserError:
    return UserError(f"cannot write in '{place}': {reason}", hint="choose another place for the output")


@contextlib.contextmanager
def output_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path` that becomes `path` when the block ends well.

    On any error nothing is left at `path` (or what stood there before stays as it was).

    Raises:
        UserError: `refuse_existing` does, or the parent of `path` cannot be written.
        StageError: The disk is full or the directory cannot be moved into place.
    """
    # "." and ".." have no name to put a directory beside.
    path = path if path.name.strip(".") else path.resolve()
    refuse_existing(path, force=force)
    if path.is_file():
        raise UserError(f"'{path}' is a file, expected a directory", hint="choose another place for the output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _not_writable(path.parent, error.strerror) from error
    try:
        # mkdtemp makes the directory private; an output is as readable as any other new directory.
        work.chmod(0o755)
        yield work
        # Another process may have made it meanwhile.
        refuse_existing(path, force=force)
        _replace_directory(work, path)
    except OSError as error:
        raise _write_failed(path, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_failed(path: Path, error: OSError) -> StageError:
    hint = "free some space and rerun" if error.errno in NO_ROOM else ""
    return StageError("write", str(path), str(error) if error.filename else error.strerror or str(error), hint=hint)


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
        UserError: `refuse_existing` does, `path` is a directory, or its parent cannot be written.
        StageError: The disk is full.
    """
    refuse_existing(path, force=force)
    if path.is_dir():
        raise UserError(f"'{path}' is a directory, expected a file", hint="choose another place for the output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _not_writable(path.parent, error.strerror) from error
    os.close(handle)
    work = Path(name)
    try:
        yield work
        refuse_existing(path, force=force)
        work.chmod(0o644)
        work.replace(path)
    except OSError as error:
        raise _write_failed(path, error) from error
    finally:
        work.unlink(missing_ok=True)
