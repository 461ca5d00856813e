"""The command group itself: quick, light, and honest about mistakes and bugs."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

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


@pytest.mark.parametrize("number", ["nan", "inf", "-0.5", "half"])
@pytest.mark.parametrize(
    "arguments",
    [
        "quantize net.onnx --for openvino -o out --max-drop",
        "deploy topformer_t_mscsa.seg -o out --max-drop",
        "verify a.onnx b.onnx --images pictures --max-drop",
        "verify a.onnx b.onnx --images pictures --tolerance logits.cosine=",
        "benchmark net.onnx --rate",
        "serve bundle --deadline",
        "serve bundle --batch-delay",
    ],
)
def test_what_is_no_quantity_is_refused_before_anything_is_opened(cli, arguments, number):
    *before, last = arguments.split()
    values = [f"{last}{number}"] if last.endswith("=") else [last, number]
    outcome = cli(*before, *values, "--json")
    assert outcome.code == 2
    assert number in outcome.json["error"]["message"]


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


def test_unknown_command_offers_the_nearest(cli):
    outcome = cli("modles")
    assert outcome.code == 2
    assert outcome.err == "error: unknown command 'modles'; did you mean 'models'?\n"
    assert outcome.out == ""


def test_unknown_option_says_where_help_is(cli):
    outcome = cli("models", "--jsn")
    assert outcome.code == 2
    assert "--jsn" in outcome.err
    assert "'mscsa-deploy models --help'" in outcome.err


@pytest.mark.parametrize(
    "command",
    ["predict bundle picture.png", "verify bundle", "benchmark bundle", "deploy topformer_t_mscsa.seg", "serve bundle"],
)
def test_so_many_threads_as_no_machine_has_are_refused(cli, command):
    outcome = cli(*command.split(), "--threads", "99999")
    assert outcome.code == 2
    assert "99999 is not in the range 1<=x<=1024" in outcome.err


def test_missing_argument_is_the_users_mistake(cli):
    outcome = cli("predict")
    assert outcome.code == 2
    assert "BUNDLE" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--runtime", ""], "it names nothing", id="empty list"),
        pytest.param(["--runtime", "onnxrt"], "unknown runtime 'onnxrt'; did you mean 'onnxruntime'?", id="runtime"),
        pytest.param(["--device", "toaster"], "unknown device profile 'toaster'; known: arm64", id="profile"),
    ],
)
def test_wrong_names_are_told_before_any_work(cli, options, words, tmp_path):
    outcome = cli("deploy", "topformer_t_mscsa.seg", *options, "-o", tmp_path / "out", "-q")
    assert outcome.code == 2
    assert words in outcome.err


def test_errors_are_one_document_with_json(cli):
    outcome = cli("inspect", "nowhere", "--json")
    assert outcome.code == 2
    assert set(outcome.json["error"]) == {"kind", "message", "hint"}
    assert outcome.json["error"]["kind"] == "user"
    assert outcome.err.startswith("error: there is nothing at 'nowhere'; ")


def test_usage_errors_are_one_document_with_json(cli):
    assert cli("models", "--nope", "--json").json["error"]["kind"] == "user"


@pytest.fixture
def broken_doctor(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("mscsa_deploy.workflow.doctor.diagnose", fail)


@pytest.mark.usefixtures("broken_doctor")
def test_a_bug_keeps_its_traceback_in_a_file(cli):
    outcome = cli("doctor")
    assert outcome.code == 1
    assert "unforeseen ZeroDivisionError: planted" in outcome.err
    assert "Traceback" not in outcome.err
    log = Path(outcome.err.strip().rsplit(" ", 1)[1])
    try:
        text = log.read_text(encoding="utf-8")
    finally:
        log.unlink()
    assert "Traceback" in text
    assert "ZeroDivisionError: planted" in text


@pytest.mark.usefixtures("broken_doctor")
def test_a_bug_is_one_document_with_json(cli):
    outcome = cli("doctor", "--json")
    assert outcome.json["error"]["kind"] == "bug"
    Path(outcome.json["error"]["hint"].rsplit(" ", 1)[1]).unlink()


def test_a_full_disk_is_no_bug(cli, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/inputs.npz")

    monkeypatch.setattr("mscsa_deploy.workflow.doctor.diagnose", fail)
    outcome = cli("doctor", "--json")
    assert outcome.code == 4
    assert outcome.json["error"]["kind"] == "stage"
    assert "/cache/inputs.npz" in outcome.json["error"]["message"]
    assert "MSCSA_DEPLOY_CACHE" in outcome.json["error"]["hint"]


def test_what_may_not_be_opened_is_no_bug(cli, monkeypatch):
    def fail(*args):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/weights.pth")

    monkeypatch.setattr("mscsa_deploy.workflow.doctor.diagnose", fail)
    outcome = cli("doctor")
    assert outcome.code == 2
    assert outcome.err.startswith("error: cannot open '/root/weights.pth': Permission denied; ")


def test_a_missing_package_is_no_bug(cli, monkeypatch):
    def fail(*args):
        import_module("no_such_library.part")

    monkeypatch.setattr("mscsa_deploy.workflow.doctor.diagnose", fail)
    outcome = cli("doctor")
    assert outcome.code == 3
    assert "'no_such_library', which is not installed; pip install 'mscsa-deploy[all]'" in outcome.err


def test_a_name_too_long_for_the_system_is_no_bug(cli):
    outcome = cli("inspect", "x" * 5000)
    assert outcome.code == 2
    assert "File name too long" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["inspect", "nowhere", "--json"], 2, id="document of an error"),
        pytest.param(["inspect", "bundle"], 0, id="table"),
    ],
)
def test_a_reader_who_went_away_spoils_no_exit_code(make, tmp_path, arguments, code):
    make.bundle(tmp_path / "bundle")
    # As `| head -1` does, only surely: nobody reads from the beginning.
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "mscsa_deploy", *arguments],
            cwd=tmp_path,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == code
    assert "BrokenPipe" not in done.stderr


def test_a_letter_that_the_encoding_lacks_spoils_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mscsa_deploy", "inspect", b"caf\xe9\xff", "--json"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert "caf" in json.loads(done.stdout)["error"]["message"]
    assert b"Traceback" not in done.stderr


WAITING = """
import signal, sys, time
from pathlib import Path
import mscsa_deploy.workflow.doctor as doctor
from mscsa_deploy.cli import main
from mscsa_deploy.core.files import output_directory

# A shell that started the tests in its background has made everything below deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait(progress):
    with output_directory(place):
        print("begun", flush=True)
        time.sleep(60)

place = Path(sys.argv.pop())
doctor.diagnose = wait
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_command_that_is_stopped_leaves_nothing_half_done(tmp_path, number, code, word):
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "doctor", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert said.strip() == f"{word}; finished work is kept and a rerun goes on from it"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, click.Abort])
def test_interruption_is_told_in_one_line(cli, monkeypatch, kind):
    def stop(*args):
        raise kind

    monkeypatch.setattr("mscsa_deploy.workflow.doctor.diagnose", stop)
    outcome = cli("doctor")
    assert outcome.code == 130
    # click ends the line that shows ^C before.
    assert outcome.err.strip() == "interrupted; finished work is kept and a rerun goes on from it"
