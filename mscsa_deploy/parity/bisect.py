"""The first node at which two runs of a network part ways.

Works on two ONNX files that share tensor names (FP32 and its INT8 version), or on one file run by two
runtimes. Intermediate tensors are made visible as extra outputs, a few per step: asking for all of them at
once would keep the runtime from fusing anything, and a fault that fusion causes would hide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UserError
from mscsa_deploy.parity.compare import Comparator, Parity
from mscsa_deploy.parity.tolerance import Tolerance, Violation, violations

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array, Feed

logger = logging.getLogger(__name__)

RunFile = Callable[[Path, Sequence["Feed"]], Sequence[Mapping[str, "Array"]]]
"""Loads an ONNX file, runs it on each feed and returns every output by name."""


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
class Divergence:
    """Where two runs part ways.

    Args:
        tensor: The first tensor that differs by more than the tolerance.
        node: Name of the reference's node that computes it.
        op: Type of that node.
        parity: How far it differs.
        violations: Which limits that breaks.
        agreeing: The compared tensors nearest before it, all of which keep the tolerance.
        steps: How many pairs of runs it took.
    """

    tensor: str
    node: str
    op: str
    parity: Parity
    violations: tuple[Violation, ...]
    agreeing: tuple[str, ...]
    steps: int


def first_divergence(
    reference: Side,
    candidate: Side,
    feeds: Sequence[Feed],
    tolerance: Tolerance,
    *,
    work: Path,
    progress: Progress = silent,
) -> Divergence | None:
    """The first node whose output differs by more than `tolerance`; None when the outputs agree.

    A tensor that agrees clears everything it is computed from, so each step asks for the tensor that leaves
    about half of the suspects; a network of n nodes takes about log2(n) steps. When all suspects are
    cleared, the tensors right before the culprit are checked themselves, because a fault may be masked
    further on (by a Relu, say); one that differs becomes the new culprit.

    Args:
        reference: The run that is right.
        candidate: The run that is judged.
        feeds: Inputs by name; more of them make noise less likely to mislead.
        tolerance: What counts as agreement, for every tensor.
        work: Directory for the files with extra outputs.
        progress: Told each step.

    Raises:
        UserError: The two files have no computed tensor in common, or there are no feeds.
    """
    if not feeds:
        raise UserError("nothing to bisect on", hint="give at least one image")
    graph = _Graph.of(reference.path, candidate.path)
    probe = _Probe(reference, candidate, feeds, tolerance, work, progress, graph.size.bit_length() + 4)
    culprit = next((name for name in graph.outputs if probe.differs([name])), None)
    if culprit is None:
        return None
    while True:
        culprit, agreeing = _narrow(graph, probe, culprit)
        guilty = next((name for name in agreeing if probe.differs([name])), None)
        if guilty is None:
            break
        culprit = guilty
    node, op = graph.makers[culprit]
    parity = probe.seen[culprit]
    found = violations(culprit, parity, tolerance)
    return Divergence(culprit, node, op, parity, found, agreeing, probe.steps)


def _narrow(graph: _Graph, probe: _Probe, culprit: str) -> tuple[str, tuple[str, ...]]:
    """The earliest differing tensor reached by halving the suspects, and the tensors right before it."""
    suspects = graph.before(culprit)
    while suspects:
        half = min(suspects, key=lambda name: abs(2 * (len(graph.before(name) & suspects) + 1) - len(suspects)))
        if probe.differs([half]):
            culprit, suspects = half, graph.before(half) & suspects
        else:
            suspects = suspects - graph.before(half) - {half}
    return culprit, graph.nearest_before(culprit)


@dataclass(slots=True)
class _Probe:
    """Runs both sides with extra outputs and remembers what was compared."""

    reference: Side
    candidate: Side
    feeds: Sequence[Feed]
    tolerance: Tolerance
    work: Path
    progress: Progress
    expected_steps: int
    steps: int = 0
    seen: dict[str, Parity] = field(default_factory=dict)

    def differs(self, names: Iterable[str]) -> bool:
        """Whether any of `names` breaks the tolerance."""
        missing = [name for name in names if name not in self.seen]
        if missing:
            self._compare(missing)
        return any(violations(name, self.seen[name], self.tolerance) for name in names)

    def _compare(self, names: Sequence[str]) -> None:
        self.steps += 1
        self.progress(self.steps, max(self.expected_steps, self.steps), f"bisect: {names[0]}")
        answers: list[Sequence[Mapping[str, Array]]] = []
        asked: list[dict[str, str]] = []
        for label, side in (("reference", self.reference), ("candidate", self.candidate)):
            path = self.work / f"bisect_{label}.onnx"
            used = _as_used(side.path)
            asked.append({name: used.get(name, name) for name in names})
            write_with_outputs(side.path, dict.fromkeys(asked[-1].values()), path)
            answers.append(side.run(path, self.feeds))
        for name in names:
            comparator = Comparator()
            for one, other in zip(*answers, strict=True):
                comparator.add(one[asked[0][name]], other[asked[1][name]])
            self.seen[name] = comparator.result()
            logger.debug("bisect: %s max_abs %s", name, self.seen[name].max_abs)


@dataclass(frozen=True, slots=True)
class _Graph:
    """The tensors that both files compute, and what each is computed from (of those)."""

    makers: dict[str, tuple[str, str]]
    ancestors: dict[str, frozenset[str]]
    parents: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, reference: Path, candidate: Path) -> _Graph:
        model = _load(reference)
        common = _computed(model) & _computed(_load(candidate))
        makers: dict[str, tuple[str, str]] = {}
        # For each tensor, compared or not: the compared ones nearest before it, and all before it.
        nearest: dict[str, frozenset[str]] = {}
        ancestors: dict[str, frozenset[str]] = {}
        parents: dict[str, tuple[str, ...]] = {}
        for place, node in enumerate(model.graph.node):
            inputs = [name for name in _inputs(node) if name in nearest]
            close = frozenset().union(*(nearest[name] for name in inputs)) if inputs else frozenset()
            far = close.union(*(ancestors[name] for name in close))
            for name in filter(None, node.output):
                makers[name] = (node.name or f"{node.op_type} #{place}", node.op_type)
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

    model = _load(path)
    typed = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in (*typed.value_info, *typed.output)}
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    onnx.save(model, out)


def _as_used(path: Path) -> dict[str, str]:
    """Tensors that are only read through a quantizer, with the tensor that holds what is read.

    A quantizer may stand for more than rounding: where its range begins at zero it replaces a Relu, and the
    tensor before it then holds values that nothing sees.
    """
    graph = _load(path).graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in _inputs(node):
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


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def _computed(model: Any) -> set[str]:
    """Names of the floating tensors with at least one axis that the nodes of the main graph compute."""
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
    return {name for node in model.graph.node for name in node.output if name and name not in skipped}


def _inputs(node: Any) -> set[str]:
    """Tensors that a node reads, those read inside its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _inputs(inner)
    return names
