"""`export` where the graph ends in a class map or begins with pixels: small, with random weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mscsa_deploy.cli import run
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import GateError, UnsupportedError, UserError
from mscsa_deploy.export.recipe import ExportRecipe
from mscsa_deploy.graphs.check import op_histogram, read_model, signature
from mscsa_deploy.graphs.metadata import read_info
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow import tails
from mscsa_deploy.workflow.endings import add_tail
from mscsa_deploy.workflow.export import ExportRequest, check_request
from mscsa_deploy.workflow.tails import OUTSIDE, TailCheck

MODEL = ["topformer_t_mscsa", "--task", "seg", "--random-weights", "3", "--num-classes", "13", "--size", "64x96"]
DATA_DEPENDENT = {"If", "TopK", "NonZero"}


def export(capsys, out, *arguments: str):
    code = run(["export", *MODEL, *arguments, "-o", str(out), "--json", "-q"])
    return code, json.loads(capsys.readouterr().out), out / "model.onnx"


def test_class_map_comes_from_a_fast_tail_that_changes_no_pixel(tmp_path, capsys):
    code, outcome, path = export(capsys, tmp_path / "out", "--output", "classmap")

    assert code == 0
    assert outcome["tail"]["form"] == read_info(path).tail == "cells"
    assert signature(read_model(path))[1] == (TensorSpec("classmap", "uint8", (1, 64, 96)),)
    assert {check["runtime"] for check in outcome["tail"]["checks"]} == {"onnxruntime", "openvino"}
    for check in outcome["tail"]["checks"]:
        assert check["pixels"] == 8 * 64 * 96
        assert check["different"] == check["ties"]
    assert {check["executed_precision"] for check in outcome["checks"]} == {"fp32"}


def test_pixels_go_in_and_a_static_class_map_comes_out_for_tensorrt(tmp_path, capsys):
    arguments = ("--output", "classmap", "--input", "uint8", "--for", "tensorrt")
    code, outcome, path = export(capsys, tmp_path / "out", *arguments)

    assert code == 0
    assert (outcome["input_type"], outcome["tail"]["form"]) == ("uint8", "plain")
    model = read_model(path)
    assert signature(model)[0] == (TensorSpec("image", "uint8", (1, 64, 96, 3)),)
    assert not DATA_DEPENDENT & set(op_histogram(model))
    assert {check["executed_precision"] for check in outcome["checks"]} == {"fp32"}
    for check in outcome["checks"]:
        # Random weights bring classes within rounding of each other; trained ones agree fully.
        assert check["parity"]["argmax_agreement"] >= 99.9


def test_unoptimized_class_map_is_the_plain_graph(tmp_path, capsys):
    code, outcome, path = export(capsys, tmp_path / "out", "--output", "classmap", "--no-optimize")

    assert code == 0
    assert outcome["tail"] is None
    assert read_info(path).tail == ""
    ops = op_histogram(read_model(path))
    assert ops["ArgMax"] == 1
    assert not DATA_DEPENDENT & set(ops)


@pytest.mark.parametrize(
    ("recipe", "asked", "message"),
    [
        ({}, {"tail": "cells"}, "without a class map"),
        ({"output": "classmap"}, {"tail": "auto"}, "measures on a runtime"),
        ({"output": "classmap", "optimize": False}, {"tail": "cells"}, "plain graph"),
        ({"optimize": False}, {"runtime": "openvino"}, "plain graph"),
    ],
)
def test_contradictions_are_refused(recipe, asked, message):
    with pytest.raises(UserError, match=message):
        check_request(
            ExportRequest(model="topformer_t", **asked), ExportRecipe(model="topformer_t", task="seg", **recipe)
        )


class Pictures:
    """Two pictures of noise."""

    name = "pictures"

    def __len__(self):
        return 2

    def load(self, index):
        return np.random.default_rng(index).integers(0, 256, (16, 24, 3), np.uint8), None


PREPARED = SimpleNamespace(preprocess=Preprocess(height=16, width=24), task="seg", classes=5)


@pytest.mark.parametrize(
    ("file", "asked", "form"),
    [
        pytest.param({}, {}, "cells", id="usual"),
        pytest.param({}, {"form": "pruned"}, "pruned", id="named"),
        pytest.param({}, {"runtime": "tensorrt"}, "plain", id="static runtime"),
        pytest.param({"batch": "N"}, {}, "strips_first", id="dynamic batch"),
        pytest.param({"batch": "2"}, {}, "cells", id="batch of two"),
        pytest.param({"opset": 13}, {}, "strips_first", id="old opset"),
    ],
)
def test_tail_fits_what_was_asked_for(write_segmenter, tmp_path, file, asked, form):
    tail, made = add_tail(PREPARED, write_segmenter(tmp_path, **file), Pictures(), tmp_path / "out.onnx", **asked)

    assert tail.form == read_info(made.path).tail == form
    assert all(check.passed and check.images == 2 for check in tail.checks)
    assert {check.runtime for check in tail.checks} == {"onnxruntime", "openvino"}


def test_measured_tail_is_the_fastest_one(write_segmenter, tmp_path, monkeypatch):
    latency = {"plain": 5.0, "pruned": 2.0}

    def measure(variants, plan, **_):
        assert plan.boundaries == ("end_to_end",)
        forms = [variant.artifact.path.stem.rpartition(".")[2] for variant in variants]
        rows = [SimpleNamespace(latency_ms=SimpleNamespace(p50=latency.get(form, 9.0))) for form in forms]
        return {(number, "end_to_end"): row for number, row in enumerate(rows)}

    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tails, "measure_variants", measure)

    tail, made = add_tail(
        PREPARED, write_segmenter(tmp_path), Pictures(), tmp_path / "out.onnx", runtime="openvino", form="auto"
    )

    assert tail.form == read_info(made.path).tail == "pruned"
    assert tail.why == "measured on openvino"
    assert tail.scores_ms["plain"] == 5.0
    assert OUTSIDE not in tail.scores_ms


def test_tail_that_cannot_be_had_is_refused(write_segmenter, tmp_path):
    logits, out = write_segmenter(tmp_path), tmp_path / "out.onnx"

    with pytest.raises(UserError, match="did you mean 'cells'"):
        add_tail(PREPARED, logits, Pictures(), out, form="cell")
    with pytest.raises(UnsupportedError, match="cannot be measured here"):
        add_tail(PREPARED, logits, Pictures(), out, form="auto", runtime="tensorrt")
    assert not out.exists()


@pytest.mark.parametrize(
    ("different", "ties", "passed"), [(0, 0, True), (9, 9, True), (9, 8, False), (200, 200, False)]
)
def test_only_near_ties_may_differ_and_few_of_them(different, ties, passed):
    check = TailCheck(runtime="fake", images=1, pixels=100_000, different=different, ties=ties)

    assert check.passed is passed
    if not passed:
        with pytest.raises(GateError, match="expected near-ties only"):
            check.require("cells")
