"""The command group itself: quick, light, with help that is right."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys

import click
import pytest

from mscsa_deploy import __version__
from mscsa_deploy.cli.app import COMMANDS, app

HEAVY = (
    "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "onnxsim", "openvino", "nncf", "tensorrt",
    "tensorrt_rtx", "safetensors", "transformers", "starlette", "uvicorn", "ray",
)  # fmt: skip
HELP_SECONDS = 0.3


def cpu_seconds(*arguments):
    """CPU time of a fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "mscsa_deploy", *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick():
    # The fastest of three: a busy machine makes a process dearer, never cheaper.
    assert min(cpu_seconds("--help") for _ in range(3)) < HELP_SECONDS


def test_importing_every_command_and_workflow_loads_no_heavy_library():
    program = (
        "import importlib, json, pkgutil, sys\n"
        "import mscsa_deploy.cli, mscsa_deploy.workflow\n"
        "for package in (mscsa_deploy.cli, mscsa_deploy.workflow):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(HEAVY)], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_json_and_a_first_line(cli, name):
    outcome = cli(name, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out
    assert "--quiet" in outcome.out
    lines = [line.strip() for line in outcome.out.splitlines() if line.strip()]
    assert lines[0].startswith(f"Usage: mscsa-deploy {name}")
    assert lines[1].endswith((".", ":", ",")) or lines[1][0].isupper()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("models", ""),
        ("doctor", ""),
        (
            "export",
            "task checkpoint key-map num-classes size batch output precision opset no-optimize random-weights -o force",
        ),
        ("quantize", "for device calibration validation recipe max-drop resume -o force"),
        ("sensitivity", "for calibration validation -o force"),
        ("verify", "images runtime tolerance bisect task preprocess"),
        ("benchmark", "runtime precision threads device preset rate on explain resume task preprocess -o force"),
        ("compare", "max-regress force"),
        ("deploy", "checkpoint calibration validation evaluation runtime dry-run require-int8 resume -o force"),
        ("pack", "-o format force"),
        ("unpack", "-o force"),
        ("inspect", ""),
        ("predict", "-o force"),
        ("serve", "host port engine"),
        ("run", "-o force resume"),
    ],
)
def test_options_that_scripts_rely_on_stay(name, options):
    command = app.get_command(click.Context(app), name)
    known = {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)}
    everywhere = {"--json", "-q", "-v"}
    assert everywhere | {option if option[0] == "-" else f"--{option}" for option in options.split()} <= known


def test_help_lists_every_command_in_the_order_of_the_work(cli):
    outcome = cli("--help")
    places = [outcome.out.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_of_a_command_is_one(name):
    command = app.get_command(click.Context(app), name)
    if any(isinstance(parameter, click.Argument) for parameter in command.params):
        tool, first, *rest = shlex.split(command.epilog.removeprefix("Example: "))
        assert (tool, first) == ("mscsa-deploy", name)
        command.make_context(name, rest)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_has_no_stray_marks_and_fits_a_terminal(cli, name):
    text = cli(*filter(None, [name]), "--help").out
    assert "\\b" not in text
    assert "\b" not in text
    assert "{" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_says_where_to_start(cli):
    assert "  Start here:    mscsa-deploy deploy " in cli("--help").out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(cli, flag):
    outcome = cli(flag)
    assert (outcome.code, outcome.out) == (0, f"mscsa-deploy {__version__}\n")


def test_short_help(cli):
    assert cli("-h").code == 0
    assert cli("doctor", "-h").code in (0, 2)
