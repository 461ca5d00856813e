"""Simplification by onnxsim in a process of its own, believed only when the numbers agree.

onnxsim can crash, hang or change results; whatever it does, the caller gets a model that computes what the
traced one does, and a note when that is the traced one itself.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mscsa_deploy.errors import DeployError
from mscsa_deploy.graphs.check import parsed, read_model, require_standard, signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.export.numeric import SameNumbers

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 180.0
COMMAND = (sys.executable, "-m", "mscsa_deploy.export.simplify_process")


@dataclass(frozen=True, slots=True)
class Simplified:
    """The model to go on with.

    Args:
        model: Serialized; the simplified one, or the given one when that could not be trusted.
        simplified: Whether it is the simplified one.
        note: Why it is not, in one sentence; empty otherwise.
    """

    model: bytes
    simplified: bool
    note: str = ""


def simplify(
    check: SameNumbers,
    *,
    command: Sequence[str] = COMMAND,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Simplified:
    """The model of `check`, simplified if that works and changes no numbers.

    Args:
        check: Holds the model, and compares with it.
        command: What is run with an input and an output file; replaced in tests.
        timeout_seconds: How long it may take.
    """
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        before.write_bytes(check.model)
        problem = _run([*command, str(before), str(after)], timeout_seconds)
        if not problem and not after.is_file():
            problem = "it wrote no file"
        if not problem:
            problem = _difference(check, after)
        if not problem:
            return Simplified(after.read_bytes(), simplified=True)
    note = f"not simplified, the traced graph is kept: onnxsim failed, {problem}"
    logger.warning("%s", note)
    return Simplified(check.model, simplified=False, note=note)


def _run(command: Sequence[str], timeout_seconds: float) -> str:
    """What went wrong in running `command`, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_seconds, check=False)  # noqa: S603 - our own module, no shell
    except subprocess.TimeoutExpired:
        return f"it took longer than {timeout_seconds:g} s"
    except OSError as error:
        return f"it could not be started: {error.strerror}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"it ended with code {done.returncode}" + (f" ({lines[-1]})" if lines else "")


def _difference(check: SameNumbers, path: Path) -> str:
    """How the simplified file at `path` differs from what it was made from, or nothing."""
    try:
        after = read_model(path)
        if signature(after) != signature(parsed(check.model)):
            return "it changed the inputs or outputs"
        require_standard(after, subject="its result")
        worst, fine = check.worst(path.read_bytes())
    except DeployError as error:
        return str(error)
    return "" if fine else f"its outputs differ by {worst:.2e} of their range"
