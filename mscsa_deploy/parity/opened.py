"""Two ONNX files opened up: the tensors that both compute, and files that give out or take in some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array, Feed

RunFile = Callable[[Path, Sequence["Feed"]], Sequence[Mapping[str, "Array"]]]
"""Loads an ONNX file, runs it on each feed and returns every output by name.

A feed's first value is for the file's first input, whatever its name; the others are for the inputs of their names.
"""


Shape = tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Args:
        path: The ONNX file.
        run: What runs it.
    """

    path: Path
    run: RunFile


@dataclass(frozen=True, slots=True)
class CommonGraph:
    """The tensors that both files compute, and what each is computed from (of those).

    Args:
        makers: By tensor of the reference: the node to name where it goes wrong, and its type. The one that writes it;
            or, of those that do between two compared tensors, the only one that has weights.
        ancestors: Compared tensors that each is computed from, at any distance.
        parents: The nearest of them.
        outputs: Those that the reference gives out.
    """

    makers: dict[str, tuple[str, str]]
    ancestors: dict[str, frozenset[str]]
    parents: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, reference: Path, candidate: Path) -> CommonGraph:
        """What the two files have in common, in the order of `reference`.

        Raises:
            UserError: They share no output.
        """
        model = load(reference)
        ours, theirs = _computed(model), _computed(load(candidate))
        # One name for two things, as after a rewrite that keeps the names of what it replaces, is no common tensor.
        common = {name for name in ours.keys() & theirs.keys() if _same_shape(ours[name], theirs[name])}
        makers: dict[str, tuple[str, str]] = {}
        # For each tensor, compared or not: the compared ones nearest before it, and all before it.
        nearest: dict[str, frozenset[str]] = {}
        ancestors: dict[str, frozenset[str]] = {}
        parents: dict[str, tuple[str, ...]] = {}
        weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
        # The nodes with weights that were passed since the last compared tensors.
        weighted: dict[str, dict[tuple[str, str], None]] = {}
        for place, node in enumerate(model.graph.node):
            inputs = [name for name in inputs_of(node) if name in nearest]
            close = frozenset().union(*(nearest[name] for name in inputs)) if inputs else frozenset()
            far = close.union(*(ancestors[name] for name in close))
            told = (node.name or f"{node.op_type} #{place}", node.op_type)
            passed = dict.fromkeys([told] if weights & inputs_of(node) else [])
            for name in inputs:
                passed |= weighted[name]
            for name in filter(None, node.output):
                makers[name] = next(iter(passed)) if len(passed) == 1 else told
                weighted[name] = {} if name in common else passed
                ancestors[name], parents[name] = far, tuple(sorted(close))
                nearest[name] = frozenset({name}) if name in common else close
        outputs = tuple(value.name for value in model.graph.output if value.name in common)
        if not outputs:
            raise UserError(
                f"'{reference.name}' and '{candidate.name}' have no computed tensor in common",
                hint="bisect works on a model and its own quantized version, or on one model and two runtimes",
            )
        return cls(makers, ancestors, parents, outputs)

    @property
    def size(self) -> int:
        """How many tensors the reference computes."""
        return len(self.makers)

    def before(self, name: str) -> frozenset[str]:
        """Compared tensors that `name` is computed from, at any distance."""
        return self.ancestors[name]

    def nearest_before(self, name: str) -> tuple[str, ...]:
        """Compared tensors that `name` is computed from, with no other compared one in between."""
        return self.parents[name]


def write_with_outputs(path: Path, names: Iterable[str], out: Path) -> None:
    """Write the ONNX file at `path` as `out`, with the tensors `names` as its only outputs."""
    import onnx

    model = load(path)
    typed = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in (*typed.value_info, *typed.output)}
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    onnx.save(model, out)


def as_used(path: Path) -> dict[str, str]:
    """Tensors that are only read through a quantizer, with the tensor that holds what is read.

    A quantizer may stand for more than rounding: where its range begins at zero it replaces a Relu, and the
    tensor before it then holds values that nothing sees.
    """
    graph = load(path).graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in inputs_of(node):
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    used = {}
    for name, nodes in readers.items():
        quantizers = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == name]
        if name in outputs or len(quantizers) != len(nodes):
            continue
        restorers = [node for node in readers.get(quantizers[0].output[0], ()) if node.op_type == "DequantizeLinear"]
        if restorers:
            used[name] = restorers[0].output[0]
    return used


def load(path: Path) -> Any:
    """The ONNX model at `path`."""
    import onnx

    return onnx.load(path)


def _computed(model: Any) -> dict[str, Shape]:
    """The floating tensors with at least one axis that the nodes of the main graph compute, with their shapes."""
    import onnx

    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type for value in (*typed.value_info, *typed.output)}
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    skipped = {
        name
        for name, kind in types.items()
        if kind.elem_type not in kinds or (kind.HasField("shape") and not kind.shape.dim)
    }
    # A class map is compared as such, but other integers (shapes, indices) say nothing.
    skipped -= {value.name for value in typed.output}
    names = (name for node in model.graph.node for name in node.output if name and name not in skipped)
    return {name: _shape(types.get(name)) for name in names}


def _shape(kind: Any) -> Shape:
    """The axes of an inferred type, None where one is not known; None in their place where nothing is known."""
    if kind is None or not kind.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)


def _same_shape(one: Shape, other: Shape) -> bool:
    if one is None or other is None:
        return True
    known = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b for a, b in known if a is not None and b is not None)


def inputs_of(node: Any) -> set[str]:
    """Tensors that a node reads, those read inside its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= inputs_of(inner)
    return names
