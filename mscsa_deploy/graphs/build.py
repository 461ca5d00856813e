"""A small builder for sub-graphs: nodes and constants, appended in order."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mscsa_deploy.core.tensors import Array


class Builder:
    """Collects nodes of ``ai.onnx`` and places them in a graph.

    Args:
        graph: Receives nodes and initializers; their names start with `prefix` and are unique in it.
        before: New nodes stand right before this node; at the end of the graph where it is None.
        prefix: Start of every new name; says who made the node.
    """

    def __init__(self, graph: ir.Graph, prefix: str, *, before: ir.Node | None = None) -> None:
        self._graph = graph
        self._prefix = prefix
        self._before = before
        self._taken = {node.name for node in graph} | set(graph.initializers)
        self._taken |= {value.name for node in graph for value in node.outputs}

    def op(self, kind: str, *inputs: ir.Value | Array | None, **attributes: Any) -> ir.Value:
        """The only output of a new node; arrays among `inputs` become constants."""
        return self.many(kind, 1, *inputs, **attributes)[0]

    def many(
        self, kind: str, outputs: int, *inputs: ir.Value | Array | None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """The outputs of a new node that has `outputs` of them."""
        values = [self.constant(each) if isinstance(each, np.ndarray) else each for each in inputs]
        node = ir.node(
            kind, values, attributes=attributes, num_outputs=outputs, name=self._name(kind.lower())
        )
        for number, value in enumerate(node.outputs):
            value.name = self._name(f"{node.name}_out{number}" if outputs > 1 else f"{node.name}_out")
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        return node.outputs

    def constant(self, array: Array) -> ir.Value:
        """`array` as an initializer."""
        name = self._name("constant")
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name),
        )
        self._graph.register_initializer(value)
        return value

    @contextlib.contextmanager
    def branch(self, name: str) -> Iterator[Builder]:
        """A builder of a sub-graph for If; it may read every value built before."""
        inner = Builder(ir.Graph([], [], nodes=[], name=f"{self._prefix}_{name}"), f"{self._prefix}_{name}")
        inner._taken = self._taken  # names are unique across the graph and its sub-graphs
        yield inner

    @property
    def graph(self) -> ir.Graph:
        """Where the nodes are placed."""
        return self._graph

    def output(self, value: ir.Value) -> None:
        """Make `value` an output of the sub-graph."""
        self._graph.outputs.append(value)

    def _name(self, stem: str) -> str:
        stem = stem if stem.startswith(self._prefix) else f"{self._prefix}_{stem}"
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def ints(*numbers: int) -> Array:
    """A 1-D int64 array: how ONNX takes shapes, axes and sizes."""
    return np.array(numbers, dtype=np.int64)


def scalar(number: float, kind: type[np.generic] = np.float32) -> Array:
    """A 0-D array, which broadcasts against everything."""
    return np.array(number, dtype=kind)
