"""`mscsa-deploy unpack`."""

from __future__ import annotations

from pathlib import Path

import click

from mscsa_deploy.cli.options import INPUT_FILE, output_options
from mscsa_deploy.cli.terminal import Terminal, common_options


@click.command("unpack", epilog="Example: mscsa-deploy unpack model.zip -o bundle")
@click.argument("path", type=INPUT_FILE, metavar="FILE.zip")
@output_options
@common_options
def command(terminal: Terminal, path: Path, out: Path, *, force: bool) -> None:
    """Take a packed bundle apart, checking every hash.

    The directory appears whole and verified, or not at all.
    """
    from mscsa_deploy.workflow.pack import run_unpack

    unpacked = run_unpack(path, out, force=force)
    terminal.document(unpacked)
    terminal.say(f"{unpacked.model} ({unpacked.task}): {unpacked.files} files with the hashes of the manifest in {out}")
