"""What an ONNX file from elsewhere becomes for the tools after export."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from mscsa_deploy.calibration.recipe import read_recipe
from mscsa_deploy.calibration.samples import from_arrays
from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.errors import UserError
from mscsa_deploy.runtimes.onnxruntime import OnnxRuntime
from mscsa_deploy.runtimes.profile import read_profile
from mscsa_deploy.runtimes.protocol import Capabilities
from mscsa_deploy.workflow.build import quantize_cached
from mscsa_deploy.workflow.opening import open_subject
from mscsa_deploy.workflow.subject import SubjectRequest

SEG = """
<ir_version: 6, opset_import: ["" : OPSET]>
g (float[1,3,64,96] x) => (float[1,4,32,48] y) <float[4,3,2,2] w = {WEIGHTS}> { y = Conv <strides = [2, 2]> (x, w) }
""".replace("WEIGHTS", ", ".join(["0.5"] * 48))
CLASSES = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,3,64,96] x) => (int64[1,64,96] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }
"""

LOGITS = """
<ir_version: 6, opset_import: ["" : OPSET]>
g (float[1,3,32,32] x) => (float[1,4] y) {
  c = Conv <strides = [2, 2]> (x, w)
  p = GlobalAveragePool (c)
  y = Flatten (p)
}
"""


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open a graph in ONNX text as a foreign file; returns (its path, the subject)."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    preprocess = tmp_path / "preprocess.toml"
    preprocess.write_text("height = 64\nwidth = 96\n")

    def opened(text, **more):
        path = tmp_path / "net.onnx"
        path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        ask = SubjectRequest(task="seg", preprocess=preprocess)
        return path, open_subject(str(path), ask, read_profile("generic_x86"), lambda *_: None, **more)

    return opened


def test_a_file_that_is_only_run_is_run_as_it_is(opened):
    path, subject = opened(SEG.replace("OPSET", "11"))
    assert (subject.name, subject.classes, subject.sha256) == ("net", 4, sha256_file(path))
    assert {variant.artifact.path for variant in subject.variants} == {path}


def test_a_file_that_others_are_made_from_is_brought_to_our_opset(opened):
    path, subject = opened(SEG.replace("OPSET", "11"), rewrite=True)
    adopted = subject.float_for("onnxruntime").artifact
    assert adopted.path.name == "net.onnx"
    assert onnx.load(adopted.path).opset_import[0].version == 18
    assert onnx.load(path).opset_import[0].version == 11


def test_a_file_of_our_opset_is_used_where_it_lies(opened):
    path, subject = opened(SEG.replace("OPSET", "18"), rewrite=True)
    assert subject.float_for("onnxruntime").artifact.path == path


@pytest.mark.parametrize(("requires", "lacking"), [("no_such_set", ["no_such_set"]), ("", [])])
def test_a_bare_int8_file_warns_of_instructions_that_this_processor_lacks(opened, caplog, requires, lacking):
    told = f'metadata_props: ["mscsa_deploy_int8.requires": "{requires}"]'
    opened(SEG.replace("OPSET", "18").replace("18]", f"18], {told}"))
    found = [record.getMessage() for record in caplog.records if "this processor lacks" in record.getMessage()]
    assert len(found) == len(lacking)
    assert all(f"requires {flag}" in text for flag, text in zip(lacking, found, strict=True))


def test_a_class_map_without_labels_tells_no_number_of_classes(opened):
    assert opened(CLASSES)[1].classes == 0


def test_another_layout_is_refused_with_what_was_expected(opened):
    with pytest.raises(UserError, match=r"takes x float32 \[1, 64, 96, 3\], expected one image: float32"):
        opened(CLASSES.replace("[1,3,64,96]", "[1,64,96,3]").replace("axis = 1", "axis = 3"))


def test_what_cannot_run_here_says_why(opened, monkeypatch):
    gone = Capabilities(False, "onnxruntime is not installed", "pip install onnxruntime", "", (), ())
    monkeypatch.setattr(OnnxRuntime, "probe", lambda _: gone)
    _, subject = opened(SEG.replace("OPSET", "18"), runtimes=("onnxruntime",))
    assert [(each.status, each.reason) for each in subject.variants] == [
        ("not run", "onnxruntime is not installed; pip install onnxruntime")
    ]


@pytest.mark.parametrize("opset", [11, 18])
def test_a_shape_that_is_not_fixed_is_refused_at_once_under_the_name_that_was_given(opset, opened, tmp_path):
    text = SEG.replace("OPSET", str(opset)).replace("[1,", "[N,")
    with pytest.raises(UserError, match=r"dynamic shape \?x3x64x96") as caught:
        opened(text, rewrite=True, runtimes=("onnxruntime",))
    assert f"input 'x' of '{tmp_path / 'net.onnx'}'" in str(caught.value)
    assert opened(text)[1].declared.shape == (-1, 3, 64, 96)


def test_errors_about_a_converted_file_do_not_name_the_cache(opened, tmp_path):
    _, subject = opened(SEG.replace("OPSET", "11").replace("0.5", "0"), rewrite=True)
    source = subject.float_for("onnxruntime").artifact
    arrays = list(np.random.default_rng(0).standard_normal((2, 1, 3, 64, 96)).astype(np.float32))
    samples = from_arrays("x", arrays, input_name="x")
    with pytest.raises(UserError, match=r"^the outputs of 'net\.onnx' ignore its input"):
        quantize_cached(source.path, samples, read_recipe("int8_onnxruntime_portable"))


@pytest.mark.parametrize("opset", [11, 18], ids=["adopted", "as it is"])
def test_int8_is_made_anew_when_only_the_weights_beside_the_file_change(opset, tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "preprocess.toml").write_text("height = 32\nwidth = 32\n")
    generator = np.random.default_rng(0)
    model = onnx.parser.parse_model(LOGITS.replace("OPSET", str(opset)))
    weights = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path, data = tmp_path / "net.onnx", tmp_path / "net.data"
    onnx.save(model, str(path), save_as_external_data=True, location=data.name, size_threshold=0)
    samples = from_arrays("x", list(generator.standard_normal((2, 1, 3, 32, 32)).astype(np.float32)), input_name="x")

    def int8():
        ask = SubjectRequest(task="cls", preprocess=tmp_path / "preprocess.toml")
        subject = open_subject(str(path), ask, read_profile("generic_x86"), lambda *_: None, rewrite=True)
        source = subject.float_for("onnxruntime").artifact
        made = quantize_cached(source.path, samples, read_recipe("int8_onnxruntime_portable"))
        return source.sha256, made.artifact.path.read_bytes()

    first, before = int8(), path.read_bytes()
    assert int8() == first
    data.write_bytes(weights[::-1].tobytes())
    assert path.read_bytes() == before
    again = int8()
    assert all(one != other for one, other in zip(first, again, strict=True))


def test_a_model_that_only_tensorrt_is_to_run_stands_on_onnx_runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    ask = SubjectRequest(task="cls", random_weights=1)
    profile = read_profile("generic_x86")
    subject = open_subject("topformer_t", ask, profile, lambda *_: None, runtimes=("tensorrt",))
    assert subject.float_for("tensorrt").artifact.path.name == "model.onnx"
    assert {variant.runtime for variant in subject.variants} == {"onnxruntime"}
