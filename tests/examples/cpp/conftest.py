"""The C++ programs, built once, and bundles whose manifests differ."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CPP = Path(__file__).parents[3] / "examples" / "cpp"
HEADERS = {"stb/stb_image.h": "libstb-dev", "nlohmann/json.hpp": "nlohmann-json3-dev", "jpeglib.h": "libjpeg-dev"}


def package_folder(name):
    return Path(importlib.util.find_spec(name).origin).parent


def ran(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture(scope="session")
def compiler(missing):
    """What the sources need to be compiled."""
    for name in ("cmake", "g++", "npm"):
        if shutil.which(name) is None:
            missing("cpp", f"{name} is not installed (apt-get install {name})")
    for header, package in HEADERS.items():
        if not Path("/usr/include", header).exists():
            missing("cpp", f"{header} is not installed (apt-get install {package})")
    return "g++"


@pytest.fixture(scope="session")
def built(compiler, missing, tmp_path_factory):
    """The folder with both programs; of several test processes one makes it and the others wait."""
    for package in ("openvino", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            missing("cpp", f"{package} is not installed (pip install {package})")
    done = subprocess.run([CPP / "setup"], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        missing("cpp", f"the headers could not be fetched: {done.stderr.strip()[-300:]}")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cpp-build"
    try:
        folder.mkdir()
    except FileExistsError:
        while not (folder / "over").exists():
            time.sleep(0.5)
        assert (folder / "segment-openvino").exists(), "another test process could not build the programs"
        return folder
    try:
        ran("cmake", "-S", CPP, "-B", folder, f"-DOpenVINO_DIR={package_folder('openvino') / 'cmake'}")
        ran("cmake", "--build", folder)
    finally:
        (folder / "over").touch()
    return folder


@pytest.fixture
def program(built):
    """Runs one of the programs."""

    def run(runtime, *arguments):
        [library] = (package_folder("onnxruntime") / "capi").glob("libonnxruntime.so.*")
        where = ("--library", library) if runtime == "onnxruntime" else ()
        command = [built / f"segment-{runtime}", *arguments, *where]
        plain = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=plain)

    return run


@pytest.fixture
def with_manifest(bundle):
    """Makes a bundle in `place` whose manifest differs at each path of `changes`; its files are the same."""

    def make(place, *changes):
        shutil.copytree(bundle, place, copy_function=os.symlink)
        manifest = json.loads((place / "manifest.json").read_text())
        for path, value in changes:
            *parents, last = path
            inner = manifest
            for key in parents:
                inner = inner[key]
            inner[last] = value
        (place / "manifest.json").unlink()
        (place / "manifest.json").write_text(json.dumps(manifest))
        return place

    return make
