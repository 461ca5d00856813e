"""The rule that says which measured row to ship; `deploy` asks it after its gates, `benchmark` by latency alone."""

from __future__ import annotations

from collections.abc import Iterable

from mscsa_deploy.core.report import Row
from mscsa_deploy.runtimes.protocol import PRECISIONS

# A lower precision is only worth it if it is faster by more than what one run cannot tell apart.
WORTH_IT = 1.02
SHIPPABLE = ("onnxruntime", "openvino", "tensorrt")


def p50(row: Row) -> float:
    """The median latency of a row that ran, in milliseconds."""
    assert row.latency_ms is not None
    return row.latency_ms.p50


def choose(rows: Iterable[Row]) -> Row | None:
    """The row to ship: of those as fast as the fastest, the most precise; None if none ran that can be shipped.

    Args:
        rows: Of one model at one boundary, mode and batch: only those compare.
    """
    fit = [
        row
        for row in rows
        if row.status == "ok" and row.latency_ms is not None and row.runtime in SHIPPABLE
        if row.artifact and not row.plain_export
    ]
    fastest = min(map(p50, fit), default=0.0)
    close = [row for row in fit if p50(row) < WORTH_IT * fastest]
    return max(close, key=lambda row: (PRECISIONS.index(row.precision), -p50(row)), default=None)


def from_picture(chosen: Row, fit: Iterable[Row], rows: Iterable[Row]) -> str:
    """The latency of `chosen` from picture to answer, beside that of the row the rule would pick without it.

    The rule itself looks at the network alone, which is the same for every camera, decoder and post-processing; what
    they add may be as much again and hide a difference, or make one.

    Args:
        chosen: What `choose` picked of `fit`.
        fit: Rows of the network alone that may be shipped.
        rows: All rows, of both boundaries.

    Returns:
        A sentence without its full stop; empty where `chosen` was not measured from picture to answer.
    """
    whole = {
        row.key_at_both: row for row in rows if row.boundary == "end_to_end" and row.status == "ok" and row.latency_ms
    }
    mine = whole.get(chosen.key_at_both)
    if mine is None or chosen.boundary == "end_to_end":
        return ""
    text = f"From picture to answer p50 {p50(mine):.2f} ms"
    second = choose(row for row in fit if row.key_at_both != chosen.key_at_both)
    other = whole.get(second.key_at_both) if second else None
    if other is None:
        return text
    ratio = p50(other) / p50(mine)
    word = "slower" if ratio >= WORTH_IT else "faster" if ratio <= 1 / WORTH_IT else "which one run cannot tell apart"
    recipe = f" {other.recipe}" if other.recipe else ""
    return f"{text}; the runner-up, {other.runtime} {other.precision}{recipe}, {p50(other):.2f} ms ({word})"
