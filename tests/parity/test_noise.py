"""In a network where every tensor carries noise, the node that costs the output most is named."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.parity import noise
from mscsa_deploy.parity.noise import noisiest_node
from mscsa_deploy.parity.opened import Side

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

# `attention` doubles whatever noise its factors carry, and nothing of `side` is seen in the output.
GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits)
<float[1] small = {0.5}, float[1] little = {1e-4}>
{
    stem = Sigmoid(image)
    query = Mul(stem, small)
    attention = MatMul(query, query)
    bent = Tanh(attention)
    pieces, rest = Split <axis = 1, num_outputs = 2> (bent)
    joined = Concat <axis = 1> (pieces, rest)
    side = Sin(joined)
    unseen = Mul(side, little)
    logits = Add(joined, unseen)
}
"""
MADE = ("stem", "query", "attention", "bent", "pieces", "rest", "joined", "side", "unseen", "logits")


def run(path, feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, dict(feed)), strict=True)) for feed in feeds]


@dataclass
class Files:
    """A reference and what is held against it."""

    folder: object

    def __post_init__(self):
        self.reference = self.folder / "reference.onnx"
        model = onnx.parser.parse_model(GRAPH)
        for node in model.graph.node:
            node.name = f"node_{node.output[0]}"
        onnx.save(model, self.reference)
        random = np.random.default_rng(0)
        self.feeds = [{"picture": random.normal(size=(1, 8, 8, 8)).astype(np.float32)} for _ in range(2)]

    def noisy(self, **more):
        """The network with a rounding after each tensor; `more` are factors by which some are off."""
        model = onnx.load(self.reference)
        nodes = []
        for node in model.graph.node:
            nodes.append(node)
            for place, name in enumerate(node.output):
                node.output[place] = f"{name}_before"
                factor = onnx.numpy_helper.from_array(np.array([more.get(name, 1.003)], np.float32), f"{name}_factor")
                model.graph.initializer.append(factor)
                nodes.append(onnx.helper.make_node("Mul", [f"{name}_before", factor.name], [name]))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        path = self.folder / "candidate.onnx"
        onnx.save(model, path)
        return path

    def search(self, candidate, run_it=run):
        def named(path, feeds):
            """The picture goes to the first input, whatever it is called."""
            return run_it(path, [{"image": next(iter(feed.values())), **_rest(feed)} for feed in feeds])

        return noisiest_node(Side(self.reference, named), Side(candidate, named), self.feeds, work=self.folder)


def _rest(feed):
    return {name: value for name, value in feed.items() if name != "picture"}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.mark.parametrize("tensor", [name for name in MADE if name not in {"side", "unseen"}])
@pytest.mark.parametrize("portion", [noise.PORTION_BYTES, 5000], ids=["at once", "in portions"])
def test_a_planted_fault_is_named_among_noise(files, tensor, portion, monkeypatch):
    monkeypatch.setattr(noise, "PORTION_BYTES", portion)
    found = files.search(files.noisy(**{tensor: 1.1}))
    assert found.tensor == tensor
    assert found.node == ("node_pieces" if tensor == "rest" else f"node_{tensor}")
    # 1.1 instead of 1 is 20 dB, whatever went wrong before.
    assert found.own.sqnr_db == pytest.approx(20, abs=0.1)
    assert found.output_db < found.next_db
    assert tensor not in found.quieter


def test_a_candidate_with_an_fp16_rest_is_held_against_fp32(files):
    def halved(path, feeds):
        return [
            {name: value.astype(np.float16) if name != "logits" else value for name, value in answer.items()}
            for answer in run(path, feeds)
        ]

    candidate = files.noisy(bent=1.1)
    found = files.search(candidate, lambda path, feeds: (halved if path == candidate else run)(path, feeds))
    assert found.tensor == "bent"


def test_noise_that_the_output_does_not_show_is_not_blamed(files):
    found = files.search(files.noisy(unseen=3.0, query=1.02))
    assert found.tensor == "query"
    assert found.quieter == ("stem",)


def test_nan_is_blamed_on_the_first_node_that_has_it(files):
    found = files.search(files.noisy(bent=math.nan))
    assert (found.tensor, found.output_db) == ("bent", -math.inf)


def test_equal_networks_have_no_noisiest_node(files):
    assert files.search(files.reference) is None


def test_tensors_of_one_name_and_other_shapes_are_not_compared(files):
    model = onnx.load(files.noisy(stem=1.1))
    # What is called `side` here is one half of it.
    place = next(place for place, node in enumerate(model.graph.node) if "side" in node.output)
    model.graph.node[place].output[0] = "side_whole"
    half = onnx.helper.make_node("Split", ["side_whole"], ["side", "other"], axis=1, num_outputs=2)
    whole = onnx.helper.make_node("Concat", ["side", "other"], ["side_joined"], axis=1)
    for node in model.graph.node:
        node.input[:] = ["side_joined" if name == "side" else name for name in node.input]
    model.graph.node.insert(place + 1, half)
    model.graph.node.insert(place + 2, whole)
    path = files.folder / "other.onnx"
    onnx.save(model, path)
    assert files.search(path).tensor == "stem"


def test_the_output_says_what_giving_out_every_tensor_does(files):
    assert files.search(files.noisy(query=1.1)).opened.sqnr_db < 30


@pytest.mark.parametrize("portion", [noise.PORTION_BYTES, 5000], ids=["at once", "in portions"])
def test_a_fault_that_hides_where_every_tensor_is_given_out_is_told_from_noise(files, portion, monkeypatch):
    monkeypatch.setattr(noise, "PORTION_BYTES", portion)
    monkeypatch.setattr(noise, "SUSPECTS", 1)

    def fusing(path, feeds):
        """The candidate is wrong unless it gives out `stem`, which neither the suspect is nor its inputs are."""
        fused = any("stem_before" in node.output for node in onnx.load(path).graph.node)
        answers = run(path, feeds)
        for answer in answers if fused else ():
            answer["logits"] = answer["logits"] * (1 if "stem" in answer else 3)
        return answers

    assert files.search(files.noisy(joined=1.02), fusing).opened.sqnr_db > 20


def test_outputs_that_a_runtime_names_its_own_way_are_told_by_their_order(files):
    def renaming(path, feeds):
        return [{f"port_{place}": value for place, value in enumerate(each.values())} for each in run(path, feeds)]

    assert files.search(files.noisy(bent=1.1), renaming).tensor == "bent"


def test_a_side_that_gives_out_less_is_refused(files):
    def losing(path, feeds):
        return [dict(list(each.items())[:1]) for each in run(path, feeds)]

    with pytest.raises(StageError, match="tensors were asked for, 1 came out"):
        files.search(files.noisy(bent=1.1), losing)


def test_no_feeds_refused(files):
    files.feeds = []
    with pytest.raises(UserError, match="at least one image"):
        files.search(files.reference)
