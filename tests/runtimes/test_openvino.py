from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mscsa_deploy.errors import DeployError, UnsupportedError, UserError
from mscsa_deploy.runtimes import openvino as adapter
from mscsa_deploy.runtimes.protocol import SessionSettings


@pytest.fixture
def runtime(needs):
    return needs("openvino")


@pytest.fixture
def vendor_classes(runtime):
    import openvino._pyopenvino as vendor

    return {name: kind for name, kind in vars(vendor).items() if isinstance(kind, type) and issubclass(kind, Exception)}


@pytest.fixture
def model(models, tmp_path):
    return models.conv_attention(tmp_path / "m.onnx")


def without_bf16(runtime):
    return "bf16" not in runtime.probe().precisions


def test_every_vendor_error_is_mapped(vendor_classes):
    assert set(vendor_classes) == set(adapter.ERRORS)


def test_the_seam_maps_each_and_keeps_the_cause(vendor_classes):
    for name, kind in vendor_classes.items():
        with pytest.raises(DeployError) as caught, adapter.seam("m.onnx", "inference"):
            raise kind("what the vendor said")
        assert type(caught.value) is adapter.ERRORS[name]
        assert isinstance(caught.value.__cause__, kind)


def test_fp32_is_pinned_where_the_default_is_bf16(runtime, model, models):
    import openvino

    if without_bf16(runtime):
        pytest.skip("this CPU has no bf16")
    default = openvino.Core().compile_model(str(model), "CPU")
    assert default.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
    feed = {"image": models.image()}
    want = models.reference(model, feed)["logits"]
    with runtime.load(model, SessionSettings()) as pinned:
        assert pinned.executed_precision == "fp32"
        # bf16 keeps 8 bits of mantissa, so its error is some 1e-3 of the values; float32's is near 1e-6.
        assert np.abs(pinned.run(feed)["logits"] - want).max() < 1e-4
    assert np.abs(default(feed)[0] - want).max() > 1e-3


def test_bf16_runs_on_request_only(runtime, model):
    if without_bf16(runtime):
        with pytest.raises(UnsupportedError, match="bf16"):
            runtime.load(model, SessionSettings(precision="bf16"))
    else:
        assert "bf16" in runtime.load(model, SessionSettings(precision="bf16")).executed_precision


def test_bf16_is_refused_where_the_cpu_lacks_it(runtime, model, monkeypatch):
    can = runtime.probe()
    poorer = type(can)(True, "", "", can.version, can.devices, ("fp32", "int8"))
    monkeypatch.setattr(type(runtime), "probe", lambda _: poorer)
    with pytest.raises(UnsupportedError, match="cannot execute bf16"):
        runtime.load(model, SessionSettings(precision="bf16"))
    rest = SessionSettings(precision="int8", options={"float_precision": "bf16"})
    with pytest.raises(UnsupportedError, match="cannot execute bf16"):
        runtime.load(model, rest)


def test_its_own_format_gives_the_same_answer(runtime, model, models, tmp_path):
    import openvino

    xml = tmp_path / "m.xml"
    openvino.save_model(openvino.Core().read_model(str(model)), str(xml), compress_to_fp16=False)
    feed = {"image": models.image()}
    with runtime.load(model, SessionSettings()) as one, runtime.load(xml, SessionSettings()) as other:
        assert one.inputs == other.inputs
        assert np.array_equal(one.run(feed)["logits"], other.run(feed)["logits"])


@pytest.mark.parametrize("content", [b"", b"<net", b"<net></net>"], ids=["empty", "cut", "hollow"])
def test_a_damaged_xml_is_the_users(runtime, tmp_path, content):
    path = tmp_path / "m.xml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        runtime.load(path, SessionSettings())


def test_an_xml_without_its_weights_is_the_users(runtime, model, tmp_path):
    import openvino

    xml = tmp_path / "lonely.xml"
    openvino.save_model(openvino.Core().read_model(str(model)), str(xml))
    xml.with_suffix(".bin").unlink()
    with pytest.raises(UserError):
        runtime.load(xml, SessionSettings())


def test_int8_keeps_its_float_rest_in_fp32_unless_told(runtime, models, tmp_path):
    if without_bf16(runtime):
        pytest.skip("this CPU has no bf16")
    path = models.quantized(tmp_path / "m.onnx", symmetric=False)
    pinned = SessionSettings(precision="int8")
    mixed = SessionSettings(precision="int8", options={"float_precision": "bf16"})
    assert "bf16" not in runtime.load(path, pinned).executed_precision
    assert "int8" in runtime.load(path, mixed).executed_precision


def test_float_precision_goes_with_int8_only(runtime, model):
    with pytest.raises(UserError, match="it goes with precision int8"):
        runtime.load(model, SessionSettings(options={"float_precision": "bf16"}))


def test_a_custom_operator_is_unsupported(runtime, models, tmp_path):
    path = models.custom(tmp_path / "custom.onnx")
    with pytest.raises(UnsupportedError, match=r"foo\.Bar"):
        runtime.load(path, SessionSettings())


def test_profile_names_kernels_layouts_and_their_sources(runtime, model, models):
    profile = runtime.profile(model, SessionSettings(), {"image": models.image()}, runs=2)
    (stem,) = (row for row in profile.rows if "stem" in row.sources)
    assert stem.op == "Convolution"
    assert stem.precision == "fp32"
    assert stem.kernel
    assert stem.layout


def test_cache_keeps_the_compiled_model_and_its_answers(runtime, model, models, tmp_path):
    feed = {"image": models.image()}
    answers = []
    for cache in ("", str(tmp_path / "cache"), str(tmp_path / "cache")):
        with runtime.load(model, SessionSettings(cache=cache)) as session:
            answers.append(session.run(feed)["logits"])
            assert session.executed_precision == "fp32"
    assert len(list((tmp_path / "cache").iterdir())) == 1
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_a_signal_after_a_session_was_closed_on_another_thread_is_heard(runtime, model):
    # With AMX the vendor's library gives the loading thread a signal stack; freed elsewhere, the signal would be fatal.
    code = f"""
import signal, threading
from pathlib import Path
from mscsa_deploy.runtimes.openvino import OpenVino
from mscsa_deploy.runtimes.protocol import SessionSettings
session = OpenVino().load(Path({str(model)!r}), SessionSettings())
thread = threading.Thread(target=session.close)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (told.returncode, told.stdout) == (0, "heard\n"), told.stderr[-2000:]


OVERWRITTEN = """
import sys
from pathlib import Path
import numpy as np
from mscsa_deploy.runtimes.openvino import OpenVino
from mscsa_deploy.runtimes.protocol import SessionSettings
path, image = Path(sys.argv[1]), np.load(sys.argv[2])
with OpenVino().load(path, SessionSettings()) as session:
    before = session.run({"image": image})["logits"]
    path.with_suffix(".bin").write_bytes(b"")
    assert np.array_equal(session.run({"image": image})["logits"], before)
"""


def test_weights_that_are_overwritten_do_not_end_the_process(runtime, model, models, tmp_path):
    import openvino

    openvino.save_model(openvino.convert_model(model), tmp_path / "m.xml", compress_to_fp16=False)
    np.save(tmp_path / "image.npy", models.image())
    code = [sys.executable, "-c", OVERWRITTEN, tmp_path / "m.xml", tmp_path / "image.npy"]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
