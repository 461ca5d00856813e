"""Float files are written for accelerators where these take them, exactly; every other file for the processor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.graphs.check import read_model, signature
from mscsa_deploy.workflow.mobile import make_mobile

FEED = {"x": np.array([[-4, -1, 0.3, 7]], np.float32)}
BODIES = {
    "fits": "a = HardSwish(x)  b = Relu(a)  y = Mul(b, x)",
    "foreign": "a = HardSwish(x)  b = Selu(a)  c = Relu(b)  d = Selu(c)  y = Relu(d)",
    # Nothing is left but what rounding makes, a million times.
    "inexact": """million = Constant <value = float {1e6}> ()  a = HardSwish(x)
                  g = HardSigmoid <alpha = 0.16666667> (x)
                  b = Mul(x, g)  c = Sub(a, b)  y = Mul(c, million)""",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))


def artifact(path, body, precision):
    text = f'<ir_version: 9, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(text), path)
    inputs, outputs = signature(read_model(path))
    return Artifact.of(path, kind="onnx", precision=precision, inputs=inputs, outputs=outputs, made_by=MadeBy("test"))


def made_of(tmp_path, body, precision="fp32"):
    (files,) = make_mobile({"model.onnx": artifact(tmp_path / "source.onnx", BODIES[body], precision)}, FEED)
    assert files.model.status == "ok"
    assert set(files.places) == {"mobile/model.ort", "mobile/model.required_operators_and_types.config"}
    return files


def test_float_file_that_accelerators_take_is_written_for_them(tmp_path):
    files = made_of(tmp_path, "fits")
    assert files.model.made_for == "accelerators"
    assert [verdict.suited for verdict in files.model.verdicts[:3]] == ["yes", "yes", "yes"]
    assert "HardS" not in files.places[files.model.operators].read_text()
    # The difference is told to the file that it was made from: one rounding of a few numbers.
    assert files.model.max_abs_over_range < 1e-6


@pytest.mark.parametrize(
    ("body", "precision"),
    [("foreign", "fp32"), ("inexact", "fp32"), ("fits", "int8")],
    ids=["foreign", "inexact", "int8"],
)
def test_every_other_file_is_written_for_the_processor(tmp_path, body, precision):
    files = made_of(tmp_path, body, precision)
    assert files.model.made_for == "processor"
    assert "HardSigmoid" in files.places[files.model.operators].read_text()
    assert files.model.max_abs_over_range == 0
    assert "ai.onnx:HardSigmoid" in files.model.verdicts[0].unsupported
