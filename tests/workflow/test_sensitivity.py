"""`sensitivity` on a small network."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from mscsa_deploy.cli import run
from mscsa_deploy.imaging.classmap import class_map
from mscsa_deploy.imaging.preprocess import Preprocess, preprocess
from mscsa_deploy.runtimes.protocol import OpProfile, OpRow

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
def rank(write_foreign, tmp_path, monkeypatch, capsys):
    """Ranks the network's nodes over folders of pictures; (exit code, document), or the code alone and a table."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    told = write_foreign(NET, SHAPES, {"calibration": 8, "validation": 4}, below="images")
    command = [
        *("sensitivity", *told, "--by", "node", "-q", "--device", "generic_x86"),
        *("--calibration", str(tmp_path / "calibration")),
    ]

    def call(*more, table=False):
        if table:
            return run([*command, *more])
        capsys.readouterr()
        return run([*command, "--json", *more]), json.loads(capsys.readouterr().out)

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


def test_tensorrt_is_ranked_with_the_rest_in_fp32_and_says_so(rank):
    code, ranking = rank("--for", "tensorrt")
    assert (code, ranking["recipe"]) == (0, "int8_tensorrt")
    assert "leaves the rest in FP16: ranked with the rest in FP32" in ranking["note"]
    assert {"stem", "depthwise", "classifier"} <= {unit["unit"] for unit in ranking["units"]}
    assert max(unit["sqnr_db"] for unit in ranking["units"]) > ranking["whole_sqnr_db"] > 10


def test_every_unit_has_the_time_that_onnxruntime_spends_on_it(rank):
    _, ranking = rank("--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86")
    times = {unit["unit"]: unit["float_ms"] for unit in ranking["units"]}
    assert {"depthwise", "pool"} <= times.keys()
    assert None not in times.values()
    assert times["depthwise"] > 0


def test_what_runs_inside_a_convolution_takes_no_time_of_its_own(rank, monkeypatch):
    rows = (OpRow("fused", "Conv", "fp32", "", "", 3.0, 1, ("depthwise", "pool")),)
    profile = OpProfile("onnxruntime", "", "fp32", 1, rows)
    monkeypatch.setattr("mscsa_deploy.runtimes.onnxruntime.OnnxRuntime.profile", lambda *_, **__: profile)
    _, ranking = rank("--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86")
    times = {unit["unit"]: unit["float_ms"] for unit in ranking["units"]}
    assert (times["depthwise"], times["pool"]) == (3.0, 0.0)
    # Nobody says what the others take.
    assert {times[unit] for unit in times.keys() - {"depthwise", "pool"}} <= {None}


def label(folder, network):
    """The float network's own answers as masks."""
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    (folder / "masks").mkdir()
    spec = Preprocess(height=64, width=64)
    for path in (folder / "images").iterdir():
        logits = session.run(None, {"image": preprocess(np.asarray(Image.open(path)), spec)})[0]
        Image.fromarray(class_map(logits[0], (64, 64))).save(folder / "masks" / path.name)


def test_units_are_judged_by_labels_where_there_are_some(rank, tmp_path):
    label(tmp_path / "validation", tmp_path / "net.onnx")
    code, ranking = rank(
        *("--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86", "--max-images", "3"),
        *("--validation", str(tmp_path / "validation"), "-o", str(tmp_path / "out")),
    )
    assert (code, ranking["images"], ranking["metric"]) == (0, 3, "mIoU")
    # Its own answers are its labels, so every difference is a loss.
    assert ranking["float_value"] == 100.0
    assert ranking["whole_drop"] > 0
    for unit in ranking["units"]:
        assert unit["drop"] >= 0
        assert unit["drop"] > 0 or unit["agreement"] == 100
        assert f"mIoU {-unit['drop']:+z.2f}" in (tmp_path / "out" / "sensitivity.svg").read_text()


def test_without_labels_there_is_no_metric(rank):
    _, ranking = rank("--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86")
    assert (ranking["metric"], ranking["float_value"], ranking["whole_drop"]) == ("", None, None)
    assert {unit["drop"] for unit in ranking["units"]} == {None}


def test_units_judged_on_pictures_that_gave_the_ranges_are_refused(rank, tmp_path):
    shutil.copy(tmp_path / "calibration" / "images" / "0.png", tmp_path / "validation" / "images" / "same.png")
    code, document = rank("--for", "onnxruntime", "--validation", str(tmp_path / "validation"))
    assert code == 2
    assert "share 1 pictures" in document["error"]["message"]


def test_ranges_are_not_taken_from_pictures_that_reports_quote(rank):
    code, document = rank("--for", "onnxruntime", "--calibration", "evaluation")
    assert code == 2
    assert "'evaluation' and 'evaluation' share 240 pictures" in document["error"]["message"]


def test_units_judged_on_pictures_that_reports_quote_are_warned_of(rank, tmp_path, caplog):
    options = ("--for", "onnxruntime", "--max-images", "1", "--validation")
    logger = logging.getLogger("mscsa_deploy")
    logger.addHandler(caplog.handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mscsa_deploy.cli.terminal._configure_logging", lambda **_: None)
        assert rank(*options, str(tmp_path / "validation"))[0] == 0
        assert "evaluation pictures" not in caplog.text
        assert rank(*options, "evaluation")[0] == 0
    assert "240 pictures of 'evaluation' are evaluation pictures" in caplog.text


def test_the_table_has_a_column_for_the_metric(rank, tmp_path, capsys):
    label(tmp_path / "calibration", tmp_path / "net.onnx")
    assert rank("--for", "onnxruntime", table=True) == 0
    assert "mIoU drop" in " ".join(capsys.readouterr().out.split())
