"""`mscsa-deploy verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mscsa_deploy.cli.options import NAMES, PARALLEL, checkpoint_options, foreign_options, max_drop_option
from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.core.report import Row
    from mscsa_deploy.workflow.divergence import DivergenceRecord
    from mscsa_deploy.workflow.verify_records import VerifyOutcome


@click.command(
    "verify", epilog="Example: mscsa-deploy verify exported/model.onnx int8/model.int8.onnx --images data/val"
)
@click.argument("reference")
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE...")
@click.option("--images", required=True, metavar="DIR|LIST", help="What they are run on; labels are used if there.")
@click.option("--runtime", "runtimes", type=NAMES, help="Only these for the candidates (default: all that load them).")
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    metavar="OUTPUT.METRIC=VALUE",
    help="Another limit, e.g. logits.cosine=0.999; metrics: max_abs, max_abs_over_range, cosine, "
    "argmax_agreement, sqnr_db. May be repeated.",
)
@max_drop_option
@click.option("--bisect", is_flag=True, help="Find the node to blame where a candidate fails.")
@click.option("--max-images", type=click.IntRange(min=1), help="Use at most so many.")
@click.option("--threads", type=PARALLEL, default=1, show_default=True, help="Of each session.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Ray spreads the images over workers, which need the files under the same paths.",
)
@foreign_options
@checkpoint_options
@common_options
def command(
    terminal: Terminal,
    reference: str,
    candidates: tuple[str, ...],
    *,
    images: str,
    runtimes: tuple[str, ...] | None,
    tolerances: tuple[str, ...],
    max_drop: float | None,
    bisect: bool,
    max_images: int | None,
    threads: int,
    engine: Literal["local", "ray"],
    preprocess: Path | None,
    **source: Any,
) -> int:
    """Compare outputs and accuracy of several artefacts; exit code 5 when one does not agree.

    REFERENCE and CANDIDATE are ONNX files, bundles, OpenVINO files (.xml), PyTorch files of this tool
    (.safetensors), or models and recipes of the zoo. Every candidate is run on every runtime that loads it.
    FP32 must agree number by number; INT8 by the task metric where there are labels, else by its decisions.
    """
    from mscsa_deploy.workflow.prepare import ModelRequest
    from mscsa_deploy.workflow.verify import run_verify
    from mscsa_deploy.workflow.verify_records import VerifyRequest

    request = VerifyRequest(
        reference=reference,
        candidates=candidates,
        images=images,
        source=ModelRequest(model="", **source),
        runtimes=runtimes,
        preprocess=preprocess,
        tolerances=tolerances,
        max_drop=max_drop,
        max_images=max_images,
        threads=threads,
        bisect=bisect,
        engine=engine,
    )
    with terminal.progress() as progress:
        outcome = run_verify(request, progress)
    error = outcome.error()
    terminal.document(outcome, error)
    terminal.show(_table(outcome), *_lines(outcome))
    return terminal.complain(error) if error is not None else 0


def _table(outcome: VerifyOutcome) -> Table:
    from mscsa_deploy.cli.tables import results

    labels = f", {outcome.labeled} with labels" if outcome.labeled else ", without labels"
    metric = outcome.reference.metric
    numbers = ["error/range", "SQNR", "same class", *([metric.name, "drop"] if metric is not None else [])]
    title = f"{outcome.images} image{'s' * (outcome.images != 1)} of {outcome.image_set}{labels}"
    table = results(title, fold=("", "file"), text=("runtime", "computes"), numbers=numbers)
    table.add_row("", *_cells(outcome.reference, reference=True, metric=metric is not None), style="bold")
    lost = {gate.subject for gate in outcome.gates if not gate.passed}
    for row in outcome.rows:
        bad = row.status == "failed" or row.details["name"] in lost
        mark = "[red]✗[/]" if bad else "[yellow]-[/]" if row.status != "ok" else "[green]✓[/]"
        table.add_row(mark, *_cells(row, reference=False, metric=metric is not None))
    return table


def _cells(row: Row, *, reference: bool, metric: bool) -> list[str]:
    from rich.markup import escape

    computes = row.executed_precision or row.precision
    cells = [escape(row.artifact), row.runtime, computes]
    numbers = row.parity
    if reference:
        cells += ["reference", "", ""]
    elif numbers is None:
        cells += [row.status, "", ""]
    else:
        cells += [
            _number(numbers.max_abs_over_range, ".1e"),
            _number(numbers.sqnr_db, ".1f", " dB"),
            _number(numbers.argmax_agreement, ".3f", " %"),
        ]
    if metric:
        found = row.metric
        cells += [_number(found.value, ".2f", " %") if found else "", _number(found.drop, "+.2f") if found else ""]
    return cells


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _lines(outcome: VerifyOutcome) -> list[str]:
    from rich.markup import escape

    lines = [
        f"[yellow]{row.status}:[/] {escape(f'{row.artifact} on {row.runtime}: {row.reason}')}"
        for row in outcome.rows
        if row.status != "ok"
    ]
    for gate in outcome.gates:
        word = "[green]passed[/]" if gate.passed else "[bold red]FAILED[/]"
        lines.append(f"{word} {escape(f'{gate.subject}: {gate.asked}; {gate.found}')}")
    lines += [escape(_divergence(found)) for found in outcome.divergences]
    return lines


def _divergence(found: DivergenceRecord) -> str:
    if not found.found:
        return f"bisect: {found.subject}: no node found; {found.reason}"
    numbers = found.parity
    off = []
    if numbers is not None:
        off = [
            f"max error {numbers.max_abs_over_range:.1e} of range" if numbers.max_abs_over_range is not None else "",
            f"SQNR {numbers.sqnr_db:.1f} dB" if numbers.sqnr_db is not None else "",
        ]
    where = f"node '{found.node}' ({found.op}), tensor '{found.tensor}': {', '.join(filter(None, off))}"
    if not found.first:
        return (
            f"bisect: {found.subject} loses most at {where}; {found.limit}; against {found.against}; {found.steps} runs"
        )
    before = f"; right before it agree {', '.join(found.agreeing[:4])}" if found.agreeing else ""
    limit = f"limit {found.limit}; against {found.against}{before}; {found.steps} steps"
    return f"bisect: {found.subject} diverges first at {where}; {limit}"
