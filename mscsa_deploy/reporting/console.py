"""The report in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mscsa_deploy.reporting.cells import LEGEND, SYMBOLS, UNSTABLE, Cells, groups
from mscsa_deploy.reporting.markdown import columns, common_setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mscsa_deploy.core.report import Report

_STYLES = {"ok": "green", "failed": "red", "not run": "yellow", "built, not run": "yellow"}
_TEXT_FIELDS = ("runtime", "precision", "setting", "symbol")


def render(report: Report) -> Group:
    """The tables, the reasons of what did not run, the legend and the verdict, for `rich`'s console."""
    parts: list[RenderableType] = []
    shown: list[Cells] = []
    for title, rows in groups(report).items():
        parts.append(results_table(report, title, rows))
        parts += [
            Text(f"  {SYMBOLS[row.status]} {row.runtime} {row.precision}: {row.note}") for row in rows if row.note
        ]
        shown += rows
    if shown:
        parts.append(legend(shown))
    if report.verdict is not None:
        style = "bold green" if report.verdict.passed else "bold red"
        parts.append(Text(("Passed. " if report.verdict.passed else "Not passed. ") + report.verdict.summary, style))
        parts += [Text(f"  {gate}") for gate in report.verdict.gates]
    return Group(*parts)


def results_table(report: Report, title: str, rows: Sequence[Cells]) -> Table:
    """One table of results."""
    common = common_setting(rows)
    table = Table(title=escape(f"{title}, {common}" if common else title), title_justify="left", title_style="bold")
    fields = columns(report, rows)
    for field, heading in fields:
        table.add_column(escape(heading), justify="left" if field in _TEXT_FIELDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row, field) for field, _ in fields), style=None if row.status == "ok" else "dim")
    return table


def legend(rows: Sequence[Cells]) -> Text:
    """What the signs mean that `rows` use."""
    words = [
        f"{SYMBOLS[status]} {status}: {text}"
        for status, text in LEGEND.items()
        if any(r.status == status for r in rows)
    ]
    if any(row.p50.startswith(UNSTABLE) for row in rows):
        words.append(f"{UNSTABLE.strip()} latency did not settle")
    if any("[" in row.drop or "[" in row.speedup for row in rows):
        words.append("[low, high] 95 % interval")
    return Text("; ".join(words), "dim")


def _cell(row: Cells, field: str) -> Text:
    text = getattr(row, field)
    if field == "symbol":
        return Text(f"{row.symbol} {row.status}", _STYLES[row.status])
    # Interval and executed precision go on a line of their own, so that the table fits a terminal.
    for mark in (" [", " (ran"):
        head, found, tail = text.partition(mark)
        if found:
            return Text.assemble(head, "\n", (mark.strip() + tail, "dim"))
    return Text(text)
