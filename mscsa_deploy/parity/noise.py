"""The node of an INT8 network whose own rounding costs the output most.

Every tensor of an INT8 network carries noise, healthy ones inside more than its output, so no limit tells where a
fault sits. What a node adds itself does: the reference computes each node from what the candidate gave that node, and
the rest of the difference is the node's own. Of the nodes that add most, each one's noise alone is then put into the
reference network; the one that leaves the output worst is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.parity.compare import Comparator, Parity
from mscsa_deploy.parity.opened import CommonGraph, Side, as_used, inputs_of, load, write_with_outputs

if TYPE_CHECKING:
    from mscsa_deploy.core.tensors import Array, Feed

SUSPECTS = 8
"""How many of the noisiest nodes are tried on the output; each takes a run of the reference."""
PORTION_BYTES = 1 << 28
"""What the tensors compared at a time may hold; those that they are computed from come on top."""
GIVEN = "__given"
"""Marks what a node computes where its output's name stands for a value that is fed."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Where an INT8 network loses most.

    Args:
        tensor: What the node computes.
        node: Its name in the reference.
        op: Its type.
        own: How far the candidate's tensor lies off what the reference computes of the candidate's inputs.
        output_db: SQNR of the reference's output where this noise is the only one.
        next_node: The node after it in that order; empty where there is none.
        next_db: The output's SQNR with the noise of that one.
        quieter: The compared tensors right before it that add less noise of their own.
        opened: How far the candidate's output lay off while all its tensors were given out; where they were so in
            portions, while that portion was with which it was best.
        steps: How many times the networks ran.
    """

    tensor: str
    node: str
    op: str
    own: Parity
    output_db: float
    next_node: str
    next_db: float
    quieter: tuple[str, ...]
    opened: Parity
    steps: int


def noisiest_node(
    reference: Side, candidate: Side, feeds: Sequence[Feed], *, work: Path, progress: Progress = silent
) -> Noise | None:
    """The node whose own noise costs the first output most; None where no node's noise reaches it.

    Args:
        reference: The float run; its tensors have the candidate's names.
        candidate: The INT8 run.
        feeds: Inputs; their tensors are held one feed at a time.
        work: Directory for files with other inputs and outputs.
        progress: Told each step.

    Raises:
        UserError: The two files have no computed tensor in common, or there are no feeds.
        StageError: A side does not give out what it is asked for.
    """
    if not feeds:
        raise UserError("nothing to bisect on", hint="give at least one image")
    search = _Search.of(reference, candidate, work, progress)
    portions = list(search.portions())
    search.expected = len(feeds) * (2 * len(portions) + 3 + SUSPECTS)
    answers = [[search.listen(feed, portion) for portion in portions] for feed in feeds]
    own = {name: comparator.result() for name, comparator in search.own.items()}
    noisy = [name for name in search.names if _db(own[name]) < math.inf]
    suspects = sorted(noisy, key=lambda name: _db(own[name]))[:SUSPECTS]
    opened = [Comparator() for _ in portions]
    for feed, given in zip(feeds, answers, strict=True):
        truth = search.try_each(feed, suspects)
        for comparator, answer in zip(opened, given, strict=True):
            comparator.add(truth, answer)
    left = {name: _db(search.left[name].result()) for name in suspects}
    worst = sorted(suspects, key=left.__getitem__)
    if not worst or left[worst[0]] == math.inf:
        return None
    first, after = worst[0], worst[1] if len(worst) > 1 else ""
    node, op = search.graph.makers[first]
    before = search.graph.nearest_before(first)
    return Noise(
        tensor=first,
        node=node,
        op=op,
        own=own[first],
        output_db=left[first],
        next_node=search.graph.makers[after][0] if after else "",
        next_db=left.get(after, math.inf),
        quieter=tuple(name for name in before if name in own and _db(own[name]) > _db(own[first])),
        opened=max((comparator.result() for comparator in opened), key=_db),
        steps=search.steps,
    )


def _db(parity: Parity) -> float:
    return math.inf if parity.sqnr_db is None else parity.sqnr_db


@dataclass(slots=True)
class _Search:
    """Runs both networks with other inputs and outputs and adds up what came out."""

    reference: Side
    candidate: Side
    work: Path
    progress: Progress
    graph: CommonGraph
    types: dict[str, Any]
    names: list[str]
    output: str
    used: dict[str, str]
    expected: int = 0
    steps: int = 0
    own: dict[str, Comparator] = field(default_factory=dict)
    left: dict[str, Comparator] = field(default_factory=dict)

    @classmethod
    def of(cls, reference: Side, candidate: Side, work: Path, progress: Progress) -> _Search:
        graph = CommonGraph.of(reference.path, candidate.path)
        types = _float_types(load(reference.path))
        output = next((name for name in graph.outputs if name in types), "")
        if not output:
            raise UserError(f"'{reference.path.name}' gives out no floating values", hint="export it with its logits")
        # A tensor without a declared type cannot be fed; its noise counts for the next one that can.
        reaching = graph.before(output) | {output}
        names = [name for name in graph.makers if name in reaching and name in types]
        return cls(reference, candidate, work, progress, graph, types, names, output, as_used(candidate.path))

    def portions(self) -> Iterator[list[str]]:
        """The tensors in graph order, as many at a time as `PORTION_BYTES` hold."""
        portion: list[str] = []
        held = 0
        for name in self.names:
            size = _bytes(self.types[name])
            if portion and held + size > PORTION_BYTES:
                yield portion
                portion, held = [], 0
            portion.append(name)
            held += size
        yield portion

    def listen(self, feed: Feed, names: Sequence[str]) -> Array:
        """Compare each of `names` with what the reference makes of the candidate's values before it.

        Returns:
            The candidate's output while they were given out.
        """
        both = self._alone(feed, list(dict.fromkeys([*names, self.output])))
        for name in names:
            given, made = both[name]
            self.own.setdefault(name, Comparator()).add(made, given)
        return both[self.output][0]

    def try_each(self, feed: Feed, names: Sequence[str]) -> Array:
        """Put the own noise of each of `names` alone into the reference, and compare the output.

        Returns:
            The reference's output.
        """
        asked = list(dict.fromkeys([*names, self.output]))
        truth = self._run(self.reference, feed, asked, {})
        both = self._alone(feed, asked)
        for name in names:
            given, made = both[name]
            value = (truth[name] + (given - made)).astype(truth[name].dtype)
            answer = value
            if name != self.output:
                path = self.work / "noise_one.onnx"
                _write_fed(self.reference.path, self.types, {name}, [self.output], path)
                answer = self._answers(self.reference, path, feed, {name: value}, [self.output])[self.output]
            self.left.setdefault(name, Comparator()).add(truth[self.output], answer)
        return truth[self.output]

    def _alone(self, feed: Feed, names: Sequence[str]) -> dict[str, tuple[Array, Array]]:
        """The candidate's value of each tensor, and the reference's of what the candidate computed it from."""
        path = self.work / "noise_alone.onnx"
        fed = _write_fed(self.reference.path, self.types, set(self.names), names, path)
        given = self._run(self.candidate, feed, list(dict.fromkeys([*names, *fed])), self.used)
        # A candidate with an FP16 rest, too, is held against an FP32 reference.
        given = {name: value.astype(np.float32, copy=False) for name, value in given.items()}
        made = self._answers(self.reference, path, feed, {name: given[name] for name in fed}, names)
        return {name: (given[name], made[name]) for name in names}

    def _run(self, side: Side, feed: Feed, names: Sequence[str], used: Mapping[str, str]) -> dict[str, Array]:
        """Tensors `names` of one side, as what reads them sees them."""
        path = self.work / "noise_open.onnx"
        asked = {name: used.get(name, name) for name in names}
        write_with_outputs(side.path, dict.fromkeys(asked.values()), path)
        answer = self._answers(side, path, feed, {}, list(dict.fromkeys(asked.values())))
        return {name: answer[asked[name]] for name in names}

    def _answers(
        self, side: Side, path: Path, feed: Feed, more: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """What comes out, by the file's order: OpenVINO gives outputs that it computes as one the names of both."""
        self.steps += 1
        self.progress(self.steps, max(self.expected, self.steps), "bisect: noise of each node alone")
        (answer,) = side.run(path, [{**feed, **more}])
        if len(answer) != len(outputs):
            raise StageError("bisect", side.path.name, f"{len(outputs)} tensors were asked for, {len(answer)} came out")
        return dict(zip(outputs, answer.values(), strict=True))


def _float_types(model: Any) -> dict[str, Any]:
    """Declared or inferred types of the float32 tensors that nodes compute."""
    import onnx

    typed = onnx.shape_inference.infer_shapes(model).graph
    made = {name for node in model.graph.node for name in node.output}
    values = {value.name: value for value in (*typed.value_info, *typed.output) if value.name in made}
    return {
        name: value
        for name, value in values.items()
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.type.tensor_type.HasField("shape")
    }


def _bytes(value: Any) -> int:
    shape: list[int] = [max(axis.dim_value, 1) for axis in value.type.tensor_type.shape.dim]
    return 4 * math.prod(shape)


def _write_fed(
    source: Path, types: Mapping[str, Any], fed: set[str], outputs: Sequence[str], path: Path
) -> tuple[str, ...]:
    """Write the network of `source` that computes `outputs` with tensors of `fed` as further inputs.

    An output that is itself in `fed` has the mark `GIVEN` on its name.

    Returns:
        Those of `fed` that it reads.
    """
    import onnx

    model = load(source)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    needed: set[int] = set()
    read: dict[str, None] = {}
    waiting = [makers[name] for name in outputs]
    while waiting:
        place = waiting.pop()
        if place in needed:
            continue
        needed.add(place)
        names = sorted(inputs_of(nodes[place]))
        read.update(dict.fromkeys(name for name in names if name in fed))
        waiting += [makers[name] for name in names if name in makers and name not in fed]
    for place in needed:
        made = [f"{name}{GIVEN}" if name in fed else name for name in nodes[place].output]
        nodes[place].output[:] = made
    del model.graph.node[:], model.graph.output[:], model.graph.value_info[:]
    model.graph.node.extend(nodes[place] for place in sorted(needed))
    model.graph.input.extend(types[name] for name in read)
    for name in outputs:
        value = onnx.ValueInfoProto()
        value.CopyFrom(types[name])
        value.name = f"{name}{GIVEN}" if name in fed else name
        model.graph.output.append(value)
    onnx.save(model, path)
    return tuple(read)
