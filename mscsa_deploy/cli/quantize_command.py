"""`mscsa-deploy quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mscsa_deploy.cli.options import max_drop_option, output_options, resume_option, runtime_option, subject_options
from mscsa_deploy.cli.terminal import Terminal, common_options
from mscsa_deploy.errors import GateError

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.workflow.quantize import QuantizeOutcome

COLUMNS = (("latency_ms", ".2f"), ("speedup_vs_best_float", ".2f"), ("value", ".2f"), ("drop", "+.2f"))


@click.command(
    "quantize", epilog="Example: mscsa-deploy quantize exported/model.onnx --for openvino --max-drop 0.5 -o int8"
)
@click.argument("model")
@runtime_option
@click.option("--calibration", default="calibration", show_default=True, help="Images that ranges come from.")
@click.option("--validation", default="validation", show_default=True, help="Images that candidates are scored on.")
@click.option("--validation-images", type=click.IntRange(min=1), help="Use at most so many of them.")
@click.option("--recipe", metavar="NAME|FILE", help="Use this calibration recipe as it is, instead of searching.")
@max_drop_option
@click.option("--draw", type=click.IntRange(min=0), default=0, help="Another draw of the calibration images.")
@subject_options
@output_options
@resume_option
@common_options
def command(terminal: Terminal, out: Path, *, force: bool, **settings: Any) -> int:
    """Make INT8 for one runtime and device, within an accuracy budget and faster than float.

    MODEL is a name of `mscsa-deploy models`, an export recipe, an ONNX file or a bundle. Without --recipe the
    fastest artefact within the budget is searched for by measuring on this device; an interrupted search goes on
    where it stopped. If there is none, the report says why and the exit code is 5.
    """
    from mscsa_deploy.workflow.quantize import run_quantize
    from mscsa_deploy.workflow.quantize_bench import QuantizeRequest

    with terminal.progress() as progress:
        outcome, code = run_quantize(QuantizeRequest(**settings), out, force=force, progress=progress)
    error = GateError(outcome.verdict) if code == GateError.exit_code else None
    terminal.document(outcome, error)
    if outcome.search:
        terminal.show(_table(outcome))
    lines = [f"{len(outcome.left_float)} operators stayed float, {outcome.quantized_ops} are integer"]
    lines += [f"  {text}" for text in outcome.left_float[:10]]
    more = len(outcome.left_float) - 10
    lines += [f"  and {more} more, see {out / 'quantize.json'}"] if more > 0 else []
    terminal.say(*(lines if outcome.artifact else ()), outcome.verdict)
    terminal.say(f"wrote {out / outcome.artifact}" if outcome.artifact else f"no INT8 file; report: {out}")
    if outcome.recipe_file:
        terminal.say(f"a bundle with it: mscsa-deploy deploy ... --recipe {out / outcome.recipe_file}")
    return terminal.complain(error) if error is not None else code


def _table(outcome: QuantizeOutcome) -> Table:
    from rich.table import Table

    table = Table("step", "recipe", title=f"Candidates, against {outcome.best_float}", title_justify="left")
    for column in ("ms", "speed-up", "value %", "drop"):
        table.add_column(column, justify="right")
    for line in outcome.search:
        cells = [_number(line, key, shape) for key, shape in COLUMNS]
        table.add_row(line["stage"], line["recipe"], *(["", "", "", "failed"] if line["status"] == "failed" else cells))
    return table


def _number(line: dict[str, Any], key: str, shape: str) -> str:
    return format(line[key], shape) if key in line else ""
