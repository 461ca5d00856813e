"""Planted faults are found, in few steps, wherever they sit in the graph."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.parity.bisect import first_divergence
from mscsa_deploy.parity.opened import Side, write_with_outputs
from mscsa_deploy.parity.tolerance import Tolerance

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

TIGHT = Tolerance(max_abs_over_range=1e-3, why="the same float32 arithmetic; only the planted fault exceeds it")

GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[1, 4, 8, 8] image) => (float[1, 4, 8, 8] logits)
<float[1] one = {1.0}, float[1] two = {2.0}, float[1] low = {-1e9}>
{
    left1 = Mul(image, two)
    left2 = Sigmoid(left1)
    left3 = Add(left2, one)
    right1 = Sub(image, one)
    right2 = Tanh(right1)
    right3 = Mul(right2, two)
    joined = Add(left3, right3)
    deep1 = Sigmoid(joined)
    deep2 = Mul(deep1, two)
    logits = Sub(deep2, one)
}
"""


def run(path, feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, dict(feed)), strict=True)) for feed in feeds]


@pytest.fixture
def feeds():
    random = np.random.default_rng(0)
    return [{"image": random.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(2)]


@pytest.fixture
def reference(tmp_path):
    return save(GRAPH, tmp_path / "reference.onnx")


def save(text, path):
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.save(model, path)
    return path


def with_fault(reference, tensor, path, scale=1.05):
    """The network with the output of one node scaled, under its old name."""
    model = onnx.load(reference)
    place = next(place for place, node in enumerate(model.graph.node) if tensor in node.output)
    node = model.graph.node[place]
    node.output[0] = "before_fault"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([scale], np.float32), "fault"))
    model.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["before_fault", "fault"], [tensor]))
    onnx.save(model, path)
    return path


TENSORS = ["left1", "left2", "left3", "right1", "right2", "right3", "joined", "deep1", "deep2", "logits"]


@pytest.mark.parametrize("tensor", TENSORS)
def test_planted_fault_is_named(reference, feeds, tmp_path, tensor):
    candidate = with_fault(reference, tensor, tmp_path / "candidate.onnx")
    found = first_divergence(Side(reference, run), Side(candidate, run), feeds, TIGHT, work=tmp_path)
    assert (found.tensor, found.node) == (tensor, f"node_{tensor}")
    assert found.violations[0].metric == "max_abs_over_range"
    assert tensor not in found.agreeing


def test_fault_of_a_runtime_on_the_same_file_is_named(reference, feeds, tmp_path):
    def faulty(path, feeds):
        """A runtime whose Tanh is off."""
        return run(with_fault(path, "right2", tmp_path / "hidden.onnx", 1.2), feeds)

    # Only files that compute right2 get here: every step keeps the whole network and asks for other outputs.
    found = first_divergence(Side(reference, run), Side(reference, faulty), feeds, TIGHT, work=tmp_path)
    assert (found.tensor, found.op, found.agreeing) == ("right2", "Tanh", ("right1",))


def test_fault_that_a_later_tensor_masks_is_traced_back(feeds, tmp_path):
    body = """{
        first = Sigmoid(image)
        masked1 = Sub(first, first)
        masked2 = Relu(masked1)
        masked3 = Add(masked2, one)
        logits = Add(first, masked3)
    }"""
    masked = save(GRAPH[: GRAPH.index("{\n    left1")] + body, tmp_path / "masked.onnx")
    candidate = with_fault(masked, "first", tmp_path / "candidate.onnx", 1.05)
    # masked1 is asked first, agrees (zero on both sides) and clears the culprit by mistake
    found = first_divergence(Side(masked, run), Side(candidate, run), feeds, TIGHT, work=tmp_path)
    assert found.tensor == "first"


def test_equal_networks_have_no_divergence(reference, feeds, tmp_path):
    steps = []

    def progress(done, total, label):
        steps.append((done, total, label))

    sides = Side(reference, run), Side(reference, run)
    assert first_divergence(*sides, feeds, TIGHT, work=tmp_path, progress=progress) is None
    assert len(steps) == 1


def test_long_chain_takes_logarithmic_steps(feeds, tmp_path):
    lines = [f"    t{place + 1} = Add(t{place}, one)" for place in range(200)]
    text = GRAPH[: GRAPH.index("{\n    left1")] + "{\n    t0 = Sigmoid(image)\n" + "\n".join(lines)
    chain = save(text + "\n    logits = Identity(t200)\n}", tmp_path / "chain.onnx")
    candidate = with_fault(chain, "t137", tmp_path / "candidate.onnx", 1.5)
    found = first_divergence(Side(chain, run), Side(candidate, run), feeds, TIGHT, work=tmp_path)
    assert found.tensor == "t137"
    assert found.steps <= math.log2(200) + 3


def test_nan_on_one_side_is_a_divergence(reference, feeds, tmp_path):
    candidate = with_fault(reference, "deep2", tmp_path / "candidate.onnx", math.nan)
    found = first_divergence(Side(reference, run), Side(candidate, run), feeds, TIGHT, work=tmp_path)
    assert found.tensor == "deep2"
    assert found.violations[0].metric == "nonfinite"


def test_networks_without_common_tensors_refused(reference, feeds, tmp_path):
    other = save(GRAPH.replace("logits", "scores").replace("deep", "d"), tmp_path / "other.onnx")
    with pytest.raises(UserError, match="no computed tensor in common"):
        first_divergence(Side(reference, run), Side(other, run), feeds, TIGHT, work=tmp_path)


def test_no_feeds_refused(reference, tmp_path):
    with pytest.raises(UserError, match="at least one image"):
        first_divergence(Side(reference, run), Side(reference, run), [], TIGHT, work=tmp_path)


def test_write_with_outputs_asks_for_exactly_those(reference, feeds, tmp_path):
    write_with_outputs(reference, ["left2", "deep1"], tmp_path / "two.onnx")
    (answer, _) = run(tmp_path / "two.onnx", feeds)
    assert set(answer) == {"left2", "deep1"}
