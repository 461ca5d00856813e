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
