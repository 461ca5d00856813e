"""`pack` and `unpack`: a bundle as one file, or in the layout that a serving engine loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mscsa_deploy.core.config import Record
from mscsa_deploy.core.files import MANIFEST, refuse_existing, sha256_file
from mscsa_deploy.core.registry import Registry
from mscsa_deploy.errors import UserError

Pack = Callable[..., Path]
"""``pack(directory, out, *, force) -> out``: writes the bundle at `directory` as the file `out`."""

FORMATS: Registry[Pack] = Registry(
    "format",
    {
        "bundle": "mscsa_deploy.bundle.archive:pack",
        "triton": "mscsa_deploy.bundle.triton:pack",
        "kserve": "mscsa_deploy.bundle.kserve:pack",
        "ovms": "mscsa_deploy.bundle.ovms:pack",
    },
)


class Packed(Record, frozen=True, kw_only=True):
    """The file that was written."""

    path: str
    format: str
    sha256: str
    size_bytes: int


class Unpacked(Record, frozen=True, kw_only=True):
    """The bundle that was unpacked, every hash checked."""

    path: str
    model: str
    task: str
    files: int


def run_pack(directory: Path, out: Path, *, kind: str = "bundle", force: bool = False) -> Packed:
    """Write the bundle at `directory` as the zip `out`.

    Args:
        directory: A bundle directory.
        out: The file to write; same bundle, same bytes.
        kind: One of `FORMATS`: the bundle itself, or what a serving engine loads.
        force: Replace `out`.

    Raises:
        UserError: It is no bundle, a file of it was changed, or `out` exists.
        UnsupportedError: The bundle holds nothing that this engine can load.
    """
    if not directory.is_dir():
        what = "a file" if directory.exists() else "not there"
        raise UserError(f"'{directory}' is {what}, expected a bundle directory", hint="name what 'deploy' left")
    if out.is_dir():
        raise UserError(f"'{out}' is a directory, expected a file", hint=f"write -o {out / (directory.name + '.zip')}")
    if out.resolve().is_relative_to(directory.resolve()):
        from mscsa_deploy.bundle.integrity import read_manifest

        # What is no bundle is told first.
        read_manifest(directory / MANIFEST)
        raise UserError(f"'{out}' lies inside the bundle that is packed", hint="write it somewhere else")
    refuse_existing(out, force=force)
    FORMATS.load(kind)(directory, out, force=force)
    return Packed(path=str(out), format=kind, sha256=sha256_file(out), size_bytes=out.stat().st_size)


def run_unpack(path: Path, directory: Path, *, force: bool = False) -> Unpacked:
    """Unpack the bundle zip at `path` as `directory`, which appears whole and verified or not at all.

    Raises:
        UserError: It is no bundle zip, holds something unsafe, a hash differs, or `directory` exists.
    """
    from mscsa_deploy.bundle.archive import unpack

    if not path.is_file():
        what = "a directory" if path.is_dir() else "not there"
        raise UserError(f"'{path}' is {what}, expected a bundle zip", hint="name what 'pack' wrote")
    manifest = unpack(path, directory, force=force)
    return Unpacked(path=str(directory), model=manifest.model.name, task=manifest.task, files=len(manifest.files))
