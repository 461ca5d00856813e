"""Output directories appear whole, with the hash of every file; finished work is found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mscsa_deploy.cli import run
from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.cache import cached, located, relative
from mscsa_deploy.workflow.images import SHIPPED_SETS, open_images, shipped_set
from mscsa_deploy.workflow.output import write_output


def test_every_file_is_listed_with_its_hash(tmp_path):
    with write_output(tmp_path / "out") as work:
        (work / "deep").mkdir()
        (work / "deep" / "a.txt").write_text("a")
        (work / "b.txt").write_text("b")
    out = tmp_path / "out"
    listed = json.loads((out / "manifest.json").read_text())["files"]
    assert listed == {name: sha256_file(out / name) for name in ("b.txt", "deep/a.txt")}


def fail_inside(path, *, force=False):
    with write_output(path, force=force) as work:
        (work / "half.txt").write_text("half")
        raise UserError("stop")


def test_nothing_is_left_when_the_work_fails(tmp_path):
    with pytest.raises(UserError, match="stop"):
        fail_inside(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_stood_there_stays_when_the_work_fails(tmp_path):
    with write_output(tmp_path / "out") as work:
        (work / "old.txt").write_text("old")
    with pytest.raises(UserError, match="stop"):
        fail_inside(tmp_path / "out", force=True)
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["old.txt"]


def test_an_existing_place_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"), write_output(tmp_path / "out"):
        pytest.fail("the work began")


@dataclass(frozen=True)
class Made:
    artifact: Artifact
    note: str


@pytest.fixture
def making(tmp_path, monkeypatch):
    """Make something with the cache at its own place; returns (function of parts, list of calls)."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    calls = []

    def make(folder):
        calls.append(folder)
        path = folder / "model.bin"
        path.write_bytes(b"weights")
        made_by = MadeBy(stage="test")
        artifact = Artifact.of(path, kind="onnx", precision="fp32", inputs=(), outputs=(), made_by=made_by)
        return Made(relative(artifact, folder), "done")

    return (lambda **parts: cached("stage", parts, Made, make)), calls


def test_the_same_parts_are_made_once(making):
    make, calls = making
    folder, first = make(model="abc", size=[1, 2])
    again, second = make(size=[1, 2], model="abc")
    assert (again, second) == (folder, first)
    assert len(calls) == 1
    assert located(second.artifact, folder).path.read_bytes() == b"weights"
    assert second.artifact.path == Path("model.bin")


def test_other_parts_are_made_anew(making):
    make, calls = making
    first, _ = make(model="abc")
    second, _ = make(model="abd")
    assert first != second
    assert len(calls) == 2


def test_another_version_of_the_tool_makes_anew(making, monkeypatch):
    make, calls = making
    make(model="abc")
    monkeypatch.setattr("mscsa_deploy.workflow.cache.__version__", "99")
    make(model="abc")
    assert len(calls) == 2


def test_failed_work_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))

    def fail(folder):
        (folder / "half").write_text("half")
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        cached("stage", {"a": 1}, Made, fail)
    assert list((tmp_path / "cache" / "stage").iterdir()) == []


@pytest.mark.parametrize("name", SHIPPED_SETS)
def test_shipped_sets_open_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_set(name).is_file()
    assert len(open_images(name, "seg")) >= 100


def test_a_folder_of_ones_own_comes_before_a_shipped_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("validation").mkdir()
    with pytest.raises(UserError, match="'validation' holds no pictures"):
        open_images("validation", "seg")


def test_a_missing_place_names_the_shipped_sets():
    with pytest.raises(UserError, match="there are no images at 'nowhere'") as caught:
        open_images("nowhere", "seg")
    assert "calibration, validation, evaluation" in caught.value.hint


@pytest.mark.parametrize("command", ["export", "deploy", "benchmark", "quantize", "sensitivity"])
def test_an_existing_output_is_refused_before_any_work(command, tmp_path, capsys):
    # That there is no such model would be found out first.
    for_ = ["--for", "onnxruntime"] if command in ("quantize", "sensitivity") else []
    assert run([command, "no_such_model", *for_, "-o", str(tmp_path), "-q"]) == 2
    assert "already exists" in capsys.readouterr().err
