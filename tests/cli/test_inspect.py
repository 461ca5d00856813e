"""`inspect`: what a bundle or an ONNX file says about itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import pytest

pytest.importorskip("onnx_ir")


def test_an_onnx_file_of_ours_tells_what_it_is(cli, make, tmp_path):
    path = make.network(tmp_path / "colors.onnx")
    document = cli("inspect", path, "--json").json
    assert (document["kind"], document["name"]) == ("onnx", "colors")
    assert document["says"]["task"] == "seg"
    assert document["says"]["labels"] == ["red", "green", "blue"]
    assert document["size_bytes"] == path.stat().st_size
    assert document["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 3, 64, 64]}]
    assert document["opsets"] == {"ai.onnx": 18}
    assert document["ops"] == {"Mul": 2, "AveragePool": 1, "Sub": 1, "Tanh": 1}
    assert document["nodes"] == 5
    assert document["parameters"] == 3
    assert document["quantized"] is False


def test_a_foreign_file_says_nothing_and_that_is_told(cli, make, tmp_path):
    path = make.network(tmp_path / "foreign.onnx", info=False)
    assert cli("inspect", path, "--json").json["says"] == {}
    text = cli("inspect", path).out
    assert "not said" in text
    assert "image float32 1x3x64x64" in text


def test_weights_in_a_file_beside_count_for_hash_and_size(cli, make, tmp_path):
    import onnx

    path = make.network(tmp_path / "colors.onnx")
    model = onnx.load(path)
    # Only what is stored as raw bytes can lie beside the file.
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, path, save_as_external_data=True, location="colors.data", size_threshold=0)
    data = tmp_path / "colors.data"
    first = cli("inspect", path, "--json").json
    assert first["size_bytes"] == path.stat().st_size + data.stat().st_size
    data.write_bytes(data.read_bytes()[::-1])
    assert cli("inspect", path, "--json").json["sha256"] != first["sha256"]


def test_a_quantized_file_is_recognized(cli, make, tmp_path):
    path = make.network(tmp_path / "int8.onnx", make.quantized, info=False)
    assert cli("inspect", path, "--json").json["quantized"] is True
    assert "int8" in cli("inspect", path).out


@pytest.mark.parametrize("packed", [False, True], ids=["directory", "zip"])
def test_a_bundle_tells_its_artifacts(cli, make, tmp_path, packed):
    place = make.bundle(tmp_path / "bundle")
    if packed:
        assert cli("pack", place, "-o", tmp_path / "b.zip").code == 0
        place = tmp_path / "b.zip"
    document = cli("inspect", place, "--json").json
    assert (document["kind"], document["name"], document["task"]) == ("bundle", "colors", "seg")
    (artifact,) = document["artifacts"]
    assert artifact["path"] == "model.onnx"
    assert 0 < artifact["size_bytes"] <= document["size_bytes"]
    text = cli("inspect", place).out
    assert "model.onnx on onnxruntime" in text
    assert "CC0-1.0" in text


def test_a_bundle_tells_what_its_files_require_and_which_are_for_phones(cli, make, tmp_path):
    place = make.bundle(tmp_path / "bundle")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["artifacts"][0] |= {"requires": ["vnni"], "mobile": {"path": "README.md", "operators": "README.md"}}
    (place / "manifest.json").write_text(json.dumps(manifest))
    text = cli("inspect", place).out
    assert "model.onnx is for vnni" in text
    assert "for phones" in text


def test_a_directory_that_export_left_is_its_model(cli, make, tmp_path):
    (tmp_path / "exported").mkdir()
    make.network(tmp_path / "exported" / "model.onnx")
    (tmp_path / "exported" / "manifest.json").write_text('{"schema": 1, "files": {}}')
    assert cli("inspect", tmp_path / "exported", "--json").json["kind"] == "onnx"


def test_a_changed_bundle_is_refused(cli, make, tmp_path):
    place = make.bundle(tmp_path / "bundle")
    (place / "README.md").write_text("other words")
    outcome = cli("inspect", place)
    assert outcome.code == 2
    assert "README.md" in outcome.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("nowhere", None, "there is nothing at", id="missing"),
        pytest.param("notes.txt", b"hello", "nothing that this tool reads", id="other file"),
        pytest.param("cut.onnx", b"\x08\x09garbage", "is not", id="truncated ONNX"),
        pytest.param("b.zip", b"PK garbage", "not a valid bundle zip", id="broken zip"),
    ],
)
def test_what_cannot_be_inspected(cli, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = cli("inspect", tmp_path / name)
    assert outcome.code == 2
    assert words in outcome.err


def test_a_light_install_says_what_reads_onnx_files(cli, make, tmp_path, monkeypatch):
    path = make.network(tmp_path / "colors.onnx")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx_ir" else real(name))
    outcome = cli("inspect", path)
    assert outcome.code == 3
    assert "pip install 'mscsa-deploy[export]'" in outcome.err
