"""The command group: its commands are imported when they are asked for or listed."""

from __future__ import annotations

from importlib import import_module

import click

from mscsa_deploy import __version__
from mscsa_deploy.errors import unknown_name

# In the order of the work; `--help` lists them so.
COMMANDS = {
    "models": "List the models: parameters, MACs, FLOPs, input sizes.",
    "doctor": "Tell what this machine is and which runtimes it can run.",
    "export": "Turn a checkpoint into a verified ONNX file.",
    "quantize": "Make INT8 for one runtime and device.",
    "sensitivity": "Rank the nodes that INT8 hurts, in error and in time.",
    "verify": "Compare outputs and accuracy of several artefacts.",
    "benchmark": "Measure honest latency.",
    "compare": "Hold a new report against an old one.",
    "deploy": "All stages: checkpoint to INT8, accuracy, latency, report, bundle.",
    "pack": "Put a bundle into one file, or into the layout of a serving engine.",
    "unpack": "Take a packed bundle apart, checking every hash.",
    "inspect": "Say what a bundle or ONNX file is.",
    "predict": "Answer for pictures; for segmentation, an overlay of each.",
    "serve": "Serve bundles over HTTP (Open Inference Protocol v2).",
    "run": "Replay exactly what a deployment did.",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, `cli.<name>_command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the work."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command called `cmd_name`, imported now.

        Raises:
            UserError: There is no such command; the nearest name is offered.
        """
        del ctx
        if cmd_name not in COMMANDS:
            raise unknown_name("command", cmd_name, COMMANDS)
        module = import_module(f"mscsa_deploy.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


# The \b keeps click from filling the lines of the paragraph that follows.
HELP = """From a trained vision checkpoint to a fast, verified INT8 model on the device where it will run.

\b
Start here:    mscsa-deploy deploy topformer_t_mscsa.seg -o out
What can run:  mscsa-deploy doctor
"""
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.command(cls=LazyGroup, help=HELP, context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", prog_name="mscsa-deploy", message="%(prog)s %(version)s")
def app() -> None:
    """The command line."""
