"""Bundles as one zip file: the same bytes for the same files, and nothing crafted gets out of it."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from typing import TYPE_CHECKING

from mscsa_deploy.bundle.integrity import (
    MAX_MANIFEST_BYTES,
    check_name,
    fold,
    parse_manifest,
    read_manifest,
    verify,
)
from mscsa_deploy.bundle.manifest import Manifest
from mscsa_deploy.core.files import MANIFEST, output_directory, output_file
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_FILES = 10_000
MAX_BYTES = 8 << 30
MAX_RATIO = 100
"""Unpacked over packed size; weights stay below 3, class maps and reports below 50."""
ALWAYS_ALLOWED_BYTES = 64 << 20
"""A small bundle may be more compressible than `MAX_RATIO`."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK_BYTES = 1 << 20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def pack(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write the bundle at `directory` as a zip and return its path.

    The manifest comes first, then the files it lists, by name; times and permissions are fixed, so equal
    bundles give equal bytes. Files that the manifest does not list stay behind.

    Raises:
        UserError: `directory` is no valid bundle, or `out` exists and `force` is false.
        StageError: The disk is full.
    """
    if directory.is_file():
        raise UserError(f"'{directory}' is a file, expected a bundle directory")
    manifest = read_manifest(directory / MANIFEST)
    verify(directory, manifest)
    names = [MANIFEST, *sorted(entry.path for entry in manifest.files)]
    return write_zip({name: directory / name for name in names}, out, force=force)


def write_zip(members: Mapping[str, Path | bytes], out: Path, *, force: bool = False) -> Path:
    """Write files or bytes, by their names in the archive, as a zip; equal content gives equal bytes.

    Raises:
        UserError: `out` exists and `force` is false.
        StageError: The disk is full.
    """
    with (
        output_file(out, force=force) as work,
        zipfile.ZipFile(work, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            opened = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
            with opened as source, archive.open(info, "w") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)
    return out


def unpack(path: Path, directory: Path, *, force: bool = False) -> Manifest:
    """Unpack the bundle zip at `path` as `directory`, which appears whole and verified or not at all.

    Raises:
        UserError: It is no bundle zip; it holds unsafe or repeated names, links, encrypted or unlisted
            files; it would unpack to far more than it packs; or a hash differs.
        StageError: The disk is full.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, path)
            manifest = parse_manifest(_read_manifest_member(archive, members, path), source=f"{path}:{MANIFEST}")
            listed = {MANIFEST: MAX_MANIFEST_BYTES} | {entry.path: entry.size_bytes for entry in manifest.files}
            if unlisted := sorted(set(members) - set(listed)):
                raise UserError(f"'{path}' holds files that its manifest does not list: {', '.join(unlisted[:5])}")
            with output_directory(directory, force=force) as work:
                for name, member in members.items():
                    _extract(archive, member, work / name, limit=listed[name], source=path)
                verify(work, manifest, source=path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{path}' is not a valid bundle zip: {error}",
            hint="name a bundle directory or zip; fetch a damaged zip again",
        ) from error
    return manifest


def _checked_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, after refusing every trick a crafted one could play."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise UserError(f"'{path}' holds {len(infos)} files, a bundle holds at most {MAX_FILES}")
    total, packed = sum(info.file_size for info in infos), path.stat().st_size
    if total > MAX_BYTES or total > max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * packed):
        raise UserError(f"'{path}' would unpack from {packed} to {total} bytes, more than a bundle does")
    members: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for info in infos:
        check_name(info.orig_filename.removesuffix("/"), source=str(path))
        folded_name = fold(info.filename.removesuffix("/"))
        if folded_name in folded:
            raise UserError(f"'{path}' holds '{info.filename}' twice")
        folded.add(folded_name)
        _check_kind(info, path)
        if not info.is_dir():
            members[info.filename] = info
    return members


def _check_kind(info: zipfile.ZipInfo, path: Path) -> None:
    mode = stat.S_IFMT(info.external_attr >> 16)
    wanted = stat.S_IFDIR if info.is_dir() else stat.S_IFREG
    if mode not in (0, wanted):
        raise UserError(f"'{path}' holds '{info.filename}', which is a link or a special file")
    if info.flag_bits & 0x1:
        raise UserError(f"'{path}' holds the encrypted file '{info.filename}'")
    if info.compress_type not in _COMPRESSIONS:
        raise UserError(f"'{path}' compresses '{info.filename}' in a way that bundles do not use")


def _read_manifest_member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path) -> bytes:
    if MANIFEST not in members:
        raise UserError(f"'{path}' is no bundle: it has no {MANIFEST} at its top")
    with archive.open(members[MANIFEST]) as stream:
        content = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise UserError(f"the manifest of '{path}' is larger than a manifest can be")
    return content


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, limit: int, source: Path) -> None:
    """Write one member, stopping as soon as it is longer than the manifest says, whatever its header claims."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as out:
        for chunk in _chunks(archive, member, source):
            written += len(chunk)
            if written > limit:
                raise UserError(f"'{member.filename}' in '{source}' is longer than its manifest says")
            out.write(chunk)


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Path) -> Iterator[bytes]:
    """The content of one member; what fails here is the zip's fault, not the disk's that it is unpacked to."""
    try:
        with archive.open(member) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise UserError(f"cannot read '{member.filename}' in '{source}': {error.strerror or error}") from error
