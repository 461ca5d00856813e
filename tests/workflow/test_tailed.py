"""Class-map files of a deployment: which are made, what runs where, and what they are not allowed to change."""

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.errors import GateError
from mscsa_deploy.graphs.check import read_model, to_bytes
from mscsa_deploy.imaging.preprocess import Preprocess, preprocess
from mscsa_deploy.runtimes.protocol import SessionSettings
from mscsa_deploy.workflow import tailed
from mscsa_deploy.workflow.tailed import tail_cached, with_tails
from mscsa_deploy.workflow.tails import OUTSIDE, TailCheck, TailDecision, check_tail
from mscsa_deploy.workflow.variants import Variant

SPEC = Preprocess(height=16, width=24)
PROFILE = SimpleNamespace(name="some_device")


class Images:
    """Pictures of noise, as the network takes them."""

    preprocess = SPEC

    def __len__(self):
        return 2

    def input(self, index):
        return preprocess(np.random.default_rng(index).integers(0, 256, (16, 24, 3), np.uint8), SPEC)


@pytest.fixture
def logits(write_segmenter, tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    return write_segmenter(tmp_path)


@pytest.fixture
def decide(monkeypatch):
    """Makes the measurement come out as the test says."""

    def says(form):
        monkeypatch.setattr(tailed, "decide_tail", lambda *_, **__: TailDecision({form: 1.0, "plain": 9.0}))

    return says


def variant(logits, *, precision="fp32", runtime="onnxruntime", place="model.onnx", role="optimised_fp32"):
    settings = SessionSettings(precision=precision)
    return Variant(runtime=runtime, precision=precision, artifact=logits, settings=settings, place=place, role=role)


def test_fastest_tail_is_shipped_beside_the_logits(logits, decide):
    decide("cells")
    plain = variant(logits, place="", role="fp32")

    made = with_tails([plain, variant(logits)], Images(), PROFILE)

    assert made.variants[0] == plain
    best = made.variants[1]
    assert set(best.places) == {"model.onnx", "onnxruntime/some_device/model.classmap.onnx"}
    assert best.at("core").artifact == logits
    assert best.at("core").place == "model.onnx"
    assert best.at("end_to_end").artifact.outputs[0].name == "classmap"
    assert best.at("end_to_end").place == best.answer_place
    assert best.details["tail"]["form"] == "cells"
    assert best.details["tail"]["different"] == best.details["tail"]["ties"]
    assert "onnxruntime: cells (cells 1.0 ms, plain 9.0 ms)" in str(made)


def test_nothing_is_added_where_the_light_runner_is_faster(logits, decide):
    decide(OUTSIDE)

    made = with_tails([variant(logits)], Images(), PROFILE)

    assert made.variants[0] == variant(logits)
    assert made.variants[0].at("end_to_end") == variant(logits)


def test_class_maps_alone_replace_the_logits(logits, decide):
    decide("pruned")

    best = with_tails([variant(logits)], Images(), PROFILE, only=True).variants[0]

    assert set(best.places) == {best.answer_place}
    assert best.at("core").place == best.at("end_to_end").place == best.answer_place
    assert best.at("core").artifact == logits


def test_tail_that_changes_pixels_is_left_out_and_the_variant_says_so(logits, decide, monkeypatch):
    decide("cells")
    wrong = TailCheck(runtime="onnxruntime", images=2, pixels=1000, different=3, ties=0)
    monkeypatch.setattr(tailed, "check_tail", lambda *_: wrong)

    made = with_tails([variant(logits)], Images(), PROFILE)

    assert made.variants[0].answering is None
    assert made.variants[0].notes[0] == "no class map inside the graph"
    assert "3 of 1000 pixels" in made.variants[0].notes[1]


def test_next_fastest_form_takes_the_place_of_one_that_changes_pixels(logits, monkeypatch):
    scores = {"strips_first": 3.0, OUTSIDE: 4.0, "cells": 1.0, "pruned": 2.0, "plain": 9.0}
    monkeypatch.setattr(tailed, "decide_tail", lambda *_, **__: TailDecision(scores))
    wrong = TailCheck(runtime="onnxruntime", images=2, pixels=1000, different=3, ties=0)
    right = TailCheck(runtime="onnxruntime", images=2, pixels=1000, different=3, ties=3)
    found = iter([wrong, wrong, right])
    monkeypatch.setattr(tailed, "check_tail", lambda *_: next(found))

    best = with_tails([variant(logits)], Images(), PROFILE).variants[0]

    assert best.details["tail"]["form"] == "strips_first"
    assert [note.split("tail ")[1].split(" ")[0] for note in best.notes] == ["'cells'", "'pruned'"]


def test_variant_fails_where_class_maps_alone_were_asked_for_and_none_is_right(logits, decide, monkeypatch):
    decide("cells")
    wrong = TailCheck(runtime="onnxruntime", images=2, pixels=1000, different=3, ties=0)
    monkeypatch.setattr(tailed, "check_tail", lambda *_: wrong)

    best = with_tails([variant(logits)], Images(), PROFILE, only=True).variants[0]

    assert best.status == "failed"
    assert "3 of 1000 pixels" in best.reason


@pytest.mark.parametrize(
    ("pixels", "different", "ties", "passed"),
    [
        (1000, 8, 8, True),
        (1000, 9, 9, False),
        (1_000_000, 100, 100, True),
        (1_000_000, 101, 101, False),
        (1000, 1, 0, False),
    ],
)
def test_few_near_ties_may_change_places(pixels, different, ties, passed):
    check = TailCheck(runtime="onnxruntime", images=1, pixels=pixels, different=different, ties=ties)
    assert check.passed is passed


def test_half_precision_may_round_a_few_more_pixels(logits, decide, monkeypatch):
    decide("cells")
    rounded = TailCheck(runtime="openvino", images=2, pixels=10_000, different=9, ties=0)
    monkeypatch.setattr(tailed, "check_tail", lambda *_: rounded)
    best = variant(logits, runtime="openvino")
    half = variant(logits, runtime="openvino", precision="bf16", role="")

    made = with_tails([best, half], Images(), PROFILE)

    assert [each.answering is not None for each in made.variants] == [False, True]


def test_openvino_file_gets_the_same_class_map(logits, tmp_path):
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "model.int8.xml"
    openvino.save_model(openvino.convert_model(logits.path), path, compress_to_fp16=False)
    ir_file = Artifact.of(
        path, kind="openvino", precision="fp32", inputs=logits.inputs, outputs=logits.outputs, made_by=MadeBy("nncf")
    )

    made = tail_cached(ir_file, "cells", (16, 24))

    assert made.path.with_suffix(".bin").is_file()
    check = check_tail(path, made.path, "openvino", SessionSettings(), [Images().input(0)])
    assert (check.pixels, check.different) == (16 * 24, check.ties)


def test_a_file_without_the_right_tail_is_told_apart(logits, write_segmenter, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    other = write_segmenter(folder)
    model = read_model(other.path)
    weight = next(iter(model.graph.initializers.values()))
    weight.const_value = ir.tensor(weight.const_value.numpy()[::-1].copy(), name=weight.name)
    other.path.write_bytes(to_bytes(model))
    reversed_ = Artifact.of(
        other.path, kind="onnx", precision="fp32", inputs=other.inputs, outputs=other.outputs, made_by=other.made_by
    )
    wrong = tail_cached(reversed_, "cells", (16, 24))

    check = check_tail(logits.path, wrong.path, "onnxruntime", SessionSettings(), [Images().input(0)])

    with pytest.raises(GateError, match="expected near-ties only"):
        check.require("cells")
