"""Evaluation pictures are quoted and nothing else: whatever reads them to choose is caught."""

from __future__ import annotations

import pytest

from mscsa_deploy.imaging.scenes import SceneDataset
from mscsa_deploy.workflow import deploy

ONE = ("--runtime", "onnxruntime")


@pytest.mark.parametrize("stage", ["build_sources", "int8_variants"])
def test_a_stage_that_chooses_by_evaluation_pictures_is_caught(deploy_small, monkeypatch, capsys, stage):
    jobs = []
    opening = deploy._open_images
    monkeypatch.setattr(deploy, "_open_images", lambda job: jobs.append(job) or opening(job))

    def planted(*_, **__):
        return jobs[0].images["evaluation"].input(0)

    monkeypatch.setattr(deploy, stage, planted)
    code, out = deploy_small(*ONE)
    assert code == 1
    assert "evaluation picture 0 of 'evaluation' was read before the choices were made" in capsys.readouterr().err
    assert not out.exists()


def test_the_stages_after_scoring_choose_without_them_too(deploy_small, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "_tails", lambda job: job.images["evaluation"].input(0))
    assert deploy_small(*ONE)[0] == 1
    assert "before the choices were made" in capsys.readouterr().err


def test_only_scores_and_the_report_read_them(deploy_small, monkeypatch, tmp_path):
    # A cache of its own: scores that another test left would be taken without reading a picture.
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    reading = []
    load = SceneDataset.load
    stages = []
    monkeypatch.setattr(
        SceneDataset, "load", lambda self, index: reading.append((self.name, stages[-1])) or load(self, index)
    )
    begin = deploy.Stages.stage
    monkeypatch.setattr(deploy.Stages, "stage", lambda self, name: stages.append(name) or begin(self, name))
    monkeypatch.setattr(deploy, "finish", lambda *_, **__: stages.append("report"))
    monkeypatch.setattr(deploy, "measure_variants", lambda *_, **__: {})
    deploy_small(*ONE)
    assert {stage for name, stage in reading if name == "evaluation"} == {"accuracy"}
    assert ("validation", "verify") in reading
