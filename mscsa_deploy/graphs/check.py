"""What every graph this package writes has to hold: standard ops only, a known signature, static shapes."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STANDARD_DOMAINS = ("", "ai.onnx")


def read_model(path: Path) -> ir.Model:
    """The ONNX file at `path`, weights included.

    Raises:
        UserError: The file is missing, truncated or not ONNX.
    """
    try:
        proto = onnx.load(path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}") from error
    # onnx turns unreadable external data into ValidationError.
    except (ValueError, onnx.checker.ValidationError, DecodeError) as error:
        raise UserError(f"'{path}' is not a readable ONNX file", hint="export it again; it may be truncated") from error
    if not proto.graph.node:
        raise UserError(f"'{path}' is not an ONNX model: it holds no nodes", hint="give a .onnx file")
    return ir.from_proto(proto)


def parsed(data: bytes) -> ir.Model:
    """The model that `to_bytes` serialized."""
    return ir.from_proto(onnx.load_from_string(data))


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the graph, of its subgraphs (If, Loop, Scan) and of the model's functions."""
    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def op_histogram(model: ir.Model) -> dict[str, int]:
    """How often each op type occurs, sorted by name; ops outside ai.onnx are written ``domain::Op``."""
    names = (
        node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"
        for node in all_nodes(model)
    )
    return dict(sorted(Counter(names).items()))


def foreign_ops(model: ir.Model) -> tuple[str, ...]:
    """Ops outside the standard domain as ``domain::Op``, sorted; calls of model-local functions count."""
    return tuple(name for name in op_histogram(model) if "::" in name)


def signature(model: ir.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs (initializers excluded) and outputs; a free axis has size -1.

    Raises:
        StageError: An input or output declares no element type or no rank.
    """
    inputs = tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers)
    return inputs, tuple(_spec(value) for value in model.graph.outputs)


def _spec(value: ir.Value) -> TensorSpec:
    if value.dtype is None or value.shape is None:
        raise StageError("check", f"tensor '{value.name}'", "the graph declares no type or no shape for it")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name=value.name or "", dtype=value.dtype.numpy().name, shape=shape)


def require_standard(model: ir.Model, *, subject: str) -> None:
    """Raise `StageError` if the model uses any op or opset outside ``ai.onnx``."""
    if foreign := foreign_ops(model):
        raise StageError("check", subject, f"it uses ops outside ai.onnx: {', '.join(foreign)}")
    extra = sorted(domain for domain in model.opset_imports if domain not in STANDARD_DOMAINS)
    if extra:
        raise StageError("check", subject, f"it imports opsets outside ai.onnx: {', '.join(extra)}")


def require_static(model: ir.Model, *, subject: str, dynamic_batch: bool = False) -> None:
    """Raise `UserError` if an input or output has a free axis; `dynamic_batch` allows the first one."""
    inputs, outputs = signature(model)
    for spec in (*inputs, *outputs):
        if -1 in spec.shape[1 if dynamic_batch else 0 :]:
            raise UserError(
                f"{subject}: tensor '{spec.name}' has shape {list(spec.shape)}, expected static sizes",
                hint="export it with fixed sizes, or run onnxruntime.tools.make_dynamic_shape_fixed on it",
            )


def fingerprint(model: ir.Model) -> str:
    """SHA-256 over the serialized model: equal exactly if two models would be the same file."""
    return hashlib.sha256(to_bytes(model)).hexdigest()


def to_bytes(model: ir.Model) -> bytes:
    """The file content of `model`; the same model always gives the same bytes."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data
