"""Measure on another machine over ssh: ship the artefacts and this package's light part, bring the rows home.

Needs OpenSSH here, and there a Python from 3.11 on and `tar`. What the far side lacks of the light part's
dependencies is installed into a temporary environment, which goes with everything else when the work is done.
Nothing passes through a local shell, and what the far shell sees is quoted.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

import mscsa_deploy
from mscsa_deploy.core.artifact import weights_beside
from mscsa_deploy.core.config import read_json, to_json
from mscsa_deploy.core.progress import Progress, silent
from mscsa_deploy.errors import StageError, UnsupportedError, UserError
from mscsa_deploy.timing.plan import Preset, RowSpec
from mscsa_deploy.timing.remote_job import JOB, OUT, OUTCOME, SAMPLES, Job, Outcome, Tick, paths_of, relocated
from mscsa_deploy.timing.ssh import CONNECTION_BROKE, Connection, Place, last_line

PYTHONS = ("python3", "python3.13", "python3.12", "python3.11")
LIGHT_PARTS = ("core", "imaging", "runtimes", "timing")
LIGHT_MODULES = {
    name: "pillow" if name == "PIL" else name for name in ("numpy", "msgspec", "PIL", "platformdirs", "psutil")
}
RUNTIME_MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}


def measure_on(
    place: str,
    rows: Sequence[RowSpec],
    preset: Preset,
    *,
    samples_dir: Path,
    progress: Progress = silent,
    ssh_options: Sequence[str] = (),
    python: str = "",
) -> Outcome:
    """Rows measured on `place`, with that machine's environment.

    Args:
        place: ``ssh://[user@]host[:port]``.
        rows: What to measure; the files they name are sent along.
        preset: For how long.
        samples_dir: Where the raw samples are put here.
        progress: Told each block.
        ssh_options: More arguments for ssh.
        python: The far interpreter; empty looks for one.

    Raises:
        UserError: `place` cannot be read, or a file is missing here.
        UnsupportedError: The far machine has no suitable Python, or a dependency cannot be installed there.
        StageError: The far job failed, or the connection did. Nothing is left running there.
    """
    link = Connection(Place.parse(place), ssh_options)
    progress(0, 1, f"connecting to {link.place}")
    interpreter = _find_python(link, python)
    folder = link.expect(["mktemp", "-d", "-t", "mscsa-deploy.XXXXXXXX"], what="connect").decode().strip()
    with _removed_at_the_end(link, folder):
        progress(0, 1, f"sending files to {link.place}")
        link.expect(["tar", "-xzf", "-", "-C", folder], send=pack(rows, preset), what="send files")
        interpreter = _provide(link, interpreter, folder, {spec.runtime for spec in rows}, progress)
        _watch_job(link, interpreter, folder, progress)
        data = link.expect(["tar", "-czf", "-", "-C", f"{folder}/{OUT}", "."], what="fetch results")
    outcome = _unpack(data, samples_dir)
    if outcome.error:
        raise StageError("measure", str(link.place), outcome.error, hint=outcome.hint)
    return outcome


def pack(rows: Sequence[RowSpec], preset: Preset) -> bytes:
    """A gzipped tar of the job, its files and the light part of this package.

    Raises:
        UserError: A file that a row names is missing.
    """
    buffer = io.BytesIO()
    names: dict[str, str] = {}
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3) as archive:
        for path in dict.fromkeys(name for spec in rows for name in paths_of(spec)):
            # Numbered folders: two files of one name stay apart, and weights stay beside their model.
            folder = f"files/{len(names):03d}"
            names[path] = f"{folder}/{Path(path).name}"
            model = Path(path)
            if not model.is_file():
                raise UserError(f"there is no file '{model}' to send")
            for file in (model, *weights_beside(model)):
                archive.add(file, f"{folder}/{file.relative_to(model.parent).as_posix()}")
        job = Job(rows=tuple(relocated(spec, names) for spec in rows), preset=preset)
        _add_bytes(archive, JOB, to_json(job))
        package = Path(mscsa_deploy.__file__).parent
        modules = [*package.glob("*.py"), *(p for part in LIGHT_PARTS for p in (package / part).glob("*.py"))]
        for module in modules:
            archive.add(module, f"package/mscsa_deploy/{module.relative_to(package)}")
    return buffer.getvalue()


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


@contextlib.contextmanager
def _removed_at_the_end(link: Connection, folder: str) -> Iterator[None]:
    try:
        yield
    finally:
        # If the connection is gone, the far end removes the folder by itself.
        with contextlib.suppress(StageError):
            link.run(["rm", "-rf", "--", folder], timeout=30)


def _find_python(link: Connection, asked: str) -> str:
    test = "import sys; sys.exit(sys.version_info < (3, 11))"
    for name in (asked,) if asked else PYTHONS:
        if link.run([name, "-c", test], timeout=60).returncode == 0:
            return name
    tried = asked or ", ".join(PYTHONS)
    raise UnsupportedError(
        f"{link.place} has no Python 3.11 or newer (tried {tried})", hint="install one there, or name it"
    )


def _provide(link: Connection, python: str, folder: str, runtimes: set[str], progress: Progress) -> str:
    """An interpreter there that has every dependency: the one found, or one of a temporary environment."""
    wanted = LIGHT_MODULES | {RUNTIME_MODULES[r]: RUNTIME_MODULES[r] for r in runtimes if r in RUNTIME_MODULES}
    test = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
    missing = link.expect([python, "-c", test, *wanted], what="look for packages").decode().split()
    if not missing:
        return python
    packages = [wanted[module] for module in missing]
    progress(0, 1, f"installing {', '.join(packages)} on {link.place}")
    venv = f"{folder}/venv"
    steps = (
        [python, "-m", "venv", "--system-site-packages", venv],
        [f"{venv}/bin/python", "-m", "pip", "install", "-q", *packages],
    )
    for step in steps:
        done = link.run(step, timeout=1800)
        if done.returncode:
            raise UnsupportedError(
                f"{link.place} lacks {', '.join(packages)}, and installing them failed: {last_line(done.stderr)}",
                hint=f"there: {python} -m pip install {' '.join(packages)}",
            )
    return f"{venv}/bin/python"


def _watch_job(link: Connection, python: str, folder: str, progress: Progress) -> None:
    words = ["env", f"PYTHONPATH={folder}/package", python, "-m", "mscsa_deploy.timing.remote_job", folder, python]
    noise: list[bytes] = []
    process = subprocess.Popen(  # noqa: S603 - no shell; the far side's words are quoted
        link.command(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    drain = threading.Thread(target=noise.extend, args=(process.stderr,), daemon=True)
    drain.start()
    try:
        for line in process.stdout:
            tick = msgspec.json.decode(line, type=Tick)
            progress(tick.done, tick.total, f"{tick.label} on {link.place.host}")
        code = process.wait()
        drain.join()
    finally:
        # Closing standard input ends the far job; it stays open until then.
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        if process.poll() is None:
            process.terminate()
            process.wait()
        process.stderr.close()
    said = last_line(b"".join(noise))
    if code == CONNECTION_BROKE:
        raise link.broken(f"the connection was lost while measuring: {said}")
    if code:
        raise StageError("measure", str(link.place), said or f"the far process ended with status {code}")


def _unpack(data: bytes, samples_dir: Path) -> Outcome:
    samples_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mscsa-remote-") as name:
        folder = Path(name)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            archive.extractall(folder, filter="data")
        outcome = read_json(folder / OUTCOME, Outcome)
        for file in sorted((folder / SAMPLES).glob("*.npz")):
            shutil.copyfile(file, samples_dir / file.name)
    return outcome
