"""`mscsa-deploy pack`."""

from __future__ import annotations

from pathlib import Path

import click

from mscsa_deploy.cli.options import INPUT_FILE
from mscsa_deploy.cli.terminal import Terminal, common_options


@click.command("pack", epilog="Example: mscsa-deploy pack demo-out -o model.zip")
@click.argument("directory", type=INPUT_FILE, metavar="DIR")
@click.option("-o", "--output", "out", type=INPUT_FILE, required=True, metavar="FILE.zip", help="The file to write.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["bundle", "triton", "kserve", "ovms"]),
    default="bundle",
    show_default=True,
    help="The bundle itself, or a model repository for a serving engine.",
)
@click.option("--force", is_flag=True, help="Replace what stands there.")
@common_options
def command(terminal: Terminal, directory: Path, out: Path, *, kind: str, force: bool) -> None:
    """Put a bundle into one file, or into the layout of a serving engine.

    DIR is a directory that 'deploy' left. Every hash is checked first; equal bundles give equal files.
    """
    from mscsa_deploy.workflow.pack import run_pack

    packed = run_pack(directory, out, kind=kind, force=force)
    terminal.document(packed)
    terminal.say(f"wrote {packed.path} ({packed.size_bytes / 1e6:.1f} MB, {kind}), sha256 {packed.sha256}")
