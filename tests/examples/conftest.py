"""The bundle that every example runs, as `mscsa-deploy deploy` writes it, and what an example may need."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

GIVEN = "MSCSA_DEPLOY_BUNDLE"
DEPLOY = (
    *("deploy", "topformer_t_mscsa.seg", "--runtime", "onnxruntime,openvino", "--preset", "smoke", "--quiet"),
    # Its INT8 gives the same numbers with and without VNNI, so in a browser and on ARM too.
    *("--device", "generic_x86", "--calibration-images", "4", "--evaluation-images", "2"),
)


def deployed(place):
    """The bundle in `place`; of several test processes one makes it and the others wait."""
    bundle = place / "bundle"
    try:
        (place / "making").mkdir()
    except FileExistsError:
        while not (place / "made").exists():
            time.sleep(0.5)
        return bundle
    try:
        command = [Path(sys.executable).with_name("mscsa-deploy"), *DEPLOY, "--output-dir", str(bundle)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    finally:
        (place / "made").touch()
    assert done.returncode == 0, done.stderr
    return bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle directory: the one MSCSA_DEPLOY_BUNDLE names, or a small deployment."""
    if given := os.environ.get(GIVEN):
        return Path(given).resolve()
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "example-bundle"
    place.mkdir(exist_ok=True)
    found = deployed(place)
    if not (found / "manifest.json").is_file():
        pytest.fail("another test process could not make the bundle")
    return found


@pytest.fixture(scope="session")
def load_script():
    """Imports a script of an example by its path."""

    def load(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
