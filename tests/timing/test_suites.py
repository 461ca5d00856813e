"""Every suite of benchmarks/ can be read and names makers and runtimes that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("suite", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_suite_is_read(suite: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", suite, "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pytorch fp32: torch eager" in done.stdout
