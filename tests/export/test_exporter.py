from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import CheckpointError, SpecError, StageError, UserError
from mscsa_deploy.export import exporter
from mscsa_deploy.export.numeric import distance, make_feeds, run_graph
from mscsa_deploy.export.reference import answerer
from mscsa_deploy.export.simplify import Simplified
from mscsa_deploy.graphs.check import read_model
from mscsa_deploy.graphs.metadata import ModelInfo, read_info

SIZE = (64, 96)
# float32 sums in another order; these networks are three layers deep.
CLOSE = 1e-5


def answers(result, count: int = 2):
    feeds = make_feeds(result.artifact.inputs, count, seed=11)
    return feeds, [row[0] for row in run_graph(result.artifact.path.read_bytes(), feeds)]


BOUNDARIES = {
    "logits": (TensorSpec("logits", "float32", (1, 5, 8, 12)), 8),
    "logits-full": (TensorSpec("logits", "float32", (1, 5, 64, 96)), 1),
    "classmap": (TensorSpec("classmap", "uint8", (1, 64, 96)), 1),
    "probs": (TensorSpec("probs", "float32", (1, 5, 64, 96)), 1),
}


@pytest.mark.parametrize("output", BOUNDARIES)
def test_segmentation_boundary_gives_what_pytorch_gives(export, segmenter, output) -> None:
    spec, stride = BOUNDARIES[output]
    result = export(segmenter, output=output)

    assert result.artifact.inputs == (TensorSpec("image", "float32", (1, 3, *SIZE)),)
    assert result.artifact.outputs == (spec,)
    feeds, found = answers(result)
    answer = answerer(segmenter, output, SIZE)
    for feed, value in zip(feeds, found, strict=True):
        assert distance(answer(feed["image"]), value) <= CLOSE
    info = read_info(result.artifact.path)
    assert info is not None
    assert (info.output, info.stride) == (output, stride)


@pytest.mark.parametrize("output", ["logits", "probs"])
def test_classification_boundary_gives_what_pytorch_gives(export, classifier, output) -> None:
    result = export(classifier, output=output)

    assert result.artifact.outputs == (TensorSpec(output, "float32", (1, 5)),)
    feeds, found = answers(result)
    assert distance(answerer(classifier, output, SIZE)(feeds[0]["image"]), found[0]) <= CLOSE
    info = read_info(result.artifact.path)
    assert info is not None
    assert info.stride == 0


def test_full_logits_upsample_with_half_pixel_centers(export, segmenter) -> None:
    feeds, found = answers(export(segmenter, output="logits-full"), 1)
    with torch.no_grad():
        logits = segmenter.eval()(torch.from_numpy(feeds[0]["image"]))
    wanted = nn.functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
    assert distance(wanted.numpy(), found[0]) <= CLOSE


@pytest.mark.parametrize(("classes", "dtype"), [(256, "uint8"), (257, "uint16")])
def test_class_map_is_as_wide_as_the_class_count_needs(export, segmenter, classes, dtype) -> None:
    segmenter.head = nn.Conv2d(6, classes, 8, stride=8)
    with torch.no_grad():
        segmenter.head.bias[-1] = 100
    result = export(segmenter, output="classmap")
    _, found = answers(result, 1)
    assert result.artifact.outputs[0].dtype == dtype
    assert found[0].dtype == dtype
    assert (found[0] == classes - 1).all()


def test_probabilities_sum_to_one(export, segmenter) -> None:
    _, found = answers(export(segmenter, output="probs"), 1)
    # The softmax of five float32 numbers.
    np.testing.assert_allclose(found[0].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("output", ["classmap", "logits-full"])
def test_classifier_has_no_map(export, classifier, output) -> None:
    with pytest.raises(UserError, match="a classifier"):
        export(classifier, output=output)


def test_same_model_gives_the_same_bytes(export, segmenter, tmp_path) -> None:
    first = export(segmenter, output="classmap", out=tmp_path / "a.onnx")
    again = export(segmenter, output="classmap", out=tmp_path / "elsewhere" / "b.onnx")
    assert first.artifact.sha256 == again.artifact.sha256


def test_file_holds_nothing_of_this_machine(export, segmenter) -> None:
    content = export(segmenter, output="classmap").artifact.path.read_bytes()
    private = [str(Path.home()), str(Path.cwd()), "site-packages", "/tmp/", ".py", "Traceback"]
    found = [text for text in [*private, platform.node()] if text and text.encode() in content]
    assert found == []


def test_file_says_what_it_is(export, segmenter) -> None:
    told = ModelInfo(
        name="other", task="cls", source_sha256="ab" * 32, labels=tuple("abcde"), preprocess={"height": 64}
    )
    info = read_info(export(segmenter, metadata=told).artifact.path)
    assert info is not None
    assert (info.name, info.task, info.precision) == ("tiny", "seg", "fp32")
    assert (info.source_sha256, info.labels, info.preprocess) == ("ab" * 32, tuple("abcde"), {"height": 64})
    assert info.tools["torch"] == torch.__version__
    assert "onnxsim" in info.tools


def test_names_do_not_depend_on_the_boundary(export, segmenter, tmp_path) -> None:
    plain = read_model(export(segmenter, optimize=False).artifact.path)
    mapped = read_model(export(segmenter, optimize=False, output="classmap", out=tmp_path / "m.onnx").artifact.path)
    names = [node.name for node in plain.graph]
    assert [node.name for node in mapped.graph][: len(names)] == names
    assert set(plain.graph.initializers) <= set(mapped.graph.initializers)
    assert not any(name.startswith("onnx::") for name in plain.graph.initializers)


def test_opset_is_the_one_asked_for(export, segmenter) -> None:
    assert read_model(export(segmenter).artifact.path).opset_imports == {"": 18}
    assert read_model(export(segmenter, opset=20).artifact.path).opset_imports == {"": 20}


@pytest.mark.parametrize("opset", [9, 99])
def test_opset_out_of_reach_is_refused(export, segmenter, opset) -> None:
    with pytest.raises(UserError, match=f"opset {opset} cannot be written"):
        export(segmenter, opset=opset)


def test_dynamic_batch_takes_any(export, segmenter) -> None:
    result = export(segmenter, batch="dynamic", output="logits-full")
    assert result.artifact.inputs[0].shape == (-1, 3, *SIZE)
    assert result.artifact.outputs[0].shape == (-1, 5, *SIZE)
    image = np.random.default_rng(0).standard_normal((3, 3, *SIZE)).astype(np.float32)
    ((found,),) = run_graph(result.artifact.path.read_bytes(), [{"image": image}])
    assert distance(answerer(segmenter, "logits-full", SIZE)(image), found) <= CLOSE


def test_fixed_batch_is_in_the_shape(export, segmenter) -> None:
    assert export(segmenter, batch=4).artifact.outputs[0].shape == (4, 5, 8, 12)


@pytest.mark.parametrize("batch", [0, -1])
def test_batch_below_one_is_refused(export, segmenter, batch) -> None:
    with pytest.raises(UserError, match="batch is"):
        export(segmenter, batch=batch)


def test_size_that_does_not_fit_names_the_nearest(export, segmenter) -> None:
    with pytest.raises(SpecError, match="the nearest size is 64x96"):
        export(segmenter, input_size=(65, 90))


def test_plain_export_runs_no_passes(export, segmenter) -> None:
    assert export(segmenter, optimize=False).passes == ()
    assert len(export(segmenter).passes) > 0


def test_model_keeps_its_mode(export, segmenter) -> None:
    segmenter.train()
    segmenter.body[1].eval()
    export(segmenter)
    assert segmenter.training
    assert not segmenter.body[1].training


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_broken_weights_are_named(export, segmenter, number, tmp_path) -> None:
    with torch.no_grad():
        segmenter.head.weight[0, 0, 0, 0] = number
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        export(segmenter)
    assert not (tmp_path / "model.onnx").exists()


def test_unsimplified_graph_is_kept_and_noted(export, segmenter, monkeypatch) -> None:
    note = "not simplified, because the test says so"
    monkeypatch.setattr(exporter, "simplify", lambda check: Simplified(check.model, simplified=False, note=note))
    result = export(segmenter)
    assert not result.simplified
    assert result.notes == (note,)
    feeds, found = answers(result, 1)
    assert distance(answerer(segmenter, "logits", SIZE)(feeds[0]["image"]), found[0]) <= CLOSE


def test_pass_that_moves_numbers_is_named_and_leaves_no_file(export, segmenter, monkeypatch, tmp_path) -> None:
    import onnx_ir as ir

    class HalveWeights(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            weight = next(iter(model.graph.initializers.values()))
            weight.const_value = ir.tensor(weight.const_value.numpy() / 2, name=weight.name)
            return ir.passes.PassResult(model, modified=True)

    monkeypatch.setattr(exporter, "optimizations", lambda: (HalveWeights(),))
    with pytest.raises(StageError, match="HalveWeights: it moved the outputs"):
        export(segmenter)
    assert list(tmp_path.iterdir()) == []


def test_file_is_valid_onnx(export, segmenter) -> None:
    onnx.checker.check_model(export(segmenter).artifact.path, full_check=True)


def test_progress_names_every_step(export, segmenter) -> None:
    told = []
    export(segmenter, progress=lambda *step: told.append(step))
    assert [label for *_, label in told] == ["trace", "simplify", "optimize", "write", "write"]
    assert told[-1][:2] == (4, 4)
