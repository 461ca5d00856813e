"""`benchmark`: what it leaves, wherever its temporary directory lies."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from mscsa_deploy.reporting.files import read_report

MEMORY = Path("/dev/shm")


def test_raw_samples_reach_the_report_from_another_disk(cli, make, tmp_path, monkeypatch):
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    monkeypatch.setattr(tempfile, "tempdir", str(MEMORY))
    bundle = make.bundle(tmp_path / "bundle", runtimes=("onnxruntime",))
    outcome = cli(
        "benchmark", bundle, "--preset", "smoke", "--boundary", "core", "--no-peak", "-q", "-o", tmp_path / "out"
    )
    assert outcome.code == 0, outcome.err
    (row,) = read_report(tmp_path / "out").rows
    assert (tmp_path / "out" / "samples" / row.samples_file).is_file()
