from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.errors import UserError
from mscsa_deploy.export.fp16 import kept_float, largest_magnitudes, to_fp16
from mscsa_deploy.export.numeric import distance, make_feeds, run_graph
from mscsa_deploy.graphs.check import op_histogram, parsed, read_model, signature
from mscsa_deploy.graphs.metadata import read_info
from mscsa_deploy.runtimes.tensorrt_build import build_engine

if TYPE_CHECKING:
    from pathlib import Path

# exp(12) is beyond float16, exp(12 / 2) is not; the sum brings values back into range.
WIDE = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,8] x) => (float[1,8] y)
<float twelve = {12.0}, float small = {1.0e-12}> {
    [scale] a = Mul (x, twelve)
    [exp] e = Exp (a)
    [log] l = Log (e)
    [add] s = Add (l, small)
    [relu] y = Relu (s)
}
"""


def artifact(path: Path, text: str) -> Artifact:
    content = onnx.parser.parse_model(text).SerializeToString()
    path.write_bytes(content)
    inputs, outputs = signature(parsed(content))
    return Artifact.of(path, kind="onnx", precision="fp32", inputs=inputs, outputs=outputs, made_by=MadeBy("test"))


@pytest.fixture
def wide(tmp_path) -> Artifact:
    return artifact(tmp_path / "wide.onnx", WIDE)


ONES = [{"x": np.ones((1, 8), np.float32)}]


def test_magnitudes_are_those_of_the_run(wide) -> None:
    found = largest_magnitudes(read_model(wide.path), [*ONES, {"x": np.zeros((1, 8), np.float32)}])
    assert found == pytest.approx({"a": 12, "e": np.exp(12), "l": 12, "s": 12, "y": 12}, rel=1e-5)


def test_nodes_out_of_range_are_kept_with_their_reason(wide) -> None:
    kept = {each.node: each for each in kept_float(read_model(wide.path), ONES)}
    assert set(kept) == {"exp", "log", "add"}
    assert kept["exp"].op == "Exp"
    assert "'e' reaches 1.63e+05" in kept["exp"].reason
    assert "rounds to zero" in kept["add"].reason


def test_fp16_of_a_wide_graph_is_right(wide, tmp_path) -> None:
    half = to_fp16(wide, tmp_path / "half.onnx", feeds=ONES)
    ((found,),) = run_graph(half.path.read_bytes(), ONES)
    # One value in and out of float16.
    np.testing.assert_allclose(found, np.full((1, 8), 12), rtol=2e-3)
    assert [each["node"] for each in half.made_by.settings["kept_float"]] == ["exp", "log", "add"]
    assert half.made_by.parent == wide.sha256


def test_large_constant_is_kept(tmp_path) -> None:
    text = WIDE.replace("{12.0}", "{1.0e6}").replace("[exp] e = Exp (a)", "[exp] e = Identity (a)")
    model = read_model(artifact(tmp_path / "a.onnx", text).path)
    tiny = [{"x": np.full((1, 8), 1e-6, np.float32)}]
    assert "its constant 'twelve' reaches 1e+06" in kept_float(model, tiny)[0].reason


def test_fp16_of_an_export(export, segmenter, tmp_path) -> None:
    full = export(segmenter, output="probs").artifact
    half = to_fp16(full, tmp_path / "half.onnx")

    assert (half.inputs, half.outputs, half.precision) == (full.inputs, full.outputs, "fp16")
    assert half.made_by.settings["kept_float"] == []
    info = read_info(half.path)
    assert info is not None
    assert info.precision == "fp16"
    assert op_histogram(read_model(half.path))["Cast"] == 2
    feeds = make_feeds(full.inputs, 2, seed=5)
    for wanted, found in zip(
        run_graph(full.path.read_bytes(), feeds), run_graph(half.path.read_bytes(), feeds), strict=True
    ):
        # float16 keeps 11 bits; these are four layers.
        assert distance(wanted[0], found[0]) <= 5e-3


def test_fp16_class_map_stays_uint8(export, segmenter, tmp_path) -> None:
    half = to_fp16(export(segmenter, output="classmap").artifact, tmp_path / "half.onnx")
    assert half.outputs[0].dtype == "uint8"


def test_fp16_is_repeatable(wide, tmp_path) -> None:
    assert to_fp16(wide, tmp_path / "a.onnx").sha256 == to_fp16(wide, tmp_path / "b.onnx").sha256


def test_fp16_of_fp16_is_refused(export, segmenter, tmp_path) -> None:
    half = to_fp16(export(segmenter).artifact, tmp_path / "half.onnx")
    with pytest.raises(UserError, match="is fp16 onnx, expected an FP32 ONNX file"):
        to_fp16(half, tmp_path / "quarter.onnx")


class _Attention(nn.Module):
    """One attention block on 1/8 of the input, with the ops that half precision is known to break."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 8, stride=8)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.head = nn.Linear(32, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image)
        height, width = int(x.shape[2]), int(x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + (q @ k.transpose(1, 2) / 32**0.5).softmax(-1) @ v
        return self.head(nn.functional.gelu(x)).transpose(1, 2).reshape(-1, 5, height, width)


@pytest.mark.parametrize("capability", ["75", "86"])
def test_fp16_builds_a_tensorrt_engine(export, tmp_path, capability) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, which builds without a GPU, is not installed")
    torch.manual_seed(0)
    full = export(_Attention(), output="classmap").artifact
    half = to_fp16(full, tmp_path / "half.onnx")

    engine = build_engine(half.path, tmp_path / "model.engine", compute_capabilities=(capability,))

    assert engine.precision == "fp16"
    feeds = make_feeds(full.inputs, 1)
    ((wanted,),) = run_graph(full.path.read_bytes(), feeds)
    ((found,),) = run_graph(half.path.read_bytes(), feeds)
    # Classes that are equal up to float16 rounding flip; random weights make more of them than trained ones.
    assert np.mean(wanted == found) >= 0.98
