"""The portable INT8 file on x86 without VNNI, under qemu: the numbers are those of this machine.

`test_arm.py` does the same on an emulated Cortex-A76.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ANSWERS = Path(__file__).parents[2] / "examples" / "arm" / "answers.py"
HASWELL = ("qemu-x86_64-static", "-cpu", "Haswell")
pytestmark = [pytest.mark.timeout(900)]


def answers(emulator, model, inputs, outputs):
    command = [*emulator, sys.executable, ANSWERS, "onnxruntime", model, inputs, outputs]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(outputs)


def test_haswell_answers_as_this_machine_does(bundle, missing, tmp_path):
    """Full-range weights give 99.8 % equal decisions here, 16-bit sums saturating; the portable recipe's give all."""
    if shutil.which(HASWELL[0]) is None:
        missing("arm", f"{HASWELL[0]} is not installed (apt-get install qemu-user-static)")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    models = [
        bundle / entry["path"]
        for entry in manifest["artifacts"]
        if entry["recipe"] == "int8_onnxruntime_portable" and entry["postprocess"]["output"] == "logits"
    ]
    if not models:
        pytest.skip("the bundle holds no INT8 file for processors without VNNI")
    inputs = bundle / manifest["golden"]["input"]
    ours = answers((), models[0], inputs, tmp_path / "ours.npy")
    theirs = answers(HASWELL, models[0], inputs, tmp_path / "theirs.npy")
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.999
