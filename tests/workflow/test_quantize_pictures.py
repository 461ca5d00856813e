"""What `quantize` says about the pictures that it worked on."""

from __future__ import annotations

import json

import pytest

from mscsa_deploy.calibration.budget import Budget
from mscsa_deploy.cli import run

NET = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,3,64,64] image) => (float[1,4,32,32] logits) {
  [stem] a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(image, w0)
  [classifier] logits = Conv<kernel_shape=[1,1]>(a, w1)
}"""
RECIPE = 'name = "few"\nengine = "onnxruntime"\nruntime = "onnxruntime"\nsamples = 5\n'


@pytest.fixture
def quantized(write_foreign, tmp_path, monkeypatch, capsys):
    """Quantizes a small network by a recipe of five samples; returns the report and what stderr said."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Budget, "allows", lambda *_: True)
    (tmp_path / "few.toml").write_text(RECIPE)

    def quantize(counts, *more):
        told = write_foreign(NET, ((4, 3, 3, 3), (4, 4, 1, 1)), counts)
        for name in counts:
            if name in more:
                (tmp_path / name / "damaged.png").write_bytes(b"no picture")
        sets = [part for name in counts for part in (f"--{name}", str(tmp_path / name))]
        options = [option for option in more if option not in counts]
        arguments = ["quantize", *told, *sets, "--for", "onnxruntime", "--recipe", str(tmp_path / "few.toml"), *options]
        assert run([*arguments, "-o", str(tmp_path / "out")]) == 0
        return json.loads((tmp_path / "out" / "quantize.json").read_text()), capsys.readouterr().err

    return quantize


@pytest.mark.parametrize("damaged", ["calibration", "validation"])
def test_the_report_counts_pictures_that_cannot_be_read(quantized, damaged):
    counts = {"calibration": 4, "validation": 3, damaged: 100}
    report, _ = quantized(counts, damaged)
    assert report["unreadable"] == {damaged: 1}


@pytest.mark.parametrize(("held", "idle"), [(5, True), (6, False)])
def test_a_draw_that_changes_nothing_is_told(quantized, held, idle):
    report, told = quantized({"calibration": held, "validation": 2}, "--draw", "3")
    words = "--draw changed nothing: recipe 'few' takes 5 pictures, the set holds 5"
    assert (words in report["notes"], words in told) == (idle, idle)
    assert "unreadable" not in report or not report["unreadable"]
