"""`mscsa-deploy deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mscsa_deploy.cli.options import (
    NAMES,
    PARALLEL,
    checkpoint_options,
    max_drop_option,
    output_options,
    preset_option,
    resume_option,
)
from mscsa_deploy.cli.terminal import Terminal, command_line, common_options


@click.command("deploy", epilog="Example: mscsa-deploy deploy topformer_t_mscsa.seg --preset smoke -o out")
@click.argument("model")
@checkpoint_options
@click.option("--calibration", default="calibration", show_default=True, help="Images that INT8 ranges come from.")
@click.option("--validation", default="validation", show_default=True, help="Images that choices are scored on.")
@click.option("--evaluation", default="evaluation", show_default=True, help="Images that the report quotes.")
@click.option("--calibration-images", type=click.IntRange(min=1), help="Use at most so many of them.")
@click.option("--evaluation-images", type=click.IntRange(min=1), help="Use at most so many of them.")
@click.option("--runtime", "runtimes", type=NAMES, help="Runtimes to deploy for (default: the device profile's).")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="Calibration recipe instead of the default one of its runtime, as `quantize` writes one; repeatable.",
)
@click.option("--device", metavar="PROFILE", help="Device profile (default: this machine's).")
@click.option("--threads", type=PARALLEL, help="Threads per session (default: the profile's).")
@preset_option
@max_drop_option
@click.option("--require-int8", is_flag=True, help="Fail unless an INT8 artefact is within budget and faster.")
@click.option(
    "--output",
    type=click.Choice(["logits", "classmap"]),
    help="Segmentation files end in logits (and in class maps where that is faster), or in class maps only.",
)
@click.option("--mobile", is_flag=True, help="Also make .ort files for phones, and say which accelerators fit.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@output_options
@resume_option
@common_options
def command(terminal: Terminal, out: Path, *, force: bool, dry_run: bool, **settings: Any) -> int:
    """All stages: checkpoint to verified ONNX, INT8 per runtime, accuracy, latency, report and bundle.

    MODEL is a name of `mscsa-deploy models`, or an export recipe (a TOML file, or a shipped one's name).
    Image sets are folders, CSV lists, or the shipped sets calibration, validation and evaluation.
    """
    from mscsa_deploy.workflow.deploy import run_deploy
    from mscsa_deploy.workflow.deployment import DeployRequest
    from mscsa_deploy.workflow.plan import make_plan

    settings["recipes"] = settings["recipes"] or None
    request = DeployRequest(**settings, command=command_line())
    if dry_run:
        plan = make_plan(request)
        terminal.document({"profile": plan.profile.name, "runtimes": plan.runtimes, "recipes": plan.recipes})
        terminal.say(
            f"profile {plan.profile.name}: {plan.why_profile}",
            f"runtimes: {', '.join(plan.runtimes)}",
            *(f"INT8 for {name}: recipe {' and '.join(recipes)}" for name, recipes in plan.recipes.items()),
            f"images: {request.calibration}, {request.validation}, {request.evaluation}",
        )
        return 0
    with terminal.progress() as progress:
        finished = run_deploy(request, out, force=force, progress=progress)
    terminal.document(finished.report)
    from mscsa_deploy.reporting.console import render

    terminal.show(render(finished.report))
    terminal.say(f"report: {out / 'report.html'}")
    return finished.exit_code
