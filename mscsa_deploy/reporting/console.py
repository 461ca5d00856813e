"""The report in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mscsa_deploy.reporting.cells import LEGEND, SYMBOLS, UNSTABLE, Cells, groups, verdict_title
from mscsa_deploy.reporting.markdown import columns, common_setting
from mscsa_deploy.reporting.mobile import HEADING, in_a_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from mscsa_deploy.core.report import Report

_STYLES = {"ok": "green", "failed": "red", "not run": "yellow", "built, not run": "yellow"}
_TEXT_FIELDS = ("runtime", "precision", "setting", "symbol")
_EXPENDABLE = ("speedup_optimized", "agreement", "fps", "size", "p90", "setting", "drop")
"""What a narrow terminal does without, in this order; the files hold it all."""


def render(report: Report) -> Group:
    """The tables, the reasons of what did not run, the legend and the verdict, for `rich`'s console."""
    parts: list[RenderableType] = []
    shown: list[Cells] = []
    for title, rows in groups(report).items():
        parts.append(ResultsTable(title, columns(report, rows), tuple(rows)))
        noted = (row for row in rows if row.note)
        parts += [Text(f"  {row.symbol} {row.runtime} {row.precision}: {row.note}") for row in noted]
        shown += rows
    if shown:
        parts.append(legend(shown))
    if report.mobile:
        parts += [Text(HEADING, "bold"), *(Text(f"  {in_a_line(model)}") for model in report.mobile)]
    if report.verdict is not None:
        word = f"{verdict_title(report.verdict)}."
        style = "bold green" if report.verdict.passed else "bold red"
        parts.append(Text(f"{word} {report.verdict.summary}", style))
        parts += [Text(f"  {gate}") for gate in report.verdict.gates]
    return Group(*parts)


@dataclass(frozen=True, slots=True)
class ResultsTable:
    """One table of results that leaves out columns where the terminal is too narrow for all.

    Args:
        title: What the latencies cover.
        fields: Field of `Cells` and heading of each column.
        rows: What to show.
    """

    title: str
    fields: Sequence[tuple[str, str]]
    rows: Sequence[Cells]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fields = list(self.fields)
        for expendable in _EXPENDABLE:
            if sum(self._width(*field) for field in fields) + 1 <= options.max_width:
                break
            fields = [field for field in fields if field[0] != expendable]
        common = common_setting(self.rows)
        heading = Text(f"{self.title}, {common}" if common else self.title)
        table = Table(title=heading, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for field, name in fields:
            table.add_column(_heading(field, name), justify="left" if field in _TEXT_FIELDS else "right")
        for row in self.rows:
            table.add_row(*(_cell(row, field) for field, _ in fields), style=None if row.status == "ok" else "dim")
        yield table

    def _width(self, field: str, name: str) -> int:
        lines = [_heading(field, name).plain, *(_cell(row, field).plain for row in self.rows)]
        return 2 + max(len(line) for text in lines for line in text.split("\n"))


def legend(rows: Sequence[Cells]) -> Text:
    """What the signs mean that `rows` use."""
    used = {row.status for row in rows}
    words = [f"{SYMBOLS[status]} {status}: {text}" for status, text in LEGEND.items() if status in used]
    if any(row.p50.startswith(UNSTABLE) for row in rows):
        words.append(f"{UNSTABLE.strip()} latency did not settle")
    if any("[" in row.drop or "[" in row.speedup for row in rows):
        words.append("[low, high] 95 % interval")
    return Text("; ".join(words), "dim")


def _heading(field: str, name: str) -> Text:
    return Text("" if field == "symbol" else name, no_wrap=True)


def _cell(row: Cells, field: str) -> Text:
    text = getattr(row, field)
    if field == "symbol":
        return Text(row.symbol, _STYLES[row.status])
    # Interval and executed precision go on a line of their own, so that the table fits a terminal.
    for mark in ("[", "(ran as "):
        head, found, tail = text.partition(f" {mark}")
        if found:
            return Text.assemble(head, "\n", (mark[0] + tail, "dim"), no_wrap=True)
    return Text(text, no_wrap=True)
