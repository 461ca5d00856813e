"""`mscsa-deploy compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mscsa_deploy.cli.options import INPUT_FILE
from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.workflow.compare import Comparison

_STYLES = {"regression": "bold red", "worse": "yellow", "better": "green"}


@click.command("compare", epilog="Example: mscsa-deploy compare earlier measured --max-regress p90=5%")
@click.argument("old", type=INPUT_FILE, metavar="OLD.json")
@click.argument("new", type=INPUT_FILE, metavar="NEW.json")
@click.option(
    "--max-regress",
    multiple=True,
    metavar="QUANTITY=AMOUNT",
    help="How much worse it may get, e.g. p90=5% or metric=0.5 (points); may be repeated, and then stands alone. "
    "Default: p50=5%, p90=5%, size=1%, metric=0.1.",
)
@click.option("--force", is_flag=True, help="Compare although the environments or models differ.")
@common_options
def command(terminal: Terminal, old: Path, new: Path, *, max_regress: tuple[str, ...], force: bool) -> int:
    """Hold a new report against an old one; exit code 5 when something got worse than allowed.

    OLD and NEW are report.json files, or the directories that hold them. A latency whose interval overlaps
    the old one's is noise, not a regression.
    """
    from mscsa_deploy.errors import GateError
    from mscsa_deploy.workflow.compare import run_compare

    found = run_compare(old, new, max_regress, force=force)
    error = None if found.passed else GateError(found.problem)
    terminal.document(found, error)
    terminal.show(_table(found), *_lines(found))
    return terminal.complain(error) if error is not None else 0


def _table(found: Comparison) -> Table:
    from rich.markup import escape

    from mscsa_deploy.cli.tables import results

    table = results(fold=("row",), text=("verdict", "quantity"), numbers=("old", "new", "change", "allowed"))
    for change in found.changes:
        unit = " %" if change.unit == "%" else " points"
        table.add_row(
            escape(change.row),
            change.verdict,
            change.quantity,
            _value(change.quantity, change.old),
            _value(change.quantity, change.new),
            _direction(change.loss, unit),
            "" if change.limit is None else f"{change.limit:g}{unit}",
            style=_STYLES.get(change.verdict),
        )
    return table


def _value(quantity: str, value: float) -> str:
    if quantity in ("size", "memory"):
        return f"{value / 1e6:,.2f} MB"
    unit = {"fps": "", "metric": " %", "agreement": " %"}.get(quantity, " ms")
    return f"{value:,.2f}{unit}"


def _direction(loss: float, unit: str) -> str:
    if abs(loss) < 0.005:
        return "none"
    return f"{abs(loss):.2f}{unit} {'worse' if loss > 0 else 'better'}"


def _lines(found: Comparison) -> list[str]:
    from rich.markup import escape

    lines = [f"[yellow]unlike:[/] {escape(text)}" for text in found.differences]
    lines += [f"[red]no longer runs:[/] {escape(text)}" for text in found.broken]
    lines += [f"[red]not in the new report:[/] {escape(text)}" for text in found.missing]
    lines += [f"new: {escape(text)}" for text in found.added]
    lines.append("[green]Passed: nothing got worse than allowed.[/]" if found.passed else "[bold red]Not passed.[/]")
    return lines
