"""`run`: what a deployment left is enough to do it again, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
import tomli_w

from mscsa_deploy import __version__
from mscsa_deploy.core.report import Report
from mscsa_deploy.workflow.deployment import DeployRequest, Finished
from mscsa_deploy.workflow.run import DeployTable, read_resolved, version_warning

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

    monkeypatch.setattr("mscsa_deploy.workflow.deploy.run_deploy", deploy)
    return calls


def test_the_table_has_the_fields_of_a_deployment():
    fields = {field.name for field in dataclasses.fields(DeployRequest)} - {"command"}
    assert set(DeployTable.__struct_fields__) == fields
    defaults = {field.name: field.default for field in dataclasses.fields(DeployRequest)}
    for field in msgspec.structs.fields(DeployTable):
        if field.name != "model":
            assert field.default == defaults[field.name], field.name


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


def test_what_deploy_writes_can_be_read(tmp_path):
    settings = DeployRequest(model="m", checkpoint=Path("w.safetensors"), size=(64, 64), runtimes=("openvino",))
    plain = {key: value for key, value in dataclasses.asdict(settings).items() if value is not None}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}
    plain.pop("command")
    path = tmp_path / "resolved.toml"
    path.write_text(tomli_w.dumps({"command": "deploy", "deploy": plain, "made_with": {}}))
    assert read_resolved(path).request() == settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"deploy": {**DEPLOY, "modle": "x"}}, "unknown field `modle`", id="unknown key"),
        pytest.param({"deploy": {**DEPLOY, "threads": "two"}}, "$.deploy.threads", id="wrong type"),
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
