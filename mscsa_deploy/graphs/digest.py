"""Has a model changed? A digest that is cheap to take again after every pass."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator


class Digest:
    """Digests of one model over time; the bytes of a weight are read once, however often it is asked.

    Weights are told apart by the tensor object, so a pass has to replace a tensor, never write into it.
    """

    def __init__(self) -> None:
        # The tensor is kept with its digest: a freed one's id could come back as another's.
        self._tensors: dict[int, tuple[ir.TensorProtocol, str]] = {}

    def of(self, model: ir.Model) -> str:
        """Hexadecimal digest of everything that the file would hold."""
        whole = hashlib.sha256()
        for part in self._parts(model):
            whole.update(part)
            whole.update(b"\0")
        return whole.hexdigest()

    def _parts(self, model: ir.Model) -> Iterator[bytes]:
        facts = (model.ir_version, model.producer_name, model.producer_version, model.domain, model.doc_string)
        yield repr((facts, sorted(model.opset_imports.items()), list(model.metadata_props.items()))).encode()
        for function in model.functions.values():
            yield ir.serde.serialize_function(function).SerializeToString(deterministic=True)
        graph = model.graph
        yield repr((graph.name, graph.doc_string, list(graph.metadata_props.items()))).encode()
        for value in (*graph.inputs, *graph.outputs):
            yield ir.serde.serialize_value(value).SerializeToString(deterministic=True)
        for value in graph.initializers.values():
            yield ir.serde.serialize_value(value).SerializeToString(deterministic=True)
            yield self._tensor(value.const_value).encode()
        for node in graph:
            yield ir.serde.serialize_node(node).SerializeToString(deterministic=True)
            for value in node.outputs:
                yield ir.serde.serialize_value(value).SerializeToString(deterministic=True)

    def _tensor(self, tensor: ir.TensorProtocol | None) -> str:
        if tensor is None:
            return ""
        if id(tensor) not in self._tensors:
            facts = f"{tensor.name} {tensor.dtype} {tensor.shape} {tensor.doc_string} "
            found = facts + hashlib.sha256(tensor.tobytes()).hexdigest()
            self._tensors[id(tensor)] = (tensor, found)
        return self._tensors[id(tensor)][1]
