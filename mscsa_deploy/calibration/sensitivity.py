"""Which nodes lose most when they are quantized: each unit alone, against the float model.

The pairs come from a whole INT8 file, so a unit is judged with the very scales it would get. What is measured is
the output's signal to quantization noise and the agreement of its largest class; time saved and task metric come
from callables of the caller, since neither runtimes nor labels are known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from mscsa_deploy.calibration.checks import plain_session
from mscsa_deploy.calibration.placement import BOOKKEEPING, Wiring
from mscsa_deploy.calibration.source import initializers, open_source
from mscsa_deploy.core.progress import silent
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.core.progress import Progress
    from mscsa_deploy.core.tensors import Array

# A unit whose outputs come back bit-identical has no noise to divide by; 200 dB stands for that.
CEILING_DB = 200.0


@dataclass(frozen=True, slots=True)
class UnitDamage:
    """What quantizing one unit alone does.

    Args:
        unit: Node name, or block name (the common start of its nodes' names).
        nodes: Its quantized nodes, in graph order.
        ops: Their operators, each once.
        sqnr_db: Signal to quantization noise of the outputs, in decibels; the lower, the worse.
        agreement: Share of positions whose largest class stays the same, in percent.
        saved_ms: Time the integer unit saves; None when it was not measured.
        drop: Points of the task metric that it costs; None without labels.
    """

    unit: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    sqnr_db: float
    agreement: float
    saved_ms: float | None = None
    drop: float | None = None


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """What judges answers by labels.

    Args:
        name: As in reports, ``mIoU`` or ``top-1``.
        score: The metric in percent of the outputs of each sample, in the order of the samples.
    """

    name: str
    score: Callable[[Sequence[Sequence[Array]]], float]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Units from worst to harmless, and the whole model for comparison.

    Args:
        units: Sorted by `sqnr_db`, ties in graph order.
        whole: The same figures with every unit quantized.
        samples: How many samples were compared.
        metric: Name of the task metric; empty without labels.
        reference: The float model's, in percent; None without labels.
    """

    units: tuple[UnitDamage, ...]
    whole: UnitDamage
    samples: int
    metric: str = ""
    reference: float | None = None


def block_units(nodes: Sequence[str], depth: int = 3) -> dict[str, tuple[str, ...]]:
    """Nodes grouped by the first `depth` parts of their path-like names; a name without parts stays alone."""
    groups: dict[str, list[str]] = {}
    for name in nodes:
        parts = name.strip("/").split("/")
        groups.setdefault("/".join(parts[:depth]), []).append(name)
    return {unit: tuple(members) for unit, members in groups.items()}


def node_units(nodes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every node as a unit of its own."""
    return {name: (name,) for name in nodes}


def quantized_nodes(quantized: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes whose weights or outputs are rounded, in graph order."""
    wiring = Wiring(quantized.graph)
    return tuple(
        node.name
        for node in quantized.graph.node
        if node.op_type not in BOOKKEEPING
        and (any(_weight_step(wiring, name) for name in node.input) or _output_steps(wiring, node.output[0]))
    )


def measure_sensitivity(
    model: Path,
    quantized: Path,
    samples: Samples,
    *,
    by: str = "block",
    saved_ms: Callable[[tuple[str, ...]], float | None] | None = None,
    metric: TaskMetric | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Quantize each unit of a model alone and rank the units by the damage.

    Args:
        model: The float ONNX file.
        quantized: The Q/DQ file made from it, whose pairs and scales are used.
        samples: What to compare on; each unit runs on all of them, so a handful is enough.
        by: ``"block"`` or ``"node"``.
        saved_ms: Time that a unit (its node names) saves on integers, in milliseconds.
        metric: Judges every unit's answers to the samples as well, where these have labels.
        progress: Told after each unit.

    Raises:
        UserError: The quantized file holds no pairs, or does not belong to the model.
    """
    source = open_source(model)
    int8 = onnx.load(str(quantized))
    nodes = quantized_nodes(int8)
    known = {node.name: node.op_type for node in source.model.graph.node}
    if not nodes or not set(nodes) <= set(known):
        raise UserError(f"'{quantized}' is not a quantized form of '{model}'", hint="quantize that model again")
    units = block_units(nodes) if by == "block" else node_units(nodes)
    float_session = plain_session(source.model)
    feeds = [dict(feed) for feed in samples]
    wanted = [float_session.run(None, feed) for feed in feeds]
    reference = metric.score(wanted) if metric else None

    def judge(unit: str, members: tuple[str, ...]) -> UnitDamage:
        session = plain_session(with_pairs(source.model, int8, frozenset(members)))
        got = [session.run(None, feed) for feed in feeds]
        ops = tuple(dict.fromkeys(known[name] for name in members))
        noise, agreement = _noise(wanted, got)
        drop = reference - metric.score(got) if metric and reference is not None else None
        return UnitDamage(unit, members, ops, noise, agreement, saved_ms(members) if saved_ms else None, drop)

    damages = []
    for index, (unit, members) in enumerate(units.items()):
        damages.append(judge(unit, members))
        progress(index + 1, len(units), "sensitivity")
    whole = judge("all", nodes)
    ranked = tuple(sorted(damages, key=lambda damage: damage.sqnr_db))
    return Sensitivity(ranked, whole, len(feeds), metric.name if metric else "", reference)


def with_pairs(float_model: onnx.ModelProto, quantized: onnx.ModelProto, kept: frozenset[str]) -> onnx.ModelProto:
    """The float model where only the nodes in `kept` are rounded: their weights and what they give out.

    A tensor's rounding counts for the node that writes it, since leaving that node float is what removes it. The
    rounding of the model's input counts for no node.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(float_model)
    floats, pairs = Wiring(copy.graph), Wiring(quantized.graph)
    stored = initializers(quantized)
    partners = {node.name: node for node in quantized.graph.node}
    steps: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        partner = partners.get(node.name)
        if node.name not in kept or partner is None:
            continue
        # A pool that runs as a convolution has weights in the quantized file only.
        for index, name in enumerate(partner.input[: len(node.input)]):
            step = _weight_step(pairs, name)
            if step is not None:
                node.input[index] = f"{node.name}_{index}_dq"
                steps.append(_renamed(step, step.input[0], node.input[index]))
        target = _after_activation(floats, set(partners), node.output[0])
        steps.extend(_insert_output_pair(floats, _output_steps(pairs, partner.output[0]), target))
    needed = {key for step in steps for key in step.input if key in stored}
    present = set(initializers(copy))
    copy.graph.initializer.extend(stored[key] for key in sorted(needed - present))
    copy.graph.node.extend(steps)
    # Inserted steps stand at the end of the list; sessions want every value written before it is read.
    ordered = ir.from_proto(copy)
    ordered.graph.sort()
    return ir.to_proto(ordered)


def _weight_step(wiring: Wiring, name: str) -> onnx.NodeProto | None:
    """The DequantizeLinear that gives `name` from a stored weight, if one does."""
    step = wiring.writer.get(name)
    stored = step is not None and step.op_type == "DequantizeLinear" and step.input[0] not in wiring.writer
    return step if stored else None


def _output_steps(wiring: Wiring, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The QuantizeLinear and DequantizeLinear that round the tensor `name`, if they do."""
    for first in wiring.readers.get(name, []):
        if first.op_type == "QuantizeLinear":
            for second in wiring.readers.get(first.output[0], []):
                if second.op_type == "DequantizeLinear":
                    return first, second
    return None


def _after_activation(wiring: Wiring, present: set[str], name: str) -> str:
    """The tensor after the Relu or Clip that the writer folded into the scale of `name`."""
    readers = wiring.readers.get(name, [])
    folded = len(readers) == 1 and readers[0].op_type in {"Relu", "Clip"} and readers[0].name not in present
    return readers[0].output[0] if folded else name


def _insert_output_pair(
    wiring: Wiring, pair: tuple[onnx.NodeProto, onnx.NodeProto] | None, target: str
) -> list[onnx.NodeProto]:
    """Q/DQ steps after the tensor `target`, whose writer and readers are rewired to them."""
    if pair is None or f"{target}_float" in wiring.writer:
        return []
    writer = wiring.writer[target]
    raw = f"{target}_float"
    writer.output[list(writer.output).index(target)] = raw
    wiring.writer[raw] = writer
    return [_renamed(pair[0], raw, f"{target}_q"), _renamed(pair[1], f"{target}_q", target)]


def _renamed(step: onnx.NodeProto, value: str, output: str) -> onnx.NodeProto:
    """A copy of a Q or DQ node that reads `value` and writes `output`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(step)
    copy.name, copy.input[0], copy.output[0] = f"{output}_step", value, output
    return copy


def _noise(wanted: list[list[Array]], got: list[list[Array]]) -> tuple[float, float]:
    """SQNR in decibels over all outputs and samples, and agreement of the largest class in percent."""
    signal = error = 0.0
    same = total = 0
    for one, two in zip(wanted, got, strict=True):
        for a, b in zip(one, two, strict=True):
            exact, close = a.astype(np.float64), b.astype(np.float64)
            signal += float((exact**2).sum())
            error += float(((exact - close) ** 2).sum())
            if a.ndim > 1:
                matches = a.argmax(axis=1) == b.argmax(axis=1)
                same, total = same + int(matches.sum()), total + matches.size
    noise = CEILING_DB if error == 0 else min(CEILING_DB, 10 * math.log10(max(signal, 1e-300) / error))
    return noise, 100.0 * same / total if total else 100.0


def to_svg(result: Sensitivity, *, most: int = 30) -> str:
    """A horizontal bar chart of the worst `most` units: the longer the bar, the more noise the unit adds alone."""
    rows = result.units[:most]
    top = max([60.0, *(unit.sqnr_db for unit in rows if unit.sqnr_db < CEILING_DB)])
    height = 18 * (len(rows) + 1) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" font-family="sans-serif"',
        ' font-size="12">',
        f'<text x="8" y="18">Noise from each unit alone (all together: {result.whole.sqnr_db:.1f} dB)</text>',
    ]
    for index, unit in enumerate(rows):
        y = 30 + 18 * index
        width = 360 * max(0.0, 1 - unit.sqnr_db / top) + 2
        parts.append(f'<text x="392" y="{y + 12}" text-anchor="end">{_escape(unit.unit[-60:])}</text>')
        parts.append(f'<rect x="400" y="{y + 2}" width="{width:.1f}" height="13" fill="#c2410c"/>')
        label = [f"{unit.sqnr_db:.1f} dB"]
        label += [] if unit.drop is None else [f"{_escape(result.metric)} {-unit.drop:+z.2f}"]
        label += [] if unit.saved_ms is None else [f"{unit.saved_ms:+.2f} ms"]
        parts.append(f'<text x="{404 + width:.1f}" y="{y + 12}">{", ".join(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
