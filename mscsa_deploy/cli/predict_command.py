"""`mscsa-deploy predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mscsa_deploy.cli.options import INPUT_FILE, OUTPUT_DIRECTORY, PARALLEL
from mscsa_deploy.cli.terminal import Terminal, common_options

if TYPE_CHECKING:
    from rich.table import Table

    from mscsa_deploy.workflow.predict import Answer, Answers

MOST_TABLES = 8


@click.command("predict", epilog="Example: mscsa-deploy predict demo-out photo.jpg -o answers")
@click.argument("bundle", type=INPUT_FILE)
@click.argument("images", type=INPUT_FILE, nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--output-dir", "out", type=OUTPUT_DIRECTORY, help="Where overlay pictures and answers go.")
@click.option("--force", is_flag=True, help="Replace what stands there.")
@click.option("--classmap", "class_maps", is_flag=True, help="Also write each class map (PNG of class numbers).")
@click.option("--runtime", help="Only this runtime (default: what the bundle recommends).")
@click.option("--precision", help="Only this precision: fp32, fp16, bf16 or int8.")
@click.option("--threads", type=PARALLEL, help="Compute threads (default: the bundle's).")
@common_options
def command(
    terminal: Terminal,
    bundle: Path,
    images: tuple[Path, ...],
    out: Path | None,
    *,
    force: bool,
    class_maps: bool,
    runtime: str | None,
    precision: str | None,
    threads: int | None,
) -> int:
    """Answer for pictures; for segmentation, an overlay of each.

    BUNDLE is a directory that 'deploy' left, or a packed one. IMAGE is a picture or a folder of pictures; one
    that cannot be read does not keep the others from their answers.
    """
    from mscsa_deploy.errors import UserError
    from mscsa_deploy.workflow.predict import PredictRequest, run_predict

    if class_maps and out is None:
        raise UserError("class maps need a place", hint="add -o DIR")
    request = PredictRequest(
        bundle=bundle, images=images, runtime=runtime, precision=precision, threads=threads, class_maps=class_maps
    )
    with terminal.progress() as progress:
        answers = run_predict(request, out, force=force, progress=progress)
    error = answers.error()
    terminal.document(answers, error)
    terminal.show(*_lines(answers, out))
    for answer in answers.failed:
        if answer.error is not None and len(answers.failed) > 1:
            terminal.note(f"no answer: {answer.error.message}")
    return terminal.complain(error) if error is not None else 0


def _lines(answers: Answers, out: Path | None) -> list[Table | str]:
    from rich.markup import escape

    what = f"{answers.artifact} on {answers.runtime} in {answers.precision}, {answers.threads} thread(s)"
    lines: list[Table | str] = [escape(f"{answers.model}: {what}")]
    lines += [f"[yellow]note:[/] {escape(note)}" for note in answers.notes]
    good = [answer for answer in answers.images if answer.error is None]
    for answer in good[:MOST_TABLES]:
        height, width = answer.size or (0, 0)
        total = sum(answer.parts_ms.values())
        lines += [escape(f"\n{answer.image} ({width}x{height}, {total:.1f} ms)"), _table(answer)]
    if len(good) > MOST_TABLES:
        lines.append(f"and {len(good) - MOST_TABLES} more pictures; --json tells all")
    if out is not None:
        written = [name for answer in good for name in (answer.overlay, answer.class_map) if name]
        lines.append(escape(f"wrote {len(written)} picture(s) and predictions.json to {out}"))
    elif answers.task == "seg":
        lines.append("add -o DIR for overlay pictures")
    return lines


def _table(answer: Answer) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False)
    table.add_column("class", justify="left")
    table.add_column("pixels" if answer.classes else "probability", justify="right")
    for entry in answer.classes or answer.top:
        table.add_row(escape(entry.label), f"{entry.percent:.1f} %")
    return table
