"""`inspect`: what a bundle or an ONNX file is, by its own words and by what is in it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy.core.artifact import model_bytes, model_digest
from mscsa_deploy.core.config import Record
from mscsa_deploy.core.files import MANIFEST
from mscsa_deploy.errors import UnsupportedError, UserError
from mscsa_deploy.workflow.variants import MODEL

if TYPE_CHECKING:
    import onnx_ir as ir

    from mscsa_deploy.core.tensors import TensorSpec

_WANTED = "a bundle directory, a bundle zip or an ONNX file"


class TensorFacts(Record, frozen=True, kw_only=True):
    """One input or output; -1 is a free axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class OnnxFacts(Record, frozen=True, kw_only=True):
    """An ONNX file.

    Args:
        kind: Always ``"onnx"``.
        name: The model's name by its metadata, else the file's.
        sha256: Of the file, and of the weights beside it where it has such (`model_digest`).
        size_bytes: Length of them all.
        opsets: Version by operator domain; ``ai.onnx`` is the standard one.
        ir_version: Of the file format.
        producer: What wrote it, by its own words.
        inputs: Declared inputs.
        outputs: Declared outputs.
        nodes: How many nodes.
        ops: How often each operator stands in it, the most frequent first.
        parameters: Values in its weights.
        quantized: Whether it holds quantized operators.
        says: What the metadata says about the model (task, preprocessing, labels, ...); empty for a foreign file.
    """

    kind: Literal["onnx"] = "onnx"
    name: str
    sha256: str
    size_bytes: int
    opsets: dict[str, int]
    ir_version: int
    producer: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    nodes: int
    ops: dict[str, int]
    parameters: int
    quantized: bool
    says: dict[str, Any] = msgspec.field(default_factory=dict)


class BundleFacts(Record, frozen=True, kw_only=True):
    """A bundle whose hashes were all checked.

    Args:
        kind: Always ``"bundle"``.
        name: Of the model.
        task: ``"cls"`` or ``"seg"``.
        size_bytes: Of all its files.
        artifacts: Its model files as the manifest has them, each with its size.
        manifest: The rest of the manifest, without hashes, recipe and environment.
    """

    kind: Literal["bundle"] = "bundle"
    name: str
    task: str
    size_bytes: int
    artifacts: list[dict[str, Any]]
    manifest: dict[str, Any]


def inspect(path: Path) -> OnnxFacts | BundleFacts:
    """What lies at `path`.

    Args:
        path: A bundle directory or zip, an ONNX file, or a directory that ``export`` left.

    Raises:
        UserError: It is none of these, or damaged.
        UnsupportedError: It is an ONNX file, and the library that reads those is not installed.
    """
    if not path.exists():
        raise UserError(f"there is nothing at '{path}'", hint=f"name {_WANTED}")
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.is_dir() and not _is_bundle(path) and (path / MODEL).is_file():
        return _onnx(path / MODEL)
    if path.is_dir() or path.suffix == ".zip" or path.name == MANIFEST:
        return _bundle(path)
    raise UserError(f"'{path}' is nothing that this tool reads", hint=f"name {_WANTED}")


def _is_bundle(path: Path) -> bool:
    """Whether the directory holds a bundle's manifest; that of an exported model lists files only."""
    manifest = path / MANIFEST
    return manifest.is_file() and b'"schema_version"' in manifest.read_bytes()


def _bundle(path: Path) -> BundleFacts:
    from mscsa_deploy.bundle.describe import summary
    from mscsa_deploy.bundle.store import read_bundle

    manifest = read_bundle(path).manifest
    rest = summary(manifest)
    size, artifacts = rest.pop("size_bytes"), rest.pop("artifacts")
    return BundleFacts(
        name=manifest.model.name, task=manifest.task, size_bytes=size, artifacts=artifacts, manifest=rest
    )


def _onnx(path: Path) -> OnnxFacts:
    if importlib.util.find_spec("onnx_ir") is None:
        raise UnsupportedError(
            f"'{path}' cannot be read: onnx-ir is not installed", hint="pip install 'mscsa-deploy[export]'"
        )
    from mscsa_deploy.core.config import to_plain
    from mscsa_deploy.graphs.check import op_histogram, read_model, signature
    from mscsa_deploy.graphs.metadata import info_of

    model = read_model(path)
    inputs, outputs = signature(model)
    info = info_of(model, source=str(path))
    ops = op_histogram(model)
    return OnnxFacts(
        name=info.name if info else path.stem,
        sha256=model_digest(path),
        size_bytes=model_bytes(path),
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=tuple(_tensor(spec) for spec in inputs),
        outputs=tuple(_tensor(spec) for spec in outputs),
        nodes=sum(ops.values()),
        ops=dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(_count(value) for value in model.graph.initializers.values()),
        quantized=any("Quantize" in op or op.startswith("QLinear") for op in ops),
        says=to_plain(info) if info else {},
    )


def _count(value: ir.Value) -> int:
    return math.prod(int(size) for size in value.shape or () if isinstance(size, int))


def _tensor(spec: TensorSpec) -> TensorFacts:
    return TensorFacts(name=spec.name, dtype=spec.dtype, shape=spec.shape)
