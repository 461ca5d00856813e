"""This project's rows against all others: as ratios, and as a table for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mscsa_deploy.core.report import Report, Row
from mscsa_deploy.reporting.markdown import table
from mscsa_deploy.timing.rows import ratio_of_files

OURS = "this project"
"""How the recipe of this project's rows begins."""

COLUMNS = (
    "boundary", "runtime", "precision", "made by", "p50 ms", "95 %", "p90 ms", "CV", "mIoU", "peak MiB", "executed",
)  # fmt: skip


def comparisons(rows: list[Row], samples: Path) -> list[dict[str, Any]]:
    """Every row of this project against every alternative on the same boundary, by blocks of the same round."""
    found = []
    for ours in rows:
        for other in rows:
            if not ours.recipe.startswith(OURS) or other.recipe.startswith(OURS):
                continue
            if ours.boundary != other.boundary or not (ours.samples_file and other.samples_file):
                continue
            label = f"{other.recipe} on {other.runtime} ({other.precision})"
            ratio = ratio_of_files(samples / ours.samples_file, samples / other.samples_file, label=label)
            found.append(
                {
                    "runtime": ours.runtime, "precision": ours.precision, "recipe": ours.recipe,
                    "boundary": ours.boundary, "faster_than": label, "same_runtime": ours.runtime == other.runtime,
                    "ratio": ratio.value, "ci95": ratio.ci95, "blocks": ratio.blocks,
                }
            )  # fmt: skip
    return found


def to_markdown(report: Report) -> str:
    """The rows of `report` and its comparisons as two tables."""
    ordered = sorted(report.rows, key=lambda row: (row.boundary, row.runtime, row.precision))
    ratios = [
        [
            f"{entry['runtime']} {entry['precision']}", entry["faster_than"], entry["boundary"],
            f"{entry['ratio']:.2f}", f"{entry['ci95'][0]:.2f}-{entry['ci95'][1]:.2f}",
        ]
        for entry in report.data["comparisons"]
    ]  # fmt: skip
    lines = [f"`{report.command}`, {report.created}", "", *table(COLUMNS, [_cells(row) for row in ordered])]
    lines += ["", *table(("ours", "faster than", "boundary", "ratio", "95 %"), ratios)]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    what = [row.boundary, row.runtime, row.precision, row.recipe]
    latency = row.latency_ms
    if latency is None:
        return [*what, f"{row.status}: {row.reason}", *[""] * (len(COLUMNS) - len(what) - 1)]
    return [
        *what,
        f"{latency.p50:.2f}" + ("" if row.stable else " (unstable)"),
        f"{latency.ci95[0]:.2f}-{latency.ci95[1]:.2f}",
        "" if latency.p90 is None else f"{latency.p90:.2f}",
        f"{latency.cv:.2f}",
        "" if row.metric is None else f"{row.metric.value:.2f}",
        "" if row.peak_rss_bytes is None else f"{row.peak_rss_bytes >> 20}",
        row.executed_precision,
    ]
