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
        graph: Receives nodes and initializers; new nodes stand at its end unless told otherwise.
        prefix: Start of every new name; says who made the node.
        after: New nodes stand right after this one.
        taken: Names in use, extended with every new one; those of `graph` if not given.
    """

    def __init__(
        self, graph: ir.Graph, prefix: str, *, after: ir.Node | None = None, taken: set[str] | None = None
    ) -> None:
        self._graph = graph
        self._prefix = prefix
        self._before: ir.Node | None = None
        self._after = after
        self._taken = _names(graph) if taken is None else taken

    def at(self, node: ir.Node) -> Builder:
        """This builder, from now on placing nodes right before `node`."""
        self._before, self._after = node, None
        return self

    def after(self, node: ir.Node) -> Builder:
        """Another builder that places nodes right after `node`, in order."""
        return Builder(self._graph, self._prefix, after=node, taken=self._taken)

    def op(self, kind: str, *inputs: ir.Value | Array | None, **attributes: Any) -> ir.Value:
        """The only output of a new node; arrays among `inputs` become constants."""
        return self.many(kind, 1, *inputs, **attributes)[0]

    def many(self, kind: str, outputs: int, *inputs: ir.Value | Array | None, **attributes: Any) -> Sequence[ir.Value]:
        """The outputs of a new node that has `outputs` of them."""
        values = [self.constant(each) if isinstance(each, np.ndarray) else each for each in inputs]
        node = ir.node(kind, values, attributes=attributes, num_outputs=outputs, name=self._name(kind.lower()))
        for number, value in enumerate(node.outputs):
            value.name = self._name(f"{node.name}_out{number}" if outputs > 1 else f"{node.name}_out")
        if self._after is not None:
            self._graph.insert_after(self._after, node)
            self._after = node
        elif self._before is not None:
            self._graph.insert_before(self._before, node)
        else:
            self._graph.append(node)
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
        prefix = f"{self._prefix}_{name}"
        inner = Builder(ir.Graph([], [], nodes=[], name=prefix), prefix, taken=self._taken)
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


def _names(graph: ir.Graph) -> set[str]:
    """Every name of a value or node in `graph`."""
    names = {node.name or "" for node in graph} | {value.name or "" for value in graph.inputs}
    names |= set(graph.initializers)
    return names | {value.name or "" for node in graph for value in node.outputs}


def ints(*numbers: int) -> Array:
    """A 1-D int64 array: how ONNX takes shapes, axes and sizes."""
    return np.array(numbers, dtype=np.int64)


def scalar(number: float, kind: type[np.generic] = np.float32) -> Array:
    """A 0-D array, which broadcasts against everything."""
    return np.array(number, dtype=kind)
