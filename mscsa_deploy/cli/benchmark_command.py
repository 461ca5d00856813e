"""`mscsa-deploy benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mscsa_deploy.cli.options import NAMES, OUTPUT_DIRECTORY, PARALLEL, Quantity, preset_option, subject_options
from mscsa_deploy.cli.terminal import Terminal, command_line, common_options


@click.command("benchmark", epilog="Example: mscsa-deploy benchmark demo-out --runtime openvino --rate 30 -o measured")
@click.argument("models", nargs=-1, required=True)
@click.option("--runtime", "runtimes", type=NAMES, help="Runtimes to measure (default: the device profile's).")
@click.option("--precision", "precisions", type=NAMES, help="Of fp32, fp16, bf16, int8 (default: all there are).")
@preset_option
@click.option("--rate", type=Quantity(min=0), default=0.0, metavar="FPS", help="Pictures a second, paced.")
@click.option("--streams", type=PARALLEL, default=1, help="Parallel streams: throughput.")
@click.option(
    "--boundary", "boundaries", type=NAMES, default="core,end_to_end", show_default=True, help="What is timed."
)
@click.option("--images", default="validation", show_default=True, help="Where the inputs come from.")
@click.option("--on", default="", metavar="ssh://USER@HOST", help="Measure on another machine.")
@click.option("--explain", is_flag=True, help="Say for every row where its time goes.")
@click.option("--no-peak", "peak", flag_value=False, default=True, type=bool, help="Do not measure the machine's peak.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with a run that was stopped.")
@subject_options
@click.option("-o", "--output-dir", "out", type=OUTPUT_DIRECTORY, help="Keep the report and the raw samples here.")
@click.option("--force", is_flag=True, help="Replace what stands there.")
@common_options
def command(terminal: Terminal, out: Path | None, *, force: bool, **settings: Any) -> int:
    """Measure honest latency: one process per row, blocks of rows taking turns, ratios with their intervals.

    MODELS are bundles, ONNX files, names of `mscsa-deploy models` or export recipes.
    """
    from mscsa_deploy.errors import unknown_name
    from mscsa_deploy.reporting.console import render
    from mscsa_deploy.workflow.benchmark import ALL_BOUNDARIES, BenchmarkRequest, run_benchmark

    for boundary in settings["boundaries"]:
        if boundary not in ALL_BOUNDARIES:
            raise unknown_name("boundary", boundary, ALL_BOUNDARIES)
    request = BenchmarkRequest(**settings, command=command_line())
    with terminal.progress() as progress:
        report, code = run_benchmark(request, out, force=force, progress=progress)
    terminal.document(report)
    terminal.show(render(report))
    for row in report.rows:
        for line in row.explanation:
            terminal.say(f"{row.runtime} {row.precision}: {line}")
    if out is not None:
        terminal.say(f"report: {out / 'report.html'}")
    return code
