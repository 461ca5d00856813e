"""`mscsa-deploy sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mscsa_deploy.cli.options import OUTPUT_DIRECTORY, runtime_option, subject_options
from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.workflow.sensitivity import SensitivityReport

SHOWN = 20


@click.command("sensitivity", epilog="Example: mscsa-deploy sensitivity exported/model.onnx --for onnxruntime")
@click.argument("model")
@runtime_option
@click.option("--by", type=click.Choice(["block", "node"]), default="block", show_default=True, help="What is ranked.")
@click.option("--calibration", default="calibration", show_default=True, help="Images that ranges come from.")
@click.option("--validation", help="Images to judge on (default: those of --calibration).")
@click.option(
    "--max-images", "images", type=click.IntRange(min=1), default=4, show_default=True, help="Judge on so many."
)
@click.option("--recipe", metavar="NAME|FILE", help="Calibration recipe (default: the device profile's).")
@subject_options
@click.option("-o", "--output-dir", "out", type=OUTPUT_DIRECTORY, help="Keep the ranking and its plot here.")
@click.option("--force", is_flag=True, help="Replace what stands there.")
@common_options
def command(terminal: Terminal, out: Path | None, *, force: bool, **settings: Any) -> None:
    """Rank the blocks or nodes that INT8 hurts: each alone in integers, compared with the float model.

    MODEL is a name of `mscsa-deploy models`, an export recipe, an ONNX file or a bundle.
    """
    from mscsa_deploy.workflow.sensitivity import SensitivityRequest, run_sensitivity

    with terminal.progress() as progress:
        report = run_sensitivity(SensitivityRequest(**settings), out, force=force, progress=progress)
    terminal.document(report)
    terminal.show(_table(report))
    if report.note:
        terminal.say(report.note)
    if out is not None:
        terminal.say(f"all {len(report.units)} and a plot: {out}")


def _table(report: SensitivityReport) -> Table:
    from rich.table import Table

    title = f"{report.model} on {report.runtime}, {report.recipe}: the worst first ({report.images} images)"
    table = Table("unit", title=title, title_justify="left")
    for column in ("SQNR dB", "agree %", *([f"{report.metric} drop"] if report.metric else []), "float ms"):
        table.add_column(column, justify="right")
    table.add_column("operators")

    everything = ("everything", report.whole_sqnr_db, report.whole_agreement, report.whole_drop, None, ())
    units = [(u.unit, u.sqnr_db, u.agreement, u.drop, u.float_ms, u.ops) for u in report.units[:SHOWN]]
    for name, noise, agreement, drop, spent, ops in (everything, *units):
        cells = [f"{noise:.1f}", f"{agreement:.2f}", *([] if drop is None else [f"{drop:z.2f}"])]
        table.add_row(name, *cells, "" if spent is None else f"{spent:.2f}", " ".join(ops))
    return table
