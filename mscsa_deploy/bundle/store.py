"""Writing a bundle directory, and reading one or a zip of one."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from mscsa_deploy.bundle.archive import unpack
from mscsa_deploy.bundle.describe import README_NAME, readme
from mscsa_deploy.bundle.integrity import model_files, read_manifest, referenced, verify
from mscsa_deploy.bundle.manifest import ArtifactEntry, FileEntry, Manifest, Role
from mscsa_deploy.core.config import to_json
from mscsa_deploy.core.files import MANIFEST, cache_root, sha256_file
from mscsa_deploy.errors import StageError, UnsupportedError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROLES: tuple[tuple[str, Role], ...] = (
    ("golden/*", "golden"),
    ("samples/*", "samples"),
    ("report.*", "report"),
    ("*.toml", "recipe"),
    ("*.md", "document"),
    ("LICENSE*", "document"),
    ("*.png", "picture"),
    ("*.jpg", "picture"),
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were found to be what its manifest says.

    Args:
        root: The directory it lies in.
        manifest: What it says.
    """

    root: Path
    manifest: Manifest

    def file(self, path: str) -> Path:
        """Where the file that the manifest calls `path` lies."""
        return self.root / path

    def artifacts_for(self, runtime: str) -> tuple[ArtifactEntry, ...]:
        """The artefacts that `runtime` can load.

        Raises:
            UnsupportedError: There is none; the message lists what there is.
        """
        found = tuple(entry for entry in self.manifest.artifacts if runtime in entry.runtimes)
        if not found:
            raise UnsupportedError(
                f"the bundle holds no artefact for runtime '{runtime}'", hint=f"it holds: {contents(self.manifest)}"
            )
        return found


def contents(manifest: Manifest) -> str:
    """The artefacts of `manifest` in one line, for messages."""
    named = (f"{entry.path} ({entry.precision}, for {', '.join(entry.runtimes)})" for entry in manifest.artifacts)
    return "; ".join(named) or "no model file at all"


def write_bundle(directory: Path, manifest: Manifest) -> Bundle:
    """Complete the bundle in `directory`: its README, every file's hash, and the manifest.

    Call this last, inside the block that makes the directory appear whole.

    Args:
        directory: Holds every other file already.
        manifest: What to write; its `files` are filled in here.

    Raises:
        UserError: The manifest names a file that is not there, or the directory holds a link.
    """
    whole = _with_files(directory, manifest)
    (directory / README_NAME).write_text(readme(whole), encoding="utf-8")
    whole = _with_files(directory, manifest)
    (directory / MANIFEST).write_bytes(to_json(whole))
    return Bundle(directory, whole)


def _with_files(directory: Path, manifest: Manifest) -> Manifest:
    entries = tuple(_entry(directory, path, manifest) for path in _files(directory))
    present = {entry.path for entry in entries}
    for path in referenced(manifest):
        if path not in present:
            raise UserError(f"the manifest names '{path}', which '{directory}' does not hold")
    return msgspec.structs.replace(manifest, files=entries)


def read_bundle(path: Path) -> Bundle:
    """The bundle at `path`, every file's hash verified.

    Args:
        path: A bundle directory, its ``manifest.json``, or a zip; a zip is unpacked once into the cache.

    Raises:
        UserError: It is no bundle, was written by a newer version, or a file is missing or changed.
    """
    if path.name == MANIFEST and path.is_file():
        path = path.parent
    if path.is_file():
        return _read_zip(path)
    if not path.is_dir():
        raise UserError(f"there is no bundle at '{path}'", hint="name a bundle directory or a bundle zip")
    manifest = read_manifest(path / MANIFEST)
    verify(path, manifest)
    return Bundle(path, manifest)


def _files(directory: Path) -> Iterator[str]:
    """Relative paths of all files below `directory` but the manifest, sorted."""
    for path in sorted(directory.rglob("*"), key=lambda path: path.relative_to(directory).parts):
        if path.is_symlink():
            raise UserError(f"'{path}' is a link, which a bundle cannot hold")
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name != MANIFEST:
            yield name


def _entry(directory: Path, name: str, manifest: Manifest) -> FileEntry:
    path = directory / name
    models = {file for entry in manifest.artifacts for file in model_files(entry)}
    role = "artifact" if name in models else _role(name)
    return FileEntry(path=name, sha256=sha256_file(path), size_bytes=path.stat().st_size, role=role)


def _role(name: str) -> Role:
    return next((role for pattern, role in _ROLES if PurePosixPath(name).match(pattern)), "other")


def _read_zip(path: Path) -> Bundle:
    """The bundle in a zip, from the cache when the same zip was read before."""
    place = cache_root() / "bundles" / sha256_file(path)[:20]
    kept = _whole(place)
    if kept is not None:
        return kept
    # What is damaged was unpacked here before, by us.
    shutil.rmtree(place, ignore_errors=True)
    try:
        return Bundle(place, unpack(path, place))
    except (UserError, StageError):
        # Another process may have unpacked the same zip meanwhile, and be reading it.
        kept = _whole(place)
        if kept is None:
            raise
        return kept


def _whole(place: Path) -> Bundle | None:
    """The bundle directory at `place`, if there is one and every hash is right."""
    with contextlib.suppress(UserError):
        manifest = read_manifest(place / MANIFEST)
        verify(place, manifest)
        return Bundle(place, manifest)
    return None
