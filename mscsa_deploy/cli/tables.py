"""Tables that stay readable in a narrow terminal: numbers keep to one line, names fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

MIN_WIDTH = 14
"""Of a column that is folded: where that is too much, numbers give way."""


def results(title: str = "", *, fold: Sequence[str], text: Sequence[str] = (), numbers: Sequence[str] = ()) -> Table:
    """An empty table with a line under its heading.

    Args:
        title: Above it.
        fold: First columns, whose long words (paths) are broken where the terminal is narrow.
        text: Then columns of text that is not broken.
        numbers: Then columns aligned on the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_style = "bold"
    for name in fold:
        table.add_column(name, overflow="fold", min_width=MIN_WIDTH if name else None)
    for name in text:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def facts(title: str, rows: dict[str, str]) -> Table:
    """Names and values below each other, those without a value left out."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.title_style = "bold"
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    return table
