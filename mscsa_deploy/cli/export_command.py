"""`mscsa-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mscsa_deploy.cli.options import BATCH, checkpoint_options, output_options
from mscsa_deploy.cli.terminal import Terminal, common_options
from mscsa_deploy.core.vocabulary import OUTPUTS

if TYPE_CHECKING:
    from mscsa_deploy.workflow.against_pytorch import Check
    from mscsa_deploy.workflow.endings import Tail
    from mscsa_deploy.workflow.export import ExportOutcome


@click.command("export", epilog="Example: mscsa-deploy export topformer_t_mscsa.seg --output classmap -o exported")
@click.argument("model")
@checkpoint_options
@click.option("--batch", type=BATCH, help="A fixed batch (default 1), or 'dynamic'.")
@click.option(
    "--output",
    type=click.Choice(OUTPUTS),
    help="Where the graph ends: logits at the model's stride, at input size, class map, or probabilities.",
)
@click.option("--tail", metavar="FORM|auto", help="How the class map is made inside the graph; auto measures (--for).")
@click.option(
    "--input",
    "input_type",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="Normalized values (N, 3, H, W), or pixels (N, H, W, 3) with the normalization inside the graph.",
)
@click.option(
    "--for",
    "runtime",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt"]),
    help="Graph passes and tail for this runtime (default: what helps all).",
)
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True, help="Of weights.")
@click.option("--opset", type=int, help="Version of ai.onnx (default 18).")
@click.option("--no-optimize", "optimize", flag_value=False, default=None, type=bool, help="No graph passes.")
@click.option("--images", help="What the numeric check runs on (default: shipped scenes).")
@output_options
@common_options
def command(terminal: Terminal, out: Path, *, force: bool, **settings: Any) -> None:
    """Turn a checkpoint into a verified ONNX file.

    MODEL is a name of `mscsa-deploy models`, or an export recipe (a TOML file, or a shipped one's name).
    The file is compared with PyTorch on real images before it is kept.
    """
    from mscsa_deploy.workflow.export import ExportRequest, run_export

    with terminal.progress() as progress:
        outcome = run_export(ExportRequest(**settings), out, force=force, progress=progress)
    terminal.document(outcome)
    terminal.say(*_lines(outcome, out))


def _lines(outcome: ExportOutcome, out: Path) -> list[str]:
    height, width = outcome.input_size
    weights = f"random weights (seed {outcome.random_weights})" if outcome.random_weights is not None else "trained"
    what = (
        f"{outcome.model} {outcome.task}, {outcome.classes} classes, {height}x{width}, {outcome.output}, "
        f"{outcome.precision}, {weights}"
    )
    lines = [
        what,
        *_tail_lines(outcome.tail),
        *(_check_line(check) for check in outcome.checks),
        *(f"note: {note}" for note in outcome.notes),
    ]
    if outcome.not_loaded:
        lines.append(f"warning: {len(outcome.not_loaded)} parameters were not in the checkpoint and stayed random:")
        lines += [f"  {name}" for name in outcome.not_loaded]
    return [*lines, f"wrote {out / outcome.path}"]


def _tail_lines(tail: Tail | None) -> list[str]:
    if tail is None:
        return []
    measured = ", ".join(f"{form} {ms:.1f}" for form, ms in sorted(tail.scores_ms.items(), key=lambda each: each[1]))
    return [
        f"tail {tail.form} ({tail.why})",
        *([f"  from picture to class map, ms: {measured}"] if measured else []),
        *(
            f"[✓] {check.runtime} against upsampling and argmax: {check.different} of {check.pixels} pixels differ"
            f"{', all of them near-ties' if check.different else ''}, {check.images} images"
            for check in tail.checks
        ),
    ]


def _check_line(check: Check) -> str:
    numbers = check.parity
    agreement = f"argmax agreement {numbers.argmax_agreement:.3f} %" if numbers.argmax_agreement is not None else ""
    error = f"max error {numbers.max_abs_over_range:.1e} of range, " if numbers.max_abs_over_range is not None else ""
    return (
        f"[✓] {check.runtime} ({check.executed_precision}) against PyTorch: {error}{agreement}, {check.images} images"
    )
