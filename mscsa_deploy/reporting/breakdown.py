"""Where the time goes, runtime by runtime: what was there before beside what is shipped.

A profile slows every kernel down, so only its shares are used: the measured median latency is divided by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mscsa_deploy.errors import UserError
from mscsa_deploy.reporting.cells import precision, runtime_title, setting
from mscsa_deploy.runtimes.profiling import KINDS_OF_OP, kind_of
from mscsa_deploy.runtimes.protocol import OpProfile

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Report, Row

AROUND = ("decode", "pre-processing", "to the answer")
"""What an end-to-end call spends around the network; in a segmentation model the last is upsampling and argmax."""

PARTS = (*AROUND[:2], *KINDS_OF_OP, AROUND[2])
"""Every part a bar can have, in the order of a call."""

_MOST_OPS = 14


@dataclass(frozen=True, slots=True)
class Share:
    """One operator in one precision: its milliseconds of the measured latency, and its kernels per call."""

    ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One artefact.

    Args:
        label: Its precision, and what it is.
        chosen: Whether it is the recommended one.
        parts: Milliseconds by name of `PARTS`, in that order; those without time are left out.
        ops: Share by operator and precision as the runtime names them, the largest first.
    """

    label: str
    chosen: bool
    parts: dict[str, float]
    ops: dict[tuple[str, str], Share]

    @property
    def total(self) -> float:
        """All parts together, in ms."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The artefacts of one runtime under one condition, in the order of the report.

    Args:
        title: The runtime, and the model and setting where the report has several.
        runtime: Its name.
        bars: One per profiled artefact.
    """

    title: str
    runtime: str
    bars: tuple[Bar, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that any bar has, in order."""
        return tuple(part for part in PARTS if any(part in bar.parts for bar in self.bars))

    @property
    def ops(self) -> list[tuple[tuple[str, str], list[Share | None]]]:
        """Operator and precision with its share in each bar, the largest first; small ones are summed up."""
        most: dict[tuple[str, str], float] = {}
        for bar in self.bars:
            for op, share in bar.ops.items():
                most[op] = max(most.get(op, 0.0), share.ms)
        names = sorted(most, key=lambda op: -most[op])
        lines = [(op, [bar.ops.get(op) for bar in self.bars]) for op in names[:_MOST_OPS]]
        if rest := names[_MOST_OPS:]:
            lines.append((("others", ""), [_sum([bar.ops[op] for op in rest if op in bar.ops]) for bar in self.bars]))
        return lines


def breakdowns(report: Report) -> list[Breakdown]:
    """One per runtime and condition that has profiled rows with a latency.

    Where an artefact was profiled at both boundaries, the network alone is divided and what an end-to-end call
    takes beyond it stands around it.

    Raises:
        UserError: A row's profile is damaged.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    profiled = [row for row in report.rows if row.latency_ms is not None and "op_profile" in row.details]
    core = {row.key_at_both for row in profiled if row.boundary == "core"}
    for row in profiled:
        if row.boundary == "core" or row.key_at_both not in core:
            found.setdefault(_condition(row), []).append(row)
    several = [len({key[place] for key in found}) > 1 for place in range(3)]
    whole = {row.key_at_both: row for row in report.rows if row.boundary == "end_to_end" and row.parts_ms is not None}
    made = []
    for key, rows in found.items():
        title = ", ".join(word for word, shown in zip(key, (True, *several[1:]), strict=True) if word and shown)
        bars = tuple(_bar(row, whole.get(row.key_at_both), report) for row in rows)
        made.append(Breakdown(title, rows[0].runtime, bars))
    return made


def _condition(row: Row) -> tuple[str, ...]:
    return (runtime_title(row.runtime), row.details.get("group", ""), setting(row))


def _bar(row: Row, whole: Row | None, report: Report) -> Bar:
    assert row.latency_ms is not None
    profile = _profile(row)
    alone = row.boundary == "core"
    parts = whole.parts_ms if whole is not None else None
    network = row.latency_ms.p50 if alone or parts is None else parts.network
    scale = network / (profile.total_ms or 1.0)
    ms = dict.fromkeys(PARTS, 0.0)
    ops: dict[tuple[str, str], Share] = {}
    for kernel in profile.rows:
        ms[kind_of(kernel.op)] += kernel.ms * scale
        key = (kernel.op, kernel.precision)
        before = ops.get(key, Share(0.0, 0))
        ops[key] = Share(before.ms + kernel.ms * scale, before.count + kernel.count)
    if parts is not None:
        beyond = max(0.0, parts.network + parts.postprocess - network)
        ms |= dict(zip(AROUND, (parts.decode, parts.preprocess, beyond), strict=True))
    chosen = report.verdict is not None and bool(report.verdict.runtime) and report.verdict.picks(row)
    role = ", optimized" if row.details.get("role") == "optimised_fp32" else ""
    return Bar(f"{precision(row)}{role}", chosen, {part: value for part, value in ms.items() if value > 0}, ops)


def _profile(row: Row) -> OpProfile:
    try:
        return msgspec.convert(row.details["op_profile"], OpProfile)
    except msgspec.ValidationError as error:
        raise UserError(f"the profile of {runtime_title(row.runtime)} {precision(row)} is damaged: {error}") from error


def _sum(shares: Sequence[Share]) -> Share | None:
    return Share(sum(share.ms for share in shares), sum(share.count for share in shares)) if shares else None
