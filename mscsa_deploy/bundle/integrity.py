"""Reading a manifest and holding the files against it: nothing is believed before its hash was checked."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mscsa_deploy.bundle.consistency import check_consistent
from mscsa_deploy.bundle.fields import SCHEMA_FILE
from mscsa_deploy.bundle.manifest import VERSION, ArtifactEntry, Manifest
from mscsa_deploy.core.config import convert
from mscsa_deploy.core.files import MANIFEST, sha256_file
from mscsa_deploy.core.install import NEWER
from mscsa_deploy.errors import UserError

MAX_MANIFEST_BYTES = 64 << 20
MAX_NAME_BYTES = 255
"""Of a file or folder, in UTF-8: what file systems take."""
MAX_PATH_BYTES = 1024
"""Of a path inside a bundle: systems end at 1024 to 4096 bytes for the whole path."""

_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of text, so that a name reads as another."""


def read_manifest(path: Path) -> Manifest:
    """The manifest file at `path`; its version is judged before anything else in it.

    Raises:
        UserError: It is missing, no manifest of a bundle, from a newer version, contradicts itself, or names unsafe
            paths.
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
        json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"'{source}' holds text that is not valid Unicode: {error.object[error.start]!a}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{source}' is not valid JSON: {error}") from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(
            f"'{source}' is not the manifest of a bundle: it has no schema_version", hint="name what 'deploy' left"
        )
    if version < 1:
        raise UserError(f"'{source}' has schema version {version}, expected at least 1")
    if version > VERSION:
        raise UserError(
            f"'{source}' has schema version {version}, this version of mscsa-deploy reads up to {VERSION}",
            hint=NEWER,
        )
    manifest = convert(
        plain, Manifest, source=source, hint=f"the keys are in {SCHEMA_FILE} in mscsa-deploy; or {NEWER}"
    )
    listed = [entry.path for entry in manifest.files]
    for name in (*listed, *referenced(manifest)):
        check_name(name, source=source)
    check_apart((MANIFEST, *listed), source=source)
    if len({entry.path for entry in manifest.artifacts}) != len(manifest.artifacts):
        raise UserError(f"'{source}' lists an artefact twice")
    if missing := set(referenced(manifest)) - set(listed):
        raise UserError(f"'{source}' names files without a hash: {', '.join(sorted(missing))}")
    check_consistent(manifest, source=source)
    return manifest


def verify(root: Path, manifest: Manifest, *, source: Path | None = None) -> None:
    """Raise `UserError` unless every file of `manifest` is below `root` and has its size and hash.

    Args:
        root: The directory that holds them.
        manifest: What they should be.
        source: What the error calls the bundle, where `root` is a place that its reader did not name.
    """
    bundle = source or root
    for entry in manifest.files:
        path = root / entry.path
        try:
            if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
                raise UserError(f"'{entry.path}' of the bundle '{bundle}' is a link")
            if not path.is_file():
                raise UserError(f"'{entry.path}' is missing from the bundle '{bundle}'", hint="fetch the bundle again")
            right = path.stat().st_size == entry.size_bytes and sha256_file(path) == entry.sha256
        except OSError as error:
            raise UserError(f"cannot read '{entry.path}' of the bundle '{bundle}': {error.strerror}") from error
        if not right:
            raise UserError(
                f"'{entry.path}' of the bundle '{bundle}' is not the file its manifest describes (sha256 differs)",
                hint="fetch the bundle again; if you changed the file on purpose, make the bundle again",
            )


def check_name(name: str, *, source: str) -> None:
    """Raise `UserError` unless `name` is a plain relative path with forward slashes, safe on every system."""
    parts = name.split("/")
    unsafe = (
        not name
        or "\\" in name
        or ":" in name
        or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
        or not _REORDERING.isdisjoint(name)
        or PurePosixPath(name).is_absolute()
        or any(part in ("", ".", "..") or part != part.strip() or part.endswith(".") for part in parts)
    )
    hint = "do not unpack it; ask its author"
    if unsafe:
        raise UserError(f"'{source}' holds the unsafe file name {_shown(name)}", hint=hint)
    if len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise UserError(
            f"'{source}' holds the file name {_shown(name)}, which is too long: at most {MAX_NAME_BYTES} bytes, with "
            f"its folders {MAX_PATH_BYTES}",
            hint=hint,
        )


def _shown(name: str) -> str:
    """`name` for a message: everything that cannot be seen in it escaped, and not too long."""
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")


def check_apart(names: Iterable[str], *, source: str) -> None:
    """Raise `UserError` if two of the files `names` are one on some system, or one is also a folder of another."""
    folded: set[str] = set()
    for name in names:
        if fold(name) in folded:
            raise UserError(f"'{source}' lists a file twice: '{name}'")
        folded.add(fold(name))
    for name in folded:
        for folder in PurePosixPath(name).parents:
            if str(folder) in folded:
                raise UserError(f"'{source}' names '{folder}' as a file and as a folder")


def fold(name: str) -> str:
    """`name` as systems see it that tell neither case nor the spelling of accents apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


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
