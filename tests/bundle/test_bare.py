"""What an app gets: the wheel with ONNX Runtime and nothing else; ``make test-bare`` makes the environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

IMPORT_SECONDS = 0.3
"""Of CPU, before the inference library: numpy, Pillow and msgspec take most of it. The best of three counts."""

PREDICT = """
import importlib.util, json, sys, time
begin = time.process_time()
from mscsa_deploy.runner import load
spent = time.process_time() - begin
with load(sys.argv[1]) as runner:
    answer = runner.predict(sys.argv[2])
found = [name for name in ("torch", "onnx", "openvino", "starlette") if importlib.util.find_spec(name)]
print(json.dumps({"seconds": spent, "found": found, "classes": answer.class_map[0, ::70].tolist()}))
"""


@pytest.fixture
def bare(missing):
    place = os.environ.get("MSCSA_DEPLOY_BARE")
    if not place:
        missing("bare", "MSCSA_DEPLOY_BARE names no environment with the wheel: see 'make test-bare'")
    # Neither the sources nor a cache of this machine.
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MSCSA_DEPLOY_BARE")}

    def run(command, *arguments, cwd):
        done = subprocess.run(
            [Path(place) / "bin" / command, *arguments],
            cwd=cwd,
            env={**variables, "MSCSA_DEPLOY_CACHE": str(cwd / "cache")},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_python_answers_without_the_libraries_that_made_the_bundle(bare, bundle, tmp_path):
    arguments = ("-c", PREDICT, bundle.root, bundle.file("golden/picture.png"))
    told = [json.loads(bare("python", *arguments, cwd=tmp_path)) for _ in range(3)]
    assert told[0]["found"] == []
    # a picture with a red, a green and a blue third
    assert told[0]["classes"] == [0, 1, 2]
    assert min(each["seconds"] for each in told) < IMPORT_SECONDS


def test_command_line_answers(bare, bundle, tmp_path):
    told = bare(
        "mscsa-deploy", "predict", "--json", bundle.root, bundle.file("golden/picture.png"), "-o", "out", cwd=tmp_path
    )
    assert json.loads(told)
    assert list((tmp_path / "out").glob("*.png"))
