"""`mscsa-deploy run`."""

from __future__ import annotations

from pathlib import Path

import click

from mscsa_deploy.cli.options import INPUT_FILE, OUTPUT_DIRECTORY, resume_option
from mscsa_deploy.cli.terminal import Terminal, command_line, common_options


@click.command("run", epilog="Example: mscsa-deploy run demo-out/resolved.toml -o again")
@click.argument("path", type=INPUT_FILE, metavar="RESOLVED.toml")
@click.option(
    "-o", "--output-dir", "out", type=OUTPUT_DIRECTORY, help="Where the result goes (default: NAME-again beside it)."
)
@click.option("--force", is_flag=True, help="Replace what stands there.")
@resume_option
@common_options
def command(terminal: Terminal, path: Path, out: Path | None, *, force: bool) -> int:
    """Replay exactly what a deployment did.

    RESOLVED.toml lies in every directory that 'deploy' leaves; naming the directory is enough. Finished work is
    taken from the cache where nothing that decides it has changed.
    """
    from mscsa_deploy.workflow.resolved import other_versions, read_resolved, version_warning
    from mscsa_deploy.workflow.run import run_resolved

    resolved = read_resolved(path)
    if warning := version_warning(resolved):
        terminal.note(f"warning: {warning}")
    if others := other_versions(resolved):
        terminal.note(f"note: other versions than then: {', '.join(others)}")
    place = out or _again(path)
    with terminal.progress() as progress:
        finished = run_resolved(resolved, place, command=command_line(), force=force, progress=progress)
    terminal.document(finished.report)
    from mscsa_deploy.reporting.console import render

    terminal.show(render(finished.report))
    terminal.say(f"report: {place / 'report.html'}")
    return finished.exit_code


def _again(path: Path) -> Path:
    """Beside the directory that was replayed."""
    folder = (path if path.is_dir() else path.parent).resolve()
    return folder.with_name(f"{folder.name}-again")
