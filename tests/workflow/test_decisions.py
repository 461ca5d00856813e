"""What a deployment decided by itself can be read afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mscsa_deploy.calibration.recipe import read_recipe
from mscsa_deploy.errors import UserError
from mscsa_deploy.workflow.decisions import of_plan, of_tails
from mscsa_deploy.workflow.deployment import DeployRequest
from mscsa_deploy.workflow.plan import make_plan
from mscsa_deploy.workflow.tailed import Tailed
from mscsa_deploy.workflow.tails import TailDecision


def decided(**settings):
    plan = make_plan(DeployRequest(model="topformer_t_mscsa.seg", **settings))
    return {each.subject: each for each in of_plan(plan)}


def test_profile_runtimes_and_recipes_are_told_with_their_reason():
    found = decided(device="x86_avx512_vnni")
    assert found["device profile"].choice == "x86_avx512_vnni"
    assert found["device profile"].reason == "named with --device"
    assert found["runtimes"].reason == "the list of x86_avx512_vnni"
    recipe = found["calibration recipe for openvino"]
    assert recipe.choice == "int8_openvino"
    assert recipe.reason.endswith("it requires vnni")
    assert found["calibration recipe for openvino with a BF16 rest"].choice == "int8_openvino_topformer"


def test_a_recipe_in_a_file_replaces_those_of_its_runtime(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(read_recipe("int8_openvino").changed("mine", samples=8).toml())
    request = DeployRequest(model="topformer_t_mscsa.seg", device="x86_avx512_vnni", recipes=(str(mine),))
    plan = make_plan(request)
    assert plan.recipes["openvino"] == (str(mine),)
    assert plan.recipes["onnxruntime"] == ("int8_onnxruntime_x86",)
    told = {each.subject: each for each in of_plan(plan, request.recipes)}["calibration recipe for openvino"]
    assert (told.choice, told.reason) == ("mine", "named with --recipe; it requires vnni")
    with pytest.raises(UserError, match="is for openvino, which is not among"):
        make_plan(replace(request, runtimes=("onnxruntime",)))


def test_a_model_in_a_file_gets_the_recipes_of_its_architecture(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('model = "pvt_v2_b0_mscsa"\ntask = "cls"\n')
    plan = make_plan(DeployRequest(model=str(mine), device="x86_avx512_vnni"))
    assert plan.recipes["onnxruntime"] == ("int8_onnxruntime_x86_pvt",)
    assert plan.recipes["openvino"] == ("int8_openvino_transformer",)


def test_named_runtimes_are_told_apart_and_others_have_no_recipe():
    found = decided(device="generic_x86", runtimes=("onnxruntime",))
    assert found["runtimes"].choice == "onnxruntime"
    assert found["runtimes"].reason == "named with --runtime"
    assert "calibration recipe for openvino" not in found


def test_tails_are_told_with_everything_that_was_measured():
    scores = {"outside": 9.3, "cells": 7.5}
    (found,) = of_tails(Tailed((), {"openvino": TailDecision(scores)}))
    assert (found.subject, found.choice, found.scores_ms) == ("tail on openvino", "cells", scores)


def test_a_free_batch_is_refused_before_any_work(tmp_path):
    recipe = tmp_path / "free.toml"
    recipe.write_text('model = "topformer_t_mscsa"\ntask = "seg"\nnum_classes = 13\nbatch = "dynamic"\n')
    with pytest.raises(UserError, match="fixed batch"):
        make_plan(DeployRequest(model=str(recipe), random_weights=0))
