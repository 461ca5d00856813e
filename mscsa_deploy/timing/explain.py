"""Why is it not faster: a runtime's own profile, read and put into words.

Profiling slows every kernel down, so shares of the profile are quoted, never its total as a latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mscsa_deploy.core.config import convert
from mscsa_deploy.core.report import Row
from mscsa_deploy.runtimes.profiling import ARITHMETIC_OPS, LAYOUT_OPS, QDQ_OPS
from mscsa_deploy.runtimes.protocol import OpProfile, OpRow

INT8_ISA = {
    "x86_64": (("avx512_vnni", "avx_vnni", "amx_int8"), "AVX512-VNNI, AVX-VNNI or AMX"),
    "aarch64": (("asimddp", "i8mm"), "the dot product (asimddp) or i8mm"),
}
NOTABLE_SHARE = 0.05
FASTER = 1.1


@dataclass(frozen=True, slots=True)
class Share:
    """Milliseconds of some kernels and their share (0..1) of the profile."""

    name: str
    ms: float
    share: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A profile, summed up.

    Args:
        by_op: Time by op and precision, the largest first; names as ``"Conv int8"``.
        by_precision: Time by precision.
        left_float: Nodes with arithmetic that INT8 could take over but that ran in float, the slowest first.
        depthwise_float: Those of them that run in a depthwise kernel.
        unfused: Q and DQ that ran as kernels of their own.
        layout: Transposes, reorders and type conversions.
    """

    by_op: tuple[Share, ...]
    by_precision: tuple[Share, ...]
    left_float: tuple[Share, ...]
    depthwise_float: Share
    unfused: Share
    layout: Share


def profile_of(row: Row) -> OpProfile | None:
    """The profile that a measured row carries, or None."""
    plain = row.details.get("op_profile")
    return None if plain is None else convert(plain, OpProfile, source="the row's profile")


def read_profile(profile: OpProfile) -> Reading:
    """Sums and lists of `profile`, without judging them."""
    total = profile.total_ms or 1.0

    def share(name: str, rows: Sequence[OpRow]) -> Share:
        ms = sum(row.ms for row in rows)
        return Share(name, ms, ms / total)

    floats = [row for row in profile.rows if row.op in ARITHMETIC_OPS and row.precision not in ("int8", "uint8")]
    return Reading(
        by_op=tuple(
            Share(" ".join(key).strip(), ms, ms / total) for key, ms in profile.ms_by("op", "precision").items()
        ),
        by_precision=tuple(Share(key[0] or "?", ms, ms / total) for key, ms in profile.ms_by("precision").items()),
        left_float=tuple(share(row.node, [row]) for row in floats),
        depthwise_float=share("depthwise", [row for row in floats if "_dw_" in row.kernel]),
        unfused=share("Q/DQ", [row for row in profile.rows if row.op in QDQ_OPS]),
        layout=share("layout", [row for row in profile.rows if row.op in LAYOUT_OPS]),
    )


def explain(row: Row, reference: Row | None, *, arch: str = "", isa: Sequence[str] = ()) -> tuple[str, ...]:
    """The findings on `row` in sentences, the verdict first; empty if it carries no profile and no ratio.

    Args:
        row: A measured row of a reduced precision.
        reference: The FP32 row it is compared with, if it was measured.
        arch: Of the machine, e.g. ``"x86_64"``.
        isa: Its instruction set extensions, as in `core.environment`.
    """
    lines = _verdict(row)
    if row.precision == "int8":
        lines += _missing_isa(arch, isa)
    profile = profile_of(row)
    if profile is None:
        return tuple(lines)
    reading = read_profile(profile)
    lines.append("time by op: " + _largest(reading.by_op))
    lines.append("time by precision: " + _largest(reading.by_precision))
    if row.precision == "int8":
        lines += _quantization(reading)
    if reading.layout.share >= NOTABLE_SHARE:
        lines.append(f"{reading.layout.share:.0%} of the time goes to transposes, reorders and conversions")
    before = None if reference is None else profile_of(reference)
    if before is not None:
        lines += _slower_ops(before, profile)
    return tuple(lines)


def _verdict(row: Row) -> list[str]:
    ratio = row.speedup_vs_fp32
    if ratio is None:
        return []
    low, high = ratio.ci95
    text = f"{ratio.value:.2f}x (95 % {low:.2f} to {high:.2f}) the speed of {ratio.reference}"
    if low > 1:
        word = "faster" if ratio.value >= FASTER else "barely faster"
    elif high < 1:
        word = "slower"
    else:
        word = "no measurable difference"
    return [f"{row.precision} on {row.runtime}: {word}, {text}"]


def _missing_isa(arch: str, isa: Sequence[str]) -> list[str]:
    if arch not in INT8_ISA or not isa:
        return []
    wanted, words = INT8_ISA[arch]
    if any(flag in isa for flag in wanted):
        return []
    return [f"this processor lacks {words}: INT8 products take several instructions each, expect little gain"]


def _quantization(reading: Reading) -> list[str]:
    lines = []
    left = sum(entry.share for entry in reading.left_float)
    if left >= NOTABLE_SHARE:
        worst = ", ".join(f"{entry.name} {entry.share:.0%}" for entry in reading.left_float[:3])
        lines.append(
            f"{len(reading.left_float)} arithmetic nodes stayed float and take {left:.0%} of the time ({worst})"
        )
    if reading.depthwise_float.share >= NOTABLE_SHARE:
        lines.append(
            f"depthwise convolutions for which this runtime chose a float kernel take "
            f"{reading.depthwise_float.share:.0%} of the time"
        )
    if reading.unfused.share >= NOTABLE_SHARE:
        lines.append(
            f"quantize and dequantize steps that were not fused into their neighbors take "
            f"{reading.unfused.share:.0%}: quantize the whole chain, or leave it float"
        )
    return lines


def _slower_ops(before: OpProfile, after: OpProfile) -> list[str]:
    """Ops on which the reduced precision spends more than the reference did, if it matters.

    Both were profiled the same way, so that their milliseconds compare.
    """
    old = {key[0]: ms for key, ms in before.ms_by("op").items()}
    total = before.total_ms or 1.0
    grown = [
        (op, ms - old.get(op, 0.0))
        for (op,), ms in after.ms_by("op").items()
        if ms - old.get(op, 0.0) >= NOTABLE_SHARE * total and op not in ARITHMETIC_OPS
    ]
    if not grown:
        return []
    words = ", ".join(f"{op} +{ms:.2f} ms" for op, ms in sorted(grown, key=lambda item: -item[1])[:4])
    return [f"ops that cost more than in FP32: {words}"]


def _largest(shares: Sequence[Share]) -> str:
    return ", ".join(f"{entry.name} {entry.share:.0%}" for entry in shares[:5])
