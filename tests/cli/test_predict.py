"""`predict`: answers from a bundle, without torch or onnx."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(make, tmp_path):
    return make.bundle(tmp_path / "bundle")


@pytest.fixture
def picture(make, tmp_path):
    return make.picture(tmp_path / "street.png")


def test_shares_of_the_classes_in_the_answer(cli, bundle, picture):
    document = cli("predict", bundle, picture, "--json", "-q").json
    (answer,) = document["images"]
    assert {entry["label"] for entry in answer["classes"]} == {"red", "green", "blue"}
    # Thirds of 160 columns do not fall on whole cells of the 8x8 grid; a cell is 5 % of the width.
    assert all(abs(entry["percent"] - 100 / 3) < 5 for entry in answer["classes"])
    assert answer["size"] == [96, 160]
    assert answer["error"] is None
    assert set(answer["parts_ms"]) == {"decode", "preprocess", "network", "postprocess"}
    assert (document["runtime"], document["precision"]) == ("onnxruntime", "fp32")


def test_people_see_a_table_and_how_to_get_pictures(cli, bundle, picture):
    outcome = cli("predict", bundle, picture)
    assert outcome.code == 0
    assert "street.png (160x96" in outcome.out
    assert "green" in outcome.out
    assert "add -o DIR" in outcome.out


def test_output_directory_has_overlay_class_map_answers_and_hashes(cli, bundle, picture, make, tmp_path):
    outcome = cli("predict", bundle, picture, "-o", tmp_path / "out", "--classmap", "--json", "-q")
    assert outcome.code == 0
    out = tmp_path / "out"
    names = {"street.overlay.png", "street.classes.png", "predictions.json"}
    assert {path.name for path in out.iterdir()} == names | {"manifest.json"}
    assert set(json.loads((out / "manifest.json").read_text())["files"]) == names
    assert json.loads((out / "predictions.json").read_text())["images"] == outcome.json["images"]
    classes = np.asarray(Image.open(out / "street.classes.png"))
    mask = make.scene()[1]
    assert classes.shape == mask.shape
    assert (classes == mask).mean() > 0.9
    with Image.open(out / "street.overlay.png") as overlay:
        assert overlay.width == 160
        assert overlay.height > 96  # the legend is below the picture
    # What zlib writes ahead of its fastest level: the usual one takes five times as long on a large photograph.
    assert b"IDAT\x78\x01" in (out / "street.overlay.png").read_bytes()


def test_an_unreadable_picture_does_not_keep_the_others(cli, bundle, picture, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    outcome = cli("predict", bundle, bad, picture, "-o", tmp_path / "out", "--json", "-q")
    assert outcome.code == 2
    first, second = outcome.json["images"]
    assert "not a readable picture" in first["error"]["message"]
    assert second["overlay"] == "street.overlay.png"
    assert outcome.json["error"]["message"].startswith("1 of 2 pictures have no answer: ")
    assert outcome.err.startswith("error: 1 of 2 pictures have no answer: ")
    assert (tmp_path / "out" / "street.overlay.png").is_file()


@pytest.mark.parametrize("arguments", [(), ("-o", "out")], ids=["bare", "with output"])
def test_nothing_is_written_when_no_picture_is_readable(cli, bundle, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    outcome = cli("predict", bundle, "missing.png", *arguments, "--json")
    assert outcome.code == 2
    assert list(outcome.json) == ["error"]
    assert "missing.png" in outcome.json["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_folder_means_its_pictures_and_equal_names_are_kept_apart(cli, bundle, make, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make.picture(tmp_path / "a" / "x.png")
    make.picture(tmp_path / "b" / "x.jpg")
    outcome = cli("predict", bundle, tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", "--json", "-q")
    assert [answer["overlay"] for answer in outcome.json["images"]] == ["x.overlay.png", "x-2.overlay.png"]


def test_an_empty_folder_is_the_users_mistake(cli, bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = cli("predict", bundle, tmp_path / "empty")
    assert outcome.code == 2
    assert "holds no pictures" in outcome.err


def test_classification_ranks_its_classes(cli, make, picture, tmp_path):
    Image.fromarray(np.full((64, 64, 3), (20, 220, 40), np.uint8)).save(tmp_path / "green.png")
    bundle = make.bundle(tmp_path / "classifier", task="cls")
    outcome = cli("predict", bundle, tmp_path / "green.png", "--json", "-q")
    (answer,) = outcome.json["images"]
    assert answer["top"][0]["label"] == "green"
    assert sum(guess["percent"] for guess in answer["top"]) == pytest.approx(100, abs=0.01)
    assert "green" in cli("predict", bundle, tmp_path / "green.png").out


def test_class_maps_of_a_classifier_are_the_users_mistake(cli, make, picture, tmp_path):
    bundle = make.bundle(tmp_path / "classifier", task="cls")
    outcome = cli("predict", bundle, picture, "--classmap", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "--classmap" in outcome.err
    assert not (tmp_path / "out").exists()


def test_class_maps_need_a_place(cli, bundle, picture):
    outcome = cli("predict", bundle, picture, "--classmap")
    assert (outcome.code, outcome.err) == (2, "error: class maps need a place; add -o DIR\n")


def test_nothing_is_overwritten_without_force(cli, bundle, picture, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    (out / "manifest.json").write_text('{"made_by": "mscsa-deploy"}')
    outcome = cli("predict", bundle, picture, "-o", out)
    assert outcome.code == 2
    assert "--force" in outcome.err
    assert (out / "mine.txt").read_text() == "precious"
    assert cli("predict", bundle, picture, "-o", out, "--force").code == 0
    assert not (out / "mine.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(("--runtime", "onxruntime"), 2, "did you mean 'onnxruntime'?", id="unknown runtime"),
        pytest.param(("--precision", "fp31"), 2, "did you mean 'fp32'?", id="unknown precision"),
        pytest.param(("--precision", "int8"), 3, "the bundle holds no artefact in int8", id="precision not there"),
        pytest.param(("--runtime", "tensorrt"), 3, "no artefact for runtime 'tensorrt'", id="runtime not there"),
    ],
)
def test_what_the_bundle_cannot_serve(cli, bundle, picture, *, arguments, code, words):
    outcome = cli("predict", bundle, picture, *arguments)
    assert outcome.code == code
    assert words in outcome.err


def test_a_changed_bundle_is_refused(cli, bundle, picture):
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    outcome = cli("predict", bundle, picture)
    assert outcome.code == 2
    assert "sha256 differs" in outcome.err


def test_a_packed_bundle_answers_too(cli, bundle, picture, tmp_path):
    assert cli("pack", bundle, "-o", tmp_path / "colors.zip").code == 0
    assert cli("predict", tmp_path / "colors.zip", picture, "-q").code == 0


def test_neither_torch_nor_onnx_is_imported(bundle, picture, tmp_path):
    program = (
        "import sys\n"
        "from mscsa_deploy.cli import run\n"
        "code = run(sys.argv[1:])\n"
        "assert code == 0, code\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxsim', 'nncf', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    arguments = ["predict", str(bundle), str(picture), "-o", str(tmp_path / "out"), "-q"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
