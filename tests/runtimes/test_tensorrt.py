from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.errors import StageError, UnsupportedError, UserError
from mscsa_deploy.runtimes import tensorrt as adapter
from mscsa_deploy.runtimes import tensorrt_build
from mscsa_deploy.runtimes.protocol import SessionSettings
from mscsa_deploy.runtimes.tensorrt_build import build_engine, library, parser_problem, targets


@pytest.fixture
def builder(models):
    """The library, where it can build without a GPU; CI counts on it as ``tensorrt-build``."""
    try:
        module = library()
    except UnsupportedError as error:
        models.skip_unless("tensorrt-build", available=False, reason=error.message)
    can = targets(module)
    models.skip_unless("tensorrt-build", available=bool(can), reason="this TensorRT builds on the GPU only")
    return module


@pytest.fixture
def onnx_file(models, tmp_path):
    def make(precision):
        path = tmp_path / f"{precision}.onnx"
        if precision == "int8":
            return models.quantized(path, symmetric=True)
        return models.conv_attention(path, {"fp16": "float16", "fp32": "float32"}[precision])

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_build_without_a_gpu(builder, onnx_file, tmp_path, precision):
    source = onnx_file(precision)
    engine = build_engine(source, tmp_path / "m.engine", compute_capabilities=("86",))
    assert engine.precision == precision
    assert engine.kind == "engine"
    assert engine.sha256 == sha256_file(engine.path)
    assert engine.made_by.parent == sha256_file(source)
    assert [(spec.name, spec.dtype) for spec in engine.inputs] == [("image", "float32")]
    assert [spec.name for spec in engine.outputs] == ["logits"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_turing_takes_half_and_int8(builder, onnx_file, tmp_path, precision):
    engine = build_engine(onnx_file(precision), tmp_path / "m.engine", compute_capabilities=("75",))
    assert engine.path.stat().st_size > 0


def test_turing_refuses_fp32_and_says_what_to_do(builder, onnx_file, tmp_path):
    with pytest.raises(StageError, match="tensorrt building failed") as caught:
        build_engine(onnx_file("fp32"), tmp_path / "m.engine", compute_capabilities=("75",))
    assert "FP16" in caught.value.hint
    assert not (tmp_path / "m.engine").exists()


def test_one_engine_serves_several_capabilities(builder, onnx_file, tmp_path):
    wanted = ("80", "86", "89", "120")
    engine = build_engine(onnx_file("fp16"), tmp_path / "m.engine", compute_capabilities=wanted)
    assert engine.made_by.settings["compute_capabilities"] == list(wanted)


def test_an_unknown_capability_is_unsupported(builder, onnx_file, tmp_path):
    with pytest.raises(UnsupportedError, match="compute capability 90"):
        build_engine(onnx_file("fp16"), tmp_path / "m.engine", compute_capabilities=("90",))


def test_a_refused_node_is_named_with_its_operator(builder, models, tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[2,4,4] x) => (float[2] y) { [bad_one] y = Det(x) }'
    path = models.write_onnx(tmp_path / "det.onnx", text)
    with pytest.raises(StageError, match=r"UNSUPPORTED_NODE.*'bad_one' \(Det\)"):
        build_engine(path, tmp_path / "m.engine")


def test_a_quantized_bias_is_refused_with_the_way_out(builder, models, tmp_path):
    text = models.quantized(tmp_path / "good.onnx", symmetric=True)
    import onnx

    model = onnx.load(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(16, np.int32), "b_int32"))
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["b_int32", "w_scale"], ["b"]))
    next(node for node in model.graph.node if node.op_type == "Conv").input.append("b")
    onnx.save(model, tmp_path / "bias.onnx")
    with pytest.raises(StageError, match="DequantizeLinear") as caught:
        build_engine(tmp_path / "bias.onnx", tmp_path / "m.engine")
    assert "--for tensorrt" in caught.value.hint


def test_a_free_axis_is_the_users(builder, models, tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    path = models.write_onnx(tmp_path / "free.onnx", text)
    with pytest.raises(UserError, match="fixed sizes"):
        build_engine(path, tmp_path / "m.engine")


def test_a_damaged_file_is_the_users(builder, tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(UserError, match="not a readable ONNX file"):
        build_engine(path, tmp_path / "m.engine")


def test_missing_and_existing_files_are_the_users(builder, onnx_file, tmp_path):
    with pytest.raises(UserError, match="no model file"):
        build_engine(tmp_path / "none.onnx", tmp_path / "m.engine")
    (tmp_path / "m.engine").write_bytes(b"kept")
    with pytest.raises(UserError, match="already exists"):
        build_engine(onnx_file("fp16"), tmp_path / "m.engine")
    assert (tmp_path / "m.engine").read_bytes() == b"kept"


def test_without_a_gpu_engines_are_built_but_not_run(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "device_count", lambda: 0)
    can = adapter.TensorRT().probe()
    assert not can.available
    assert "no NVIDIA GPU" in can.reason
    assert "can be built here" in can.reason
    (tmp_path / "m.engine").write_bytes(b"x")
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU"):
        adapter.TensorRT().load(tmp_path / "m.engine", SessionSettings(device="cuda"))


def test_without_the_library_probe_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(tensorrt_build, "LIBRARIES", ("no_such_library",))
    can = adapter.TensorRT().probe()
    assert (can.available, can.version) == (False, "")
    assert "pip install" in can.how_to_install


def test_the_vendor_still_has_no_exceptions_of_its_own(builder):
    raised = [
        name for name, kind in vars(builder).items() if isinstance(kind, type) and issubclass(kind, BaseException)
    ]
    assert raised == []


def test_parser_problems_name_code_node_and_operator():
    def error(**facts):
        facts = {"code": "ErrorCode.INVALID_NODE", "desc": "false", "node": 3, "node_name": "", **facts}
        return SimpleNamespace(**{name: lambda value=value: value for name, value in facts.items()})

    assert parser_problem(error(node_operator="Det")) == "INVALID_NODE at node number 3 (Det): false"
    named = error(node_operator="Det", node_name="bad")
    assert parser_problem(named) == "INVALID_NODE at node 'bad' (Det): false"
    assert parser_problem(error(node_operator="")) == "INVALID_NODE: false"


@pytest.mark.parametrize(
    ("told", "precisions"),
    [
        ('{"Layers": [{"Format/Datatype": "Row major linear FP32"}]}', ("fp32",)),
        ('{"Format/Datatype": "Half"}, {"Format/Datatype": "Int8"}', ("int8", "fp16")),
        ('{"Layers": []}', ()),
    ],
)
def test_engine_precisions_are_read_from_the_inspector(told, precisions):
    assert adapter.engine_precisions(told) == precisions
