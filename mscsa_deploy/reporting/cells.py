"""How a row's numbers are spelled, once for every view."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Latency, Metric, Ratio, Report, Row, Verdict

RUNTIME_TITLES = MappingProxyType(
    {
        "pytorch": "PyTorch",
        "onnxruntime": "ONNX Runtime",
        "openvino": "OpenVINO",
        "tensorrt": "TensorRT",
        "fake": "Fake runtime",
    }
)
SYMBOLS = MappingProxyType({"ok": "✓", "failed": "✗", "not run": "○", "built, not run": "◇"})
LEGEND = MappingProxyType(
    {
        "ok": "measured",
        "failed": "tried and failed; the reason is given",
        "not run": "this machine cannot run it; the reason is given",
        "built, not run": "built for a device that this machine does not have",
    }
)
UNSTABLE = "≈ "
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Cells:
    """One row of the results table as text; a number that was not measured is an empty string.

    Args:
        place: The row's position in the report.
        runtime: The runtime's title.
        precision: What the artefact stores, and in brackets what ran where that differs.
        setting: Threads, and batch, streams or rate where they are not the usual ones.
        status: As in the report.
        symbol: One character for it.
        metric: The task metric in percent.
        drop: Its drop in points, with interval.
        agreement: Percent of decisions equal to the reference's.
        p50: Median latency in ms; marked where it is unstable.
        p90: 90th percentile in ms, or its early-stopping estimate.
        fps: Answers per second.
        size: Of the artefact on disk.
        speedup: Against plain FP32, with interval.
        speedup_optimized: Against optimized FP32, with interval.
        note: The reason of a row that did not run, or of an unstable one.
    """

    place: int
    runtime: str
    precision: str
    setting: str
    status: str
    symbol: str
    metric: str
    drop: str
    agreement: str
    p50: str
    p90: str
    fps: str
    size: str
    speedup: str
    speedup_optimized: str
    note: str


def cells(row: Row, place: int = 0) -> Cells:
    """The texts of one row."""
    latency = row.latency_ms
    unstable = latency is not None and row.stable is False
    return Cells(
        place=place,
        runtime=runtime_title(row.runtime),
        precision=precision(row),
        setting=setting(row),
        status=row.status,
        symbol=SYMBOLS[row.status],
        metric=f"{row.metric.value:.2f}" if row.metric else "",
        drop=drop(row.metric),
        agreement=agreement(row),
        p50=(f"{UNSTABLE}{number(latency.p50)}" if unstable else number(latency.p50)) if latency else "",
        p90=p90(latency),
        fps=number(row.fps),
        size=size(row.size_bytes),
        speedup=ratio(row.speedup_vs_fp32),
        speedup_optimized=ratio(row.speedup_vs_optimised_fp32),
        note=row.reason or (row.unstable_reason if unstable else ""),
    )


def groups(report: Report) -> dict[str, list[Cells]]:
    """The rows by what their latency covers, in the order of the report; each group is one table."""
    found: dict[str, list[Cells]] = {}
    for place, row in enumerate(report.rows):
        found.setdefault(group_title(row), []).append(cells(row, place))
    return found


def group_title(row: Row) -> str:
    """What the latency of `row` covers, in words."""
    covers = "Network only" if row.boundary == "core" else "End to end (picture bytes to answer)"
    if row.mode == "paced":
        return f"{covers}, at a fixed rate"
    return f"{covers}, throughput" if row.mode == "throughput" else covers


def runtime_title(name: str) -> str:
    """The runtime's name as people write it."""
    return RUNTIME_TITLES.get(name, name)


def precision(row: Row) -> str:
    """``INT8``, or ``INT8 (ran as int8+fp32)`` where what ran is not what was asked for; the baseline says so."""
    title = row.precision.upper()
    if row.plain_export:
        title += ", plain export"
    if row.executed_precision and row.executed_precision != row.precision:
        return f"{title} (ran as {row.executed_precision})"
    return title


def setting(row: Row) -> str:
    """Threads, and whatever else is not the usual."""
    parts = [f"{row.threads} thread" + ("s" if row.threads != 1 else "")]
    if row.device != "cpu":
        parts.insert(0, row.device)
    if row.batch != 1:
        parts.append(f"batch {row.batch}")
    if row.streams != 1:
        parts.append(f"{row.streams} streams")
    if row.paced is not None:
        parts.append(f"{row.paced.rate:g} per second, {row.paced.missed} of {row.paced.arrivals} missed")
    return ", ".join(parts)


def number(value: float | None) -> str:
    """Three significant digits without exponent; whole from 100 upward."""
    if value is None:
        return ""
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{digits}f}"


def signed(value: float) -> str:
    """Two decimals with a real minus sign; a zero has none."""
    text = f"{value:.2f}"
    if float(text) == 0.0:
        return "0.00"
    return text.replace("-", MINUS)


def drop(metric: Metric | None) -> str:
    """``0.31 [0.10, 0.52]``: points lost against the reference; negative is a gain."""
    if metric is None or metric.drop is None:
        return ""
    text = signed(metric.drop)
    if metric.drop_ci95 is not None:
        text += f" [{signed(metric.drop_ci95[0])}, {signed(metric.drop_ci95[1])}]"
    if metric.drop_spread is not None:
        text += f" ±{metric.drop_spread:.2f} over calibration draws"
    return text


def agreement(row: Row) -> str:
    """Percent of decisions equal to the reference's; never rounded up to 100."""
    value = row.parity.argmax_agreement if row.parity else None
    if value is None:
        return ""
    return "100" if value == 100.0 else f"{min(value, 99.99):.2f}"


def p90(latency: Latency | None) -> str:
    """The 90th percentile, its early-stopping estimate, or nothing where the samples support neither."""
    if latency is None:
        return ""
    if latency.p90 is not None:
        return number(latency.p90)
    return f"≤ {number(latency.p90_early_stopping)}" if latency.p90_early_stopping is not None else ""


def ratio(value: Ratio | None) -> str:
    """``1.52x [1.49, 1.55]``."""
    if value is None:
        return ""
    return f"{value.value:.2f}x [{value.ci95[0]:.2f}, {value.ci95[1]:.2f}]"


def size(size_bytes: int | None) -> str:
    """Megabytes (10^6 bytes), or kilobytes below one."""
    if size_bytes is None:
        return ""
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1e3:.0f} kB"
    return f"{number(size_bytes / 1e6)} MB"


def verdict_title(verdict: Verdict) -> str:
    """What the verdict is in a word: a benchmark, which asks for nothing, only recommends."""
    if not verdict.passed:
        return "Not passed"
    return "Passed" if verdict.gates else "Recommendation"


def metric_name(report: Report) -> str:
    """The headline metric's name, ``""`` when nothing was scored with labels."""
    return next((row.metric.name for row in report.rows if row.metric is not None), "")


def count(value: int | None) -> str:
    """A large count for people: ``2.31 M``."""
    if value is None:
        return ""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return str(value)
