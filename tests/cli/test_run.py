"""`run`: what a deployment left is enough to do it again, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tomli_w

from mscsa_deploy import __version__
from mscsa_deploy.core.report import Report
from mscsa_deploy.workflow.deployment import DeployRequest, Finished
from mscsa_deploy.workflow.resolved import read_resolved, resolved_toml, version_warning

DEPLOY = {
    "model": "topformer_t_mscsa",
    "task": "seg",
    "random_weights": 3,
    "size": [64, 96],
    "runtimes": ["onnxruntime", "openvino"],
    "preset": "smoke",
    "device": "generic_x86",
    "max_drop": 1.0,
}


@pytest.fixture
def resolved(tmp_path):
    """Write a resolved.toml; returns its path."""

    def write(*, command="deploy", deploy=DEPLOY, **made_with):
        path = tmp_path / "bundle" / "resolved.toml"
        path.parent.mkdir(exist_ok=True)
        made_with = {"mscsa_deploy": __version__, **made_with}
        path.write_text(tomli_w.dumps({"command": command, "deploy": deploy, "made_with": made_with}))
        return path

    return write


@pytest.fixture
def deployed(monkeypatch):
    """Stand in for the deployment; returns the list of (request, out, force) it was called with."""
    calls = []

    def deploy(request, out, *, force, progress):
        calls.append((request, out, force))
        return Finished(Report(), (), out, 0)

    monkeypatch.setattr("mscsa_deploy.workflow.run.run_deploy", deploy)
    return calls


def test_the_same_request_is_made_again(cli, resolved, deployed, tmp_path):
    outcome = cli("run", resolved(), "-o", tmp_path / "again", "--json", "-q")
    assert outcome.code == 0
    (request, out, force), *_ = deployed
    assert request.model == "topformer_t_mscsa"
    assert request.size == (64, 96)
    assert request.runtimes == ("onnxruntime", "openvino")
    assert request.random_weights == 3
    assert (out, force) == (tmp_path / "again", False)
    assert outcome.json["schema"] == 1


def test_a_directory_is_enough_and_the_result_goes_beside_it(cli, resolved, deployed):
    folder = resolved().parent
    assert cli("run", folder).code == 0
    assert deployed[0][1] == folder.resolve().with_name("bundle-again")


def test_what_deploy_writes_is_read_back(tmp_path):
    weights = Path("w.safetensors")
    asked = DeployRequest(model="m", checkpoint=weights, size=(64, 64), runtimes=("openvino",), command="deploy m")
    path = tmp_path / "resolved.toml"
    path.write_text(resolved_toml(asked, "generic_x86", {"onnx": "1.23"}))
    read = read_resolved(path)
    assert read.request == dataclasses.replace(asked, device="generic_x86", command="")
    assert read.made_with == {"mscsa_deploy": __version__, "onnx": "1.23"}


def test_only_what_was_asked_for_is_written(tmp_path):
    path = tmp_path / "resolved.toml"
    path.write_text(resolved_toml(DeployRequest(model="m", device="jetson_orin"), "jetson_orin", {}))
    request = read_resolved(path).request
    # Runtimes that nobody named may be missing where it is replayed.
    assert request.runtimes is None
    assert request == DeployRequest(model="m", device="jetson_orin")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"deploy": {**DEPLOY, "modle": "x"}}, "did you mean 'model'", id="unknown key"),
        pytest.param({"deploy": {**DEPLOY, "threads": "two"}}, "$.threads", id="wrong type"),
        pytest.param({"deploy": {"task": "seg"}}, "`model`", id="no model"),
        pytest.param({"command": "benchmark"}, "$.command", id="other command"),
    ],
)
def test_wrong_files_are_refused(cli, resolved, deployed, changes, words):
    outcome = cli("run", resolved(**changes))
    assert outcome.code == 2
    assert words in outcome.err
    assert deployed == []


def test_a_missing_file_is_told(cli, tmp_path):
    outcome = cli("run", tmp_path / "resolved.toml")
    assert outcome.code == 2
    assert "No such file" in outcome.err


def test_a_newer_version_warns_and_goes_on(cli, resolved, deployed):
    outcome = cli("run", resolved(mscsa_deploy="99.0.0"))
    assert outcome.code == 0
    assert "warning: this was made with mscsa-deploy 99.0.0" in outcome.err
    assert len(deployed) == 1


def test_the_same_or_an_older_version_does_not_warn(resolved):
    assert version_warning(read_resolved(resolved())) == ""
    assert version_warning(read_resolved(resolved(mscsa_deploy="0.0.1"))) == ""


def test_other_library_versions_are_named(cli, resolved, deployed):
    outcome = cli("run", resolved(numpy="0.1"))
    assert "numpy" in outcome.err
    assert "(was 0.1)" in outcome.err


def test_another_checkpoint_is_refused(cli, resolved, deployed, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"other weights")
    deploy = {"model": "topformer_t_mscsa", "task": "seg", "checkpoint": str(weights)}
    outcome = cli("run", resolved(deploy=deploy, checkpoint_sha256="0" * 64))
    assert outcome.code == 2
    assert "is not the one that was deployed" in outcome.err
    assert deployed == []
