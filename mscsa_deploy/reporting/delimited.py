"""The report's rows as CSV, one line each, numbers unrounded."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.config import to_plain

if TYPE_CHECKING:
    from mscsa_deploy.core.report import Report, Row

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

PLAIN = (
    "runtime", "runtime_version", "profile", "precision", "executed_precision", "boundary", "mode", "device",
    "threads", "streams", "batch", "artifact", "sha256", "recipe", "status", "reason", "stable",
    "unstable_reason", "fps", "load_ms", "first_ms", "peak_rss_bytes", "size_bytes", "macs_per_s", "share_of_peak",
)  # fmt: skip
NESTED = {
    "latency_ms": ("min", "mean", "p50", "p90", "p99", "cv", "samples", "ci95"),
    "metric": ("name", "value", "reference", "drop", "drop_ci95", "drop_spread", "images"),
    "parity": ("max_abs", "max_abs_over_range", "cosine", "argmax_agreement", "sqnr_db"),
    "speedup_vs_fp32": ("value", "ci95"),
    "speedup_vs_optimised_fp32": ("value", "ci95"),
    "parts_ms": ("decode", "preprocess", "network", "postprocess"),
}
_PAIRS = ("ci95", "drop_ci95")


def to_csv(report: Report) -> str:
    """RFC 4180 text with a heading line; what was not measured is an empty field."""
    stream = io.StringIO()
    lines = [_flat(row) for row in report.rows]
    writer = csv.DictWriter(stream, fieldnames=_headings(), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _headings() -> list[str]:
    headings = ["input_height", "input_width", *PLAIN]
    for group, fields in NESTED.items():
        for field in fields:
            headings += [f"{group}.{field}.low", f"{group}.{field}.high"] if field in _PAIRS else [f"{group}.{field}"]
    return headings


def _flat(row: Row) -> dict[str, Any]:
    plain = to_plain(row)
    flat: dict[str, Any] = {field: _safe(plain[field]) for field in PLAIN}
    flat["input_height"], flat["input_width"] = plain["input_size"]
    for group, fields in NESTED.items():
        values = plain[group] or {}
        for field in fields:
            value = values.get(field)
            if field in _PAIRS:
                flat[f"{group}.{field}.low"], flat[f"{group}.{field}.high"] = value or ("", "")
            else:
                flat[f"{group}.{field}"] = "" if value is None else _safe(value)
    return flat


def _safe(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return "" if value is None else value
