"""What goes wrong beyond the user's words: bugs, full disks, missing packages, readers who left, interruptions."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest


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
