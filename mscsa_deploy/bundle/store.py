"""Writing and reading a bundle directory; nothing is believed before its hash was checked."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from mscsa_deploy.bundle.describe import README_NAME, readme
from mscsa_deploy.bundle.manifest import MANIFEST_NAME, VERSION, ArtifactEntry, FileEntry, Manifest, Role
from mscsa_deploy.core.config import convert, to_json
from mscsa_deploy.core.files import cache_root, sha256_file
from mscsa_deploy.errors import UnsupportedError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MANIFEST_BYTES = 64 << 20

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
    return "; ".join(
        f"{entry.path} ({entry.precision}, for {', '.join(entry.runtimes)})" for entry in manifest.artifacts
    )


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
    (directory / MANIFEST_NAME).write_bytes(to_json(whole))
    return Bundle(directory, whole)


def _with_files(directory: Path, manifest: Manifest) -> Manifest:
    entries = tuple(_entry(directory, path, manifest) for path in _files(directory))
    present = {entry.path for entry in entries}
    for path in _referenced(manifest):
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
    if path.name == MANIFEST_NAME and path.is_file():
        path = path.parent
    if path.is_file():
        return _read_zip(path)
    if not path.is_dir():
        raise UserError(f"there is no bundle at '{path}'", hint="name a bundle directory or a bundle zip")
    manifest = read_manifest(path / MANIFEST_NAME)
    verify(path, manifest)
    return Bundle(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest file at `path`; its version is judged before anything else in it.

    Raises:
        UserError: It is missing, no manifest of a bundle, from a newer version, or names unsafe paths.
    """
    if not path.is_file():
        raise UserError(
            f"'{path.parent}' is no bundle: it has no {MANIFEST_NAME}", hint="name a directory that 'deploy' left"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise UserError(f"'{path}' is larger than a manifest can be")
    return parse_manifest(path.read_bytes(), source=str(path))


def parse_manifest(content: bytes, *, source: str) -> Manifest:
    """The manifest in `content`; see `read_manifest`."""
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{source}' is not valid JSON: {error}") from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"'{source}' is not the manifest of a bundle: it has no schema_version")
    if version > VERSION:
        raise UserError(
            f"'{source}' has schema version {version}, this version of mscsa-deploy reads up to {VERSION}",
            hint="pip install --upgrade mscsa-deploy",
        )
    manifest = convert(plain, Manifest, source=source)
    listed = [entry.path for entry in manifest.files]
    for name in (*listed, *_referenced(manifest)):
        check_name(name, source=source)
    if len({name.casefold() for name in listed}) != len(listed):
        raise UserError(f"'{source}' lists a file twice")
    if len({entry.path for entry in manifest.artifacts}) != len(manifest.artifacts):
        raise UserError(f"'{source}' lists an artefact twice")
    if missing := set(_referenced(manifest)) - set(listed):
        raise UserError(f"'{source}' names files without a hash: {', '.join(sorted(missing))}")
    return manifest


def verify(root: Path, manifest: Manifest) -> None:
    """Raise `UserError` unless every file of `manifest` is below `root` and has its size and hash."""
    for entry in manifest.files:
        path = root / entry.path
        if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
            raise UserError(f"'{entry.path}' of the bundle '{root}' is a link")
        if not path.is_file():
            raise UserError(f"'{entry.path}' is missing from the bundle '{root}'", hint="fetch the bundle again")
        if path.stat().st_size != entry.size_bytes or sha256_file(path) != entry.sha256:
            raise UserError(
                f"'{entry.path}' of the bundle '{root}' is not the file its manifest describes (sha256 differs)",
                hint="fetch the bundle again; if you changed the file on purpose, make the bundle again",
            )


def check_name(name: str, *, source: str) -> None:
    """Raise `UserError` unless `name` is a plain relative path with forward slashes, safe on every system."""
    parts = name.split("/")
    unsafe = (
        not name
        or "\\" in name
        or ":" in name
        or any(ord(character) < 32 for character in name)
        or PurePosixPath(name).is_absolute()
        or any(part in ("", ".", "..") or part != part.strip() or part.endswith(".") for part in parts)
    )
    if unsafe:
        raise UserError(f"'{source}' holds the unsafe file name {name!r}", hint="do not unpack it; ask its author")


def _files(directory: Path) -> Iterator[str]:
    """Relative paths of all files below `directory` but the manifest, sorted."""
    for path in sorted(directory.rglob("*"), key=lambda path: path.relative_to(directory).parts):
        if path.is_symlink():
            raise UserError(f"'{path}' is a link, which a bundle cannot hold")
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name != MANIFEST_NAME:
            yield name


def _entry(directory: Path, name: str, manifest: Manifest) -> FileEntry:
    path = directory / name
    model_files = {file for entry in manifest.artifacts for file in _model_files(entry)}
    role = "artifact" if name in model_files else _role(name)
    return FileEntry(path=name, sha256=sha256_file(path), size_bytes=path.stat().st_size, role=role)


def _role(name: str) -> Role:
    return next((role for pattern, role in _ROLES if PurePosixPath(name).match(pattern)), "other")


def _model_files(entry: ArtifactEntry) -> tuple[str, ...]:
    mobile = (entry.mobile.path, entry.mobile.operators) if entry.mobile else ()
    return (entry.path, *entry.files, *mobile)


def _referenced(manifest: Manifest) -> list[str]:
    """Every path that some field of the manifest names."""
    names = [file for entry in manifest.artifacts for file in _model_files(entry)]
    if manifest.golden is not None:
        golden = manifest.golden
        names += [name for name in (golden.picture, golden.input, golden.output, golden.answer) if name]
    if manifest.model_card:
        names.append(manifest.model_card)
    if manifest.recommended is not None:
        names.append(manifest.recommended.artifact)
    return names


def _read_zip(path: Path) -> Bundle:
    """The bundle in a zip, from the cache when the same zip was read before."""
    from mscsa_deploy.bundle.archive import unpack

    place = cache_root() / "bundles" / sha256_file(path)[:20]
    if place.is_dir():
        with contextlib.suppress(UserError):
            manifest = read_manifest(place / MANIFEST_NAME)
            verify(place, manifest)
            return Bundle(place, manifest)
    return unpack(path, place, force=True)
