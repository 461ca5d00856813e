"""Rows of acting runtimes, and a place of their own for journals."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from mscsa_deploy.timing.plan import CoreInputs, RowSpec

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def acting(tmp_path: Path) -> Callable[..., RowSpec]:
    """``acting(name, ms=[...], fail=..., spec={...})`` is the row of an artefact that acts that part."""
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=np.arange(32, dtype=np.float32).reshape(16, 1, 2))

    def make(name: str, *, ms: tuple[float, ...] = (0.2,), spec: dict | None = None, **part) -> RowSpec:
        path = tmp_path / f"{name}.fake"
        path.write_text(json.dumps({"name": name, "ms": ms, **part}))
        fields = {
            "group": "model", "runtime": "acting", "precision": "fp32", "path": str(path), "artifact": name,
            "core": CoreInputs(path=str(inputs)),
        }  # fmt: skip
        return RowSpec(**(fields | (spec or {})))

    return make


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
