"""Finding single nodes of a model file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def first_node(path: Path, operators: Collection[str]) -> tuple[str, str] | None:
    """Name and operator of the first node of an ONNX file, in execution order, that is one of `operators`.

    Args:
        path: An ONNX file.
        operators: Operator types, without their domain.

    Returns:
        None if there is no such node. A node without a name goes by its first output.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    for node in graph.node:
        if node.op_type in operators:
            return node.name or node.output[0], node.op_type
    return None
