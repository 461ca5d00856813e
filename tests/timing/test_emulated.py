"""The aarch64 path: the light part and ONNX Runtime's arm64 wheel under QEMU, reached over ssh.

Needs root-free but heavy things (an arm64 file tree, foreign wheels), hence `slow`. QEMU's times are no latency,
and the row must say so instead of giving any.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mscsa_deploy.timing.plan import CoreInputs, Preset, RowSpec
from mscsa_deploy.timing.remote import measure_on

PACKAGES = "python3-minimal,python3.11,libpython3.11-stdlib,libstdc++6,libgomp1,libc6,zlib1g"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
CPUINFO = """processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0b
CPU revision\t: 1

"""
PRESET = Preset(
    name="tiny", min_seconds=0.0, min_samples=2, row_cap_seconds=20.0, blocks=2, warmup_runs=1, warmup_seconds=0.0,
    rewarm_runs=0, remeasures=1, timeout_seconds=120.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def arm_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A command that is an arm64 Python with the light part's dependencies and ONNX Runtime."""
    qemu, bootstrap = shutil.which("qemu-aarch64-static"), shutil.which("mmdebstrap")
    if qemu is None or bootstrap is None:
        pytest.skip("needs qemu-aarch64-static and mmdebstrap (apt-get install qemu-user-static mmdebstrap)")
    folder = tmp_path_factory.mktemp("arm")
    root, site = folder / "root", folder / "site"
    subprocess.run(
        [bootstrap, "--mode=root", "--variant=extract", "--architectures=arm64", f"--include={PACKAGES}",
         "bookworm", root],
        check=True, capture_output=True,
    )  # fmt: skip
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    wheels = ("onnxruntime==1.31.1", "numpy==2.4.6", "msgspec", "platformdirs", "psutil", "pillow")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11",
         *platforms, "--target", site, *wheels],
        check=True, capture_output=True,
    )  # fmt: skip
    # ONNX Runtime reads it to find out about the cores, and crashes on an x86 one.
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
    command = folder / "python"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{site}" '
        f'exec {qemu} -cpu cortex-a76 -L {root} {root}/usr/bin/python3.11 "$@"\n'
    )
    command.chmod(0o755)
    return command


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rows_run_on_arm64_and_give_no_latency(server, arm_python: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }'
    )
    onnx.save(graph, tmp_path / "relu.onnx")
    np.savez(tmp_path / "in.npz", x=np.zeros((16, 1, 3, 8, 8), np.float32))
    row = RowSpec(
        group="m", runtime="onnxruntime", precision="fp32", path=str(tmp_path / "relu.onnx"),
        core=CoreInputs(path=str(tmp_path / "in.npz")),
    )  # fmt: skip
    outcome = measure_on(
        server.place, [row], PRESET, samples_dir=tmp_path / "samples", ssh_options=server.options,
        python=str(arm_python),
    )  # fmt: skip
    (got,) = outcome.rows
    assert outcome.environment["arch"] == "aarch64"
    assert (got.status, got.executed_precision, got.runtime_version) == ("ok", "fp32", "1.31.1")
    assert got.latency_ms is got.fps is got.load_ms is got.speedup_vs_fp32 is None
    assert got.reason.startswith("ran under qemu-aarch64")
    assert not list((tmp_path / "samples").iterdir())
