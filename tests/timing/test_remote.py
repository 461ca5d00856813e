"""Measuring over ssh, against a real sshd on loopback with keys of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from mscsa_deploy.errors import StageError, UnsupportedError, UserError
from mscsa_deploy.timing.plan import CoreInputs, Preset, RowSpec
from mscsa_deploy.timing.remote import measure_on, pack
from mscsa_deploy.timing.ssh import Connection, Place

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


def test_rows_come_home_and_nothing_stays_there(server, row: RowSpec, tmp_path: Path) -> None:
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


def test_a_lost_connection_is_an_error_and_leaves_no_process(server, row: RowSpec, tmp_path: Path) -> None:
    before = _leftovers()
    slow = Preset(name="slow", min_seconds=30, min_samples=8, row_cap_seconds=60, blocks=2, timeout_seconds=30)
    workers: list[psutil.Process] = []
    measuring = threading.Event()

    def cut() -> None:
        measuring.wait(timeout=60)
        # Well inside a block of fifteen seconds, in which the far job writes nothing.
        time.sleep(0.5)
        sessions = server.sessions()
        workers.extend(p for p in sessions if "mscsa_deploy.timing.worker" in " ".join(_words(p)))
        for process in sessions:
            if _words(process)[:1] and "sshd" in _words(process)[0]:
                process.kill()

    def watch(done: int, total: int, label: str) -> None:
        if label.startswith("it fake"):
            measuring.set()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(StageError, match="connection was lost while measuring"):
        measure_on(
            server.place, [row], slow, samples_dir=tmp_path / "samples", ssh_options=server.options,
            python=sys.executable, progress=watch,
        )  # fmt: skip
    cutter.join()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    deadline = time.monotonic() + 5
    while _leftovers() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _leftovers() == before


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_unreachable_machine_is_a_clear_error(server, row: RowSpec, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"ssh://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StageError, match=r"connect failed on 127\.0\.0\.1:.*refused"):
        measure_on(closed, [row], PRESET, samples_dir=tmp_path, ssh_options=server.options)


def test_missing_python_and_missing_file_say_so(server, row: RowSpec, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"has no Python 3\.11 or newer"):
        measure_on(server.place, [row], PRESET, samples_dir=tmp_path, ssh_options=server.options, python="python0")
    Path(row.path).unlink()
    with pytest.raises(UserError, match="there is no file"):
        pack([row], PRESET)


def test_far_words_are_quoted(server) -> None:
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


def test_weights_beside_a_model_go_with_it(row: RowSpec, tmp_path: Path) -> None:
    import io
    import tarfile

    path = tmp_path / "net.xml"
    path.write_text("<net/>")
    path.with_suffix(".bin").write_bytes(b"weights")
    spec = msgspec.structs.replace(row, path=str(path))
    with tarfile.open(fileobj=io.BytesIO(pack([spec], PRESET))) as archive:
        names = archive.getnames()
    assert {"files/000/net.xml", "files/000/net.bin"} <= set(names)
