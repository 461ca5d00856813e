"""A file and the record of how it was made: what stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.core.tensors import TensorSpec


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
        sha256: Of its content.
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
        return cls(path, sha256_file(path), kind, precision, inputs, outputs, made_by)
