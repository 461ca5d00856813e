"""The first node at which two runs of a network part ways.

Works on two ONNX files that share tensor names (FP32 and its INT8 version), or on one file run by two
runtimes. Intermediate tensors are made visible as extra outputs, a few per step: asking for all of them at
once would keep the runtime from fusing anything, and a fault that fusion causes would hide.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import UserError
from mscsa_deploy.parity.compare import Comparator, Parity
from mscsa_deploy.parity.opened import CommonGraph, Side, as_used, write_with_outputs
from mscsa_deploy.parity.tolerance import Tolerance, Violation, violations

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array, Feed

logger = logging.getLogger(__name__)


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
    graph = CommonGraph.of(reference.path, candidate.path)
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


def _narrow(graph: CommonGraph, probe: _Probe, culprit: str) -> tuple[str, tuple[str, ...]]:
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
            used = as_used(side.path)
            asked.append({name: used.get(name, name) for name in names})
            write_with_outputs(side.path, dict.fromkeys(asked[-1].values()), path)
            answers.append(side.run(path, self.feeds))
        for name in names:
            comparator = Comparator()
            for one, other in zip(*answers, strict=True):
                comparator.add(one[asked[0][name]], other[asked[1][name]])
            self.seen[name] = comparator.result()
            logger.debug("bisect: %s max_abs %s", name, self.seen[name].max_abs)
