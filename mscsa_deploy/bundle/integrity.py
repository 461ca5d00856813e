"""Reading a manifest and holding the files against it: nothing is believed before its hash was checked."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from mscsa_deploy.bundle.manifest import VERSION, ArtifactEntry, Manifest
from mscsa_deploy.core.config import convert
from mscsa_deploy.core.files import MANIFEST, sha256_file
from mscsa_deploy.errors import UserError

MAX_MANIFEST_BYTES = 64 << 20


def read_manifest(path: Path) -> Manifest:
    """The manifest file at `path`; its version is judged before anything else in it.

    Raises:
        UserError: It is missing, no manifest of a bundle, from a newer version, or names unsafe paths.
    """
    if not path.is_file():
        raise UserError(
            f"'{path.parent}' is no bundle: it has no {MANIFEST}", hint="name a directory that 'deploy' left"
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
        raise UserError(
            f"'{source}' is not the manifest of a bundle: it has no schema_version", hint="name what 'deploy' left"
        )
    if version > VERSION:
        raise UserError(
            f"'{source}' has schema version {version}, this version of mscsa-deploy reads up to {VERSION}",
            hint="pip install --upgrade mscsa-deploy",
        )
    manifest = convert(plain, Manifest, source=source)
    listed = [entry.path for entry in manifest.files]
    for name in (*listed, *referenced(manifest)):
        check_name(name, source=source)
    if len({name.casefold() for name in listed}) != len(listed):
        raise UserError(f"'{source}' lists a file twice")
    if len({entry.path for entry in manifest.artifacts}) != len(manifest.artifacts):
        raise UserError(f"'{source}' lists an artefact twice")
    if missing := set(referenced(manifest)) - set(listed):
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


def model_files(entry: ArtifactEntry) -> tuple[str, ...]:
    """Every file of an artefact."""
    mobile = (entry.mobile.path, entry.mobile.operators) if entry.mobile else ()
    return (entry.path, *entry.files, *mobile)


def referenced(manifest: Manifest) -> list[str]:
    """Every path that some field of the manifest names."""
    names = [file for entry in manifest.artifacts for file in model_files(entry)]
    if manifest.golden is not None:
        golden = manifest.golden
        names += [name for name in (golden.picture, golden.input, golden.output, golden.answer) if name]
    if manifest.model_card:
        names.append(manifest.model_card)
    if manifest.recommended is not None:
        names.append(manifest.recommended.artifact)
    return names
