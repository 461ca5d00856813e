"""`verify --bisect`: the first node that diverges."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.graphs.check import read_model, to_bytes
from mscsa_deploy.graphs.pixels import take_pixels

from .conftest import PREPROCESS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture
def bisect(cli):
    """Verifies one file against another on ONNX Runtime with `--bisect`, as a JSON document."""

    def search(reference, candidate, images, *more):
        return cli(
            "verify", reference, candidate, "--images", images, "--runtime", "onnxruntime", *more, "--bisect", "--json",
            "-q",
        )  # fmt: skip

    return search


def test_a_planted_fault_fails_and_bisect_names_its_node(cli, make, images, reference, tmp_path):
    wrong = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    outcome = cli("verify", reference, wrong, "--images", images, "--bisect", "--json", "-q")
    assert outcome.code == 5
    document = outcome.json
    assert document["error"]["kind"] == "gate"
    assert {gate["passed"] for gate in document["gates"]} == {False}
    assert len(document["divergences"]) == 2  # both runtimes
    for found in document["divergences"]:
        assert found["found"] is True
        assert (found["node"], found["op"], found["tensor"]) == ("node_scaled", "Mul", "scaled")
        assert found["agreeing"] == ["bent"]


def test_bisect_names_the_node_whose_value_int8_clips(bisect, make, bare, tmp_path):
    reference = make.network(tmp_path / "reference.onnx")
    # `bent` reaches 0.68; a step of 0.001 clips it at 0.255.
    wrong = make.network(tmp_path / "wrong.onnx", make.quantized, info=False, STEP=0.001)
    outcome = bisect(reference, wrong, bare, "--tolerance", "logits.sqnr_db=20")
    assert outcome.code == 5
    (found,) = outcome.json["divergences"]
    assert (found["node"], found["tensor"]) == ("node_bent", "bent")
    assert found["agreeing"] == ["pooled"]


def test_bisect_is_not_misled_by_a_relu_that_a_quantizer_replaced(bisect, make, bare, tmp_path):
    # In INT8 `bent` holds what comes before the Relu, and its quantizer, whose range begins at zero, clips it.
    half = ("float[1] one = {1.0}", "float[1] one = {1.0}, float[1] half = {0.4}")
    text = make.segmenter.replace(*half).replace("bent = Tanh(pooled)", "low = Sub(pooled, half)\n    bent = Relu(low)")
    int8 = make.quantized.replace(*half).replace("bent = Tanh(pooled)", "bent = Sub(pooled, half)")
    reference = make.network(tmp_path / "reference.onnx", text)
    # The fault is one node later.
    wrong = make.network(tmp_path / "wrong.onnx", int8.replace("gain = {2.0}", "gain = {3.0}"), info=False)
    outcome = bisect(reference, wrong, bare, "--tolerance", "logits.sqnr_db=60")
    (found,) = outcome.json["divergences"]
    assert (found["node"], found["agreeing"]) == ("node_scaled", ["bent"])
    assert (found["first"], found["limit"][:15]) == (False, "its noise alone")


def test_bisect_is_told_in_one_line(cli, make, images, reference, tmp_path):
    wrong = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    outcome = cli("verify", reference, wrong, "--images", images, "--bisect", "--runtime", "onnxruntime")
    words = " ".join(outcome.out.split())
    assert "diverges first at node 'node_scaled' (Mul), tensor 'scaled'" in words
    assert "--bisect" not in outcome.err


def test_without_bisect_the_error_says_that_it_exists(cli, make, images, reference, tmp_path):
    wrong = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    outcome = cli("verify", reference, wrong, "--images", images, "--runtime", "onnxruntime")
    assert outcome.code == 5
    assert "--bisect finds where it starts" in outcome.err


@pytest.mark.parametrize("taking", [("reference", "wrong"), ("wrong",)], ids=["both", "one"])
def test_bisect_gives_each_side_the_input_it_declares(bisect, make, images, tmp_path, taking):
    paths = {"reference": make.network(tmp_path / "reference.onnx")}
    paths["wrong"] = make.network(tmp_path / "wrong.onnx", GAIN=2.02)
    for name in taking:
        model = read_model(paths[name])
        take_pixels(model, PREPROCESS.mean, PREPROCESS.std)
        paths[name].write_bytes(to_bytes(model))
    outcome = bisect(paths["reference"], paths["wrong"], images)
    assert outcome.code == 5
    (found,) = outcome.json["divergences"]
    assert (found["node"], found["agreeing"]) == ("node_scaled", ["bent"])


def test_a_bisect_that_fails_leaves_the_table(bisect, make, images, reference, tmp_path):
    text = make.segmenter.replace("logits", "scores")
    make.network(tmp_path / "wrong.onnx", text, GAIN=2.02)
    outcome = bisect(reference, tmp_path / "wrong.onnx", images)
    assert outcome.code == 5
    (found,) = outcome.json["divergences"]
    assert found["found"] is False
    assert "no computed tensor in common" in found["reason"]
    assert [row["status"] for row in outcome.json["rows"]] == ["ok"]


def test_tensors_of_one_name_and_other_shapes_are_not_common(bisect, make, images, reference, tmp_path):
    # `scaled` is flat here.
    model = onnx.load(make.network(tmp_path / "wrong.onnx", GAIN=2.02))
    place = next(place for place, node in enumerate(model.graph.node) if "scaled" in node.output)
    model.graph.node[place].output[0] = "whole"
    model.graph.node[place + 1].input[0] = "again"
    model.graph.node.insert(place + 1, onnx.helper.make_node("Reshape", ["whole", "flat"], ["scaled"]))
    model.graph.node.insert(place + 2, onnx.helper.make_node("Reshape", ["scaled", "map"], ["again"]))
    for name, shape in (("flat", [1, -1]), ("map", [1, 3, 8, 8])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), name))
    onnx.save(model, tmp_path / "wrong.onnx")
    outcome = bisect(reference, tmp_path / "wrong.onnx", images)
    assert outcome.code == 5
    (found,) = outcome.json["divergences"]
    assert (found["node"], found["agreeing"]) == ("node_shifted", ["bent"])
