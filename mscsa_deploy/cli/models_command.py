"""`mscsa-deploy models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.workflow.models import Zoo


@click.command("models")
@common_options
def command(terminal: Terminal) -> None:
    """List the models: parameters, MACs, FLOPs, input sizes, shipped recipes and weights."""
    from mscsa_deploy.workflow.models import list_models

    with terminal.progress() as progress:
        zoo = list_models(progress)
    terminal.document(zoo)
    terminal.show(_table(zoo))


def _table(zoo: Zoo) -> Table:
    from rich.table import Table

    table = Table("model", "task", title="Models", title_justify="left")
    for column in ("params (M)", "MACs (M)", "paper FLOPs (M)", "input"):
        table.add_column(column, justify="right")
    table.add_column("recipe")
    table.add_column("weights")
    for row in zoo.models:
        counts = (f"{count / 1e6:,.2f}" for count in (row.params, row.macs, row.paper_flops))
        size = f"{row.input_size[0]}x{row.input_size[1]}"
        table.add_row(row.name, row.task, *counts, size, row.recipe, "shipped" if row.weights else "")
    return table
