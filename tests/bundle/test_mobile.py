"""Mobile formats: the .ort file answers as its ONNX file does; the checker's text becomes records."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.bundle.mobile import check_mobile, convert_to_ort, parse_usability
from mscsa_deploy.errors import StageError, UnsupportedError

TEXT = """INFO:  Checking model.onnx for usability with ORT Mobile.
INFO:  Checking NNAPI
INFO:  11 partitions with a total of 240/259 nodes can be handled by the NNAPI EP.
INFO:  \tPartition sizes: [80, 4, 156]
INFO:  Unsupported nodes due to operator=11
INFO:  \tUnsupported ops: ai.onnx:HardSigmoid, ai.onnx:Erf
INFO:  Unsupported nodes due to input having a dynamic shape=8
INFO:  NNAPI is not recommended with this model as there are 11 partitions covering 92.7% of the nodes.
INFO:  Model should perform well with NNAPI as is: NO
INFO:  ================
INFO:
INFO:  Checking CoreML MLProgram
INFO:  1 partitions with a total of 259/259 nodes can be handled by the CoreML MLProgram EP.
INFO:  \tPartition sizes: [259]
INFO:  CoreML MLProgram should work well for this model as there is one partition covering 100.0% of the nodes.
INFO:  Model should perform well with CoreML MLProgram as is: YES
INFO:  ================
INFO:
INFO:  As NNAPI or CoreML may provide benefits with this model it is recommended to compare the performance.
"""


@pytest.fixture
def gate(tmp_path):
    """x -> Relu -> HardSigmoid, which NNAPI lacks."""
    import onnx
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("HardSigmoid", ["r"], ["y"], name="gate"),
    ]
    graph = helper.make_graph(nodes, "gate", info[:1], info[1:])
    path = tmp_path / "gate.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_text_of_the_checker_becomes_records():
    nnapi, coreml = parse_usability(TEXT)
    assert (nnapi.provider, nnapi.suited, nnapi.supported, nnapi.nodes) == ("NNAPI", "no", 240, 259)
    assert nnapi.partitions == (80, 4, 156)
    assert nnapi.unsupported == ("ai.onnx:HardSigmoid", "ai.onnx:Erf")
    assert nnapi.dynamic_nodes == 8
    assert nnapi.advice.startswith("NNAPI is not recommended")
    assert (coreml.provider, coreml.suited, coreml.unsupported) == ("CoreML MLProgram", "yes", ())
    assert coreml.advice.startswith("CoreML MLProgram should work well")
    assert parse_usability(TEXT.replace("should work well", "works"))[1].advice == ""


@pytest.mark.parametrize("text", ["", TEXT.replace("as is: NO", "")], ids=["nothing", "no-verdict"])
def test_text_that_is_not_understood_is_an_error(text):
    with pytest.raises(StageError, match="checker's text"):
        parse_usability(text)


def test_checker_names_the_first_blocking_node(gate):
    verdicts = {verdict.provider: verdict for verdict in check_mobile(gate)}
    assert list(verdicts) == ["NNAPI", "CoreML NeuralNetwork", "CoreML MLProgram", "XNNPACK", "QNN"]
    assert verdicts["NNAPI"].blocker == "gate (HardSigmoid)"
    assert verdicts["NNAPI"].nodes == 2
    assert (verdicts["QNN"].suited, verdicts["QNN"].nodes) == ("unknown", None)


def test_ort_file_answers_as_its_onnx_file(gate, tmp_path):
    feed = {"x": np.array([[-1, 0, 2, 9]], np.float32)}
    made = convert_to_ort(gate, tmp_path / "mobile", feed, name="small")
    assert made.max_abs_over_range == 0
    assert made.path.read_bytes()[4:8] == b"ORTM"
    text = made.operators.read_text()
    assert "HardSigmoid" in text
    # Where the model lay while it was converted is nobody's business.
    assert "#" not in text
    assert str(tmp_path) not in text
    names = ["small.ort", "small.required_operators_and_types.config"]
    assert sorted(path.name for path in made.path.parent.iterdir()) == names


@pytest.fixture
def activated(tmp_path):
    """x -> Conv -> Relu, which ONNX Runtime fuses for processors; and the same with another weight."""
    import onnx

    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[1,1,2,2] x) => (float[1,1,2,2] y)
        <float[1,1,1,1] w = {%s}> { v = Conv(x, w) y = Relu(v) }"""
    for name, weight in {"plain": "2.0", "other": "2.001"}.items():
        onnx.save(onnx.parser.parse_model(text % weight), tmp_path / f"{name}.onnx")
    return tmp_path / "plain.onnx", tmp_path / "other.onnx"


PICTURE = {"x": np.array([[[[-1, 0], [2, 9]]]], np.float32)}


@pytest.mark.parametrize(("made_for", "kept"), [("processor", False), ("accelerators", True)])
def test_only_files_for_the_processor_have_its_operators_alone(activated, tmp_path, made_for, kept):
    made = convert_to_ort(activated[0], tmp_path / "mobile", PICTURE, made_for=made_for, origin=activated[0])
    # Fused with the convolution for a processor.
    assert ("Relu" in made.operators.read_text()) == kept
    assert made.max_abs_over_range == 0
    assert sorted(path.name for path in made.path.parent.iterdir()) == sorted((made.path.name, made.operators.name))


def test_rewritten_file_that_moved_too_far_is_an_error(activated, tmp_path):
    plain, other = activated
    with pytest.raises(StageError, match=r"it is 5\.0e-04 of the range away from 'plain\.onnx'"):
        convert_to_ort(other, tmp_path / "mobile", PICTURE, made_for="accelerators", origin=plain)
    assert not list((tmp_path / "mobile").iterdir())


def test_ort_file_that_answers_otherwise_is_an_error(gate, tmp_path, monkeypatch):
    answers = iter([np.array([0.0, 1.0]), np.array([0.0, 1.0 + 2**-20])])
    monkeypatch.setattr("mscsa_deploy.bundle.mobile._answer", lambda *_, **__: next(answers))
    with pytest.raises(StageError, match=r"its answer differs from that of the ONNX file by 9\.5e-07"):
        convert_to_ort(gate, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["gate.onnx"]


def test_broken_model_is_a_stage_error(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(StageError, match="check_onnx_model_mobile_usability"):
        check_mobile(tmp_path / "broken.onnx")


def test_missing_package_is_named(gate, monkeypatch):
    monkeypatch.setattr("mscsa_deploy.bundle.mobile.find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match="need the package onnxruntime"):
        check_mobile(gate)
