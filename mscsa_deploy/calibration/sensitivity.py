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

from mscsa_deploy.calibration.checks import plain_session
from mscsa_deploy.calibration.placement import BOOKKEEPING
from mscsa_deploy.calibration.source import initializers, open_source
from mscsa_deploy.core.progress import silent
from mscsa_deploy.errors import SpecError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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
    """

    unit: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    sqnr_db: float
    agreement: float
    saved_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Units from worst to harmless, and the whole model for comparison.

    Args:
        units: Sorted by `sqnr_db`, ties in graph order.
        whole: The same figures with every unit quantized.
        samples: How many samples were compared.
    """

    units: tuple[UnitDamage, ...]
    whole: UnitDamage
    samples: int


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
    """Names of the nodes with a dequantized input, in graph order."""
    written = {name for node in quantized.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return tuple(
        node.name
        for node in quantized.graph.node
        if node.op_type not in BOOKKEEPING and not written.isdisjoint(node.input)
    )


def measure_sensitivity(
    model: Path,
    quantized: Path,
    samples: Samples,
    *,
    by: str = "block",
    saved_ms: Callable[[tuple[str, ...]], float | None] | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Quantize each unit of a model alone and rank the units by the damage.

    Args:
        model: The float ONNX file.
        quantized: The Q/DQ file made from it, whose pairs and scales are used.
        samples: What to compare on; each unit runs on all of them, so a handful is enough.
        by: ``"block"`` or ``"node"``.
        saved_ms: Time that a unit (its node names) saves on integers, in milliseconds.
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

    def judge(unit: str, members: tuple[str, ...]) -> UnitDamage:
        session = plain_session(with_pairs(source.model, int8, frozenset(members)))
        got = [session.run(None, feed) for feed in feeds]
        ops = tuple(dict.fromkeys(known[name] for name in members))
        noise, agreement = _noise(wanted, got)
        return UnitDamage(unit, members, ops, noise, agreement, saved_ms(members) if saved_ms else None)

    damages = []
    for index, (unit, members) in enumerate(units.items()):
        damages.append(judge(unit, members))
        progress(index + 1, len(units), "sensitivity")
    whole = judge("all", nodes)
    return Sensitivity(tuple(sorted(damages, key=lambda damage: damage.sqnr_db)), whole, len(feeds))


def with_pairs(float_model: onnx.ModelProto, quantized: onnx.ModelProto, kept: frozenset[str]) -> onnx.ModelProto:
    """The float model with the quantized file's Q/DQ pairs on the inputs of the nodes in `kept` only.

    Raises:
        SpecError: A node of `kept` is missing from one of the two.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(float_model)
    writers = {name: node for node in quantized.graph.node for name in node.output}
    stored = initializers(quantized)
    partners = {node.name: node for node in quantized.graph.node}
    needed: dict[str, onnx.TensorProto] = {}
    ordered = []
    for node in copy.graph.node:
        partner = partners.get(node.name)
        if node.name in kept:
            if partner is None:
                raise SpecError(f"node '{node.name}' is missing from the quantized file")
            for index, name in enumerate(partner.input):
                pair = _pair(writers, name, node.input[index], f"{node.name}_{index}")
                if pair:
                    ordered.extend(pair)
                    node.input[index] = pair[-1].output[0]
                    needed.update({key: stored[key] for step in pair for key in step.input if key in stored})
        ordered.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    present = set(initializers(copy))
    copy.graph.initializer.extend(tensor for key, tensor in needed.items() if key not in present)
    return copy


def _pair(writers: Mapping[str, onnx.NodeProto], name: str, tensor: str, prefix: str) -> list[onnx.NodeProto]:
    """Nodes that round `tensor` as the quantized file rounds the input `name`; none when it does not."""
    dequantize = writers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return []
    steps = []
    quantize = writers.get(dequantize.input[0])
    value = dequantize.input[0]
    if quantize is not None:
        step = onnx.NodeProto()
        step.CopyFrom(quantize)
        step.name, step.input[0], step.output[0] = f"{prefix}_q", tensor, f"{prefix}_q"
        value = f"{prefix}_q"
        steps.append(step)
    step = onnx.NodeProto()
    step.CopyFrom(dequantize)
    step.name, step.input[0], step.output[0] = f"{prefix}_dq", value, f"{prefix}_dq"
    return [*steps, step]


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
        label = f"{unit.sqnr_db:.1f} dB" if unit.saved_ms is None else f"{unit.sqnr_db:.1f} dB, {unit.saved_ms:+.2f} ms"
        parts.append(f'<text x="{404 + width:.1f}" y="{y + 12}">{label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
