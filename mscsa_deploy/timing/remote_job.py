"""The far end of a remote measurement: ``python -m mscsa_deploy.timing.remote_job DIRECTORY PYTHON``.

The directory holds ``job.json`` and the files it names, and PYTHON starts the workers; progress goes out as JSON
lines, the outcome is left in ``out/``. When standard input ends before the work does, the connection is gone: the
directory is removed and the process ends with its workers.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from mscsa_deploy.core.config import Config, read_json, to_json, to_plain
from mscsa_deploy.core.environment import read_environment
from mscsa_deploy.core.files import CACHE_VARIABLE
from mscsa_deploy.core.report import Row
from mscsa_deploy.errors import DeployError
from mscsa_deploy.timing.orchestrator import measure
from mscsa_deploy.timing.plan import Preset, RowSpec

JOB, OUT, OUTCOME, SAMPLES = "job.json", "out", "outcome.json", "samples"


class Job(Config, frozen=True, kw_only=True):
    """What to measure; paths are relative to the job's directory."""

    rows: tuple[RowSpec, ...]
    preset: Preset


class Tick(Config, frozen=True, kw_only=True):
    """One progress report."""

    done: int
    total: int
    label: str


class Outcome(Config, frozen=True, kw_only=True):
    """What came out there: rows, or the error that ended the job; and the far machine."""

    rows: tuple[Row, ...] = ()
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    fingerprint: str = ""
    error: str = ""
    hint: str = ""


def relocated(spec: RowSpec, change: dict[str, str]) -> RowSpec:
    """`spec` with each of its paths replaced by what `change` says."""
    core, encoded = spec.core, spec.encoded
    if core is not None:
        core = msgspec.structs.replace(core, path=change[core.path])
    if encoded is not None:
        encoded = msgspec.structs.replace(encoded, files=tuple(change[name] for name in encoded.files))
    return msgspec.structs.replace(spec, path=change[spec.path], core=core, encoded=encoded)


def paths_of(spec: RowSpec) -> tuple[str, ...]:
    """Every file that `spec` names."""
    inputs = (spec.core.path,) if spec.core is not None else ()
    pictures = spec.encoded.files if spec.encoded is not None else ()
    return (spec.path, *inputs, *pictures)


def main() -> None:
    """Do the job of the directory given on the command line."""
    folder = Path(sys.argv[1]).resolve()
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    threading.Thread(target=_watch, args=(folder,), daemon=True).start()
    out = folder / OUT
    out.mkdir()
    try:
        outcome = run(folder, out / SAMPLES, sys.argv[2])
    except DeployError as error:
        outcome = Outcome(error=error.message, hint=error.hint)
    (out / OUTCOME).write_bytes(to_json(outcome))


def run(folder: Path, samples: Path, python: str) -> Outcome:
    """The outcome of the job in `folder`.

    Args:
        folder: The job's directory.
        samples: Where the raw samples are left.
        python: The interpreter for workers, as the near side named it: under an emulator, `sys.executable` is
            a program that this machine cannot start by itself.
    """
    job = read_json(folder / JOB, Job)
    rows = [relocated(spec, {name: str(folder / name) for name in paths_of(spec)}) for spec in job.rows]
    environment = read_environment()
    made = measure(
        rows,
        job.preset,
        samples_dir=samples,
        fingerprint=environment.fingerprint(),
        progress=_tell,
        worker=(python, "-m", "mscsa_deploy.timing.worker"),
    )
    return Outcome(rows=made, environment=to_plain(environment), fingerprint=environment.fingerprint())


def _tell(done: int, total: int, label: str) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(Tick(done=done, total=total, label=label)) + b"\n")
    sys.stdout.buffer.flush()


def _watch(folder: Path) -> None:
    # Not through sys.stdin: its lock, held by a waiting read, would break the interpreter's own end.
    while os.read(0, 4096):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    # The workers end with their own standard input.
    os._exit(1)


if __name__ == "__main__":
    main()
