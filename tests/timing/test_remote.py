"""Measuring over ssh, against a real sshd on loopback with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from mscsa_deploy.errors import StageError, UnsupportedError, UserError
from mscsa_deploy.timing.plan import CoreInputs, Preset, RowSpec
from mscsa_deploy.timing.remote import Connection, Place, measure_on, pack

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
PRESET = Preset(
    name="tiny", min_seconds=0.05, min_samples=8, row_cap_seconds=2.0, blocks=2, warmup_runs=1, warmup_seconds=0.0,
    rewarm_runs=0, remeasures=0, timeout_seconds=30.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ssh://pi@raspberry:2222", Place("raspberry", "pi", 2222)),
        ("ssh://host", Place("host")),
        ("ssh://me@10.0.0.7/", Place("10.0.0.7", "me")),
        ("ssh://[fe80::1]:22", Place("fe80::1", "", 22)),
    ],
)
def test_places_are_read(text: str, place: Place) -> None:
    assert Place.parse(text) == place


@pytest.mark.parametrize(
    "text",
    ["host", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://-l@h", "ssh://h:0", "ssh://h:99999", "ssh://h;ls"],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="names no machine"):
        Place.parse(text)


class Server:
    """An sshd that runs in the foreground, and the client configuration for it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.place = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        for key in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        shutil.copy(folder / "client.pub", folder / "authorized")
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        self.options = (
            "-F", "none", "-i", str(folder / "client"), "-o", "IdentitiesOnly=yes",
            "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known",
        )  # fmt: skip
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", folder / "sshd_config"], stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((folder / "log").read_text())

    def sessions(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        for process in self.sessions():
            process.kill()
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no sshd here (apt-get install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Server(tmp_path_factory.mktemp("sshd"), port)
    yield made
    made.close()


@pytest.fixture
def row(tmp_path: Path) -> RowSpec:
    """A row of the fake runtime, which answers in 2 ms."""
    artefact = tmp_path / "model.fake"
    artefact.write_text(
        '{"inputs": [{"name": "x", "shape": [1, 2]}], "outputs": [{"name": "y", "shape": [1, 2]}], "latency_ms": 2}'
    )
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.zeros((16, 1, 2), np.float32))
    return RowSpec(
        group="m", runtime="fake", precision="fp32", path=str(artefact), core=CoreInputs(path=str(inputs)),
        artifact="it",
    )  # fmt: skip


def _leftovers() -> list[Path]:
    return list(Path("/tmp").glob("mscsa-deploy.*"))


def test_rows_come_home_and_nothing_stays_there(server: Server, row: RowSpec, tmp_path: Path) -> None:
    before = _leftovers()
    labels: list[str] = []
    broken = RowSpec(group="m", runtime="tensorrt", precision="fp16", path=row.path, core=row.core)
    outcome = measure_on(
        server.place, [row, broken], PRESET, samples_dir=tmp_path / "samples", ssh_options=server.options,
        python=sys.executable, progress=lambda *tick: labels.append(tick[2]),
    )  # fmt: skip
    good, bad = outcome.rows
    assert good.status == "ok"
    # The fake waits by sleeping and spinning: never less than it says.
    assert good.latency_ms.min >= 2.0
    assert bad.status in ("failed", "not run")
    assert bad.reason
    assert outcome.environment["arch"]
    assert len(outcome.fingerprint) == 16
    with np.load(tmp_path / "samples" / good.samples_file) as samples:
        assert len(samples["samples_ns"]) == good.latency_ms.samples
    assert any(label.endswith("on 127.0.0.1") for label in labels)
    assert _leftovers() == before


def test_a_lost_connection_is_an_error_and_leaves_no_process(server: Server, row: RowSpec, tmp_path: Path) -> None:
    before = _leftovers()
    slow = Preset(name="slow", min_seconds=30, min_samples=8, row_cap_seconds=60, blocks=2, timeout_seconds=30)
    workers: list[psutil.Process] = []

    def cut() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = [p for p in server.sessions() if "mscsa_deploy.timing.worker" in " ".join(_words(p))]
            if found:
                workers.extend(found)
                time.sleep(0.5)
                break
            time.sleep(0.05)
        for process in server.sessions():
            if _words(process)[:1] and "sshd" in _words(process)[0]:
                process.kill()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(StageError, match="connection was lost while measuring"):
        measure_on(
            server.place, [row], slow, samples_dir=tmp_path / "samples", ssh_options=server.options,
            python=sys.executable,
        )  # fmt: skip
    cutter.join()
    assert workers
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, gone
    deadline = time.monotonic() + 5
    while _leftovers() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _leftovers() == before


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_unreachable_machine_is_a_clear_error(server: Server, row: RowSpec, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"ssh://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StageError, match=r"connect failed on 127\.0\.0\.1:.*refused"):
        measure_on(closed, [row], PRESET, samples_dir=tmp_path, ssh_options=server.options)


def test_missing_python_and_missing_file_say_so(server: Server, row: RowSpec, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"has no Python 3\.11 or newer"):
        measure_on(server.place, [row], PRESET, samples_dir=tmp_path, ssh_options=server.options, python="python0")
    Path(row.path).unlink()
    with pytest.raises(UserError, match="there is no file"):
        pack([row], PRESET)


def test_far_words_are_quoted(server: Server) -> None:
    link = Connection(Place.parse(server.place), server.options)
    odd = "a b; echo $HOME `id` 'x' \"y\""
    assert link.expect(["printf", "%s", odd], what="print").decode() == odd


def test_the_package_runs_without_what_it_does_not_send(row: RowSpec, tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(pack([row], PRESET))) as archive:
        archive.extractall(tmp_path / "far", filter="data")
    code = (
        "import sys; import mscsa_deploy.timing.remote_job, mscsa_deploy.timing.worker;"
        "print([m for m in ('torch', 'onnx', 'click', 'rich', 'jinja2', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(tmp_path / "far" / "package"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
