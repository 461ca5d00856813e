"""`sensitivity` on a small network whose answers are its own masks."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from mscsa_deploy.cli import run

NET = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,3,64,64] image) => (float[1,4,16,16] logits) {
  [stem] a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(image, w0)
  [relu] b = Relu(a)
  [depthwise] c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>(b, w1)
  [pool] d = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)
  [classifier] logits = Conv<kernel_shape=[1,1]>(d, w2)
}"""
SHAPES = ((8, 3, 3, 3), (8, 1, 3, 3), (4, 8, 1, 1))


@pytest.fixture
def rank(tmp_path, monkeypatch, capsys):
    """Ranks the network's nodes over folders of pictures; (exit code, document)."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    network = parser.parse_model(NET)
    for index, shape in enumerate(SHAPES):
        weights = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        network.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), f"w{index}"))
    onnx.save(network, str(tmp_path / "net.onnx"))
    (tmp_path / "preprocess.toml").write_text("height = 64\nwidth = 64\n")
    for folder, count in (("calibration", 8), ("validation", 4)):
        (tmp_path / folder / "images").mkdir(parents=True)
        for index in range(count):
            coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64)).save(tmp_path / folder / "images" / f"{index}.png")

    def call(*more):
        capsys.readouterr()
        code = run([
            *("sensitivity", str(tmp_path / "net.onnx"), "--task", "seg", "--by", "node", "-q", "--json"),
            *("--preprocess", str(tmp_path / "preprocess.toml"), "--device", "generic_x86"),
            *("--calibration", str(tmp_path / "calibration"), *more),
        ])  # fmt: skip
        return code, json.loads(capsys.readouterr().out)

    return call


def test_openvino_is_ranked_by_a_file_with_pairs_and_says_so(rank):
    pytest.importorskip("openvino")
    code, ranking = rank("--for", "openvino")
    assert code == 0
    assert {"stem", "depthwise", "classifier"} <= {unit["unit"] for unit in ranking["units"]}
    assert "is written by nncf" in ranking["note"]
    assert f"ranked with '{ranking['recipe']}' in its place" in ranking["note"]


def test_a_recipe_whose_file_has_pairs_is_taken_as_it_is(rank):
    code, ranking = rank("--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86")
    assert (code, ranking["recipe"], ranking["note"]) == (0, "int8_onnxruntime_x86", "")
