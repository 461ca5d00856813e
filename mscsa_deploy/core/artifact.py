"""A file and the record of how it was made: what stages hand to each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.core.tensors import TensorSpec

# How an ONNX file says where a tensor's data lies: the entry "location" of TensorProto.external_data (a string map,
# field 1 the key, field 2 the value, its length a varint). Read as bytes, since this layer does without onnx.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x00-\x7f])")


@dataclass(frozen=True, slots=True)
class MadeBy:
    """How an artefact came to be.

    Args:
        stage: The stage that wrote it, e.g. ``"export"``.
        settings: What the stage was told, JSON-serializable.
        parent: SHA-256 of the file it was made from; empty for a first file.
        tools: Versions of the libraries that did the work.
    """

    stage: str
    settings: dict[str, Any] = field(default_factory=dict)
    parent: str = ""
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One model file on disk.

    Args:
        path: Where it lies.
        sha256: Of its content and of the weights that lie beside it, see `model_digest`.
        kind: ``"torch"`` (safetensors with a model header), ``"onnx"``, ``"openvino"`` (the .xml; weights
            in the .bin beside it) or ``"engine"`` (a TensorRT plan).
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``: what the file stores, not what a runtime executes.
        inputs: Declared inputs, in order.
        outputs: Declared outputs, in order.
        made_by: Provenance.
    """

    path: Path
    sha256: str
    kind: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    made_by: MadeBy

    @classmethod
    def of(
        cls,
        path: Path,
        *,
        kind: str,
        precision: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        made_by: MadeBy,
    ) -> Artifact:
        """The record of the file that now lies at `path`, hashed here."""
        return cls(path, model_digest(path), kind, precision, inputs, outputs, made_by)


def model_digest(path: Path) -> str:
    """A hash that changes with anything a model computes, as 64 hexadecimal digits.

    That of the file itself, but where weights lie in files beside it: those are hashed with it. It does not change when
    an OpenVINO file and its weights get another name.
    """
    found = sha256_file(path)
    if beside := weights_beside(path):
        lines = [found, *(f"{_name(file, path)} {sha256_file(file)}" for file in beside)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def model_bytes(path: Path) -> int:
    """Length of the model's file and of those beside it with its weights."""
    return sum(file.stat().st_size for file in (path, *weights_beside(path)))


def weights_beside(path: Path) -> tuple[Path, ...]:
    """The files with weights that belong to the model file at `path`: OpenVINO's .bin, external data of ONNX."""
    if path.suffix == ".onnx":
        return tuple(sorted(set(_external_files(path))))
    weights = path.with_suffix(".bin")
    return (weights,) if path.suffix == ".xml" and weights.is_file() else ()


def _name(file: Path, model: Path) -> str:
    return file.suffix if model.suffix == ".xml" else file.relative_to(model.parent).as_posix()


def _external_files(path: Path) -> Iterator[Path]:
    """The files with weights that the ONNX file at `path` names, if they exist below its directory."""
    data = path.read_bytes()
    for entry in _LOCATION.finditer(data):
        size = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(entry[1]))
        name = data[entry.end() : entry.end() + size]
        # What merely looks like an entry names no file.
        if b"\0" in name or b".." in name.split(b"/"):
            continue
        try:
            file = path.parent / name.decode()
            if not name.startswith(b"/") and file.is_file():
                yield file
        except (OSError, UnicodeDecodeError):
            continue
