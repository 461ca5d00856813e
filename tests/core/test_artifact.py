"""What a model file is known by."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mscsa_deploy.core.artifact import model_bytes, model_digest, weights_beside
from mscsa_deploy.core.files import sha256_file


def written(folder, *, location="net.data", beside=True):
    """A graph with one weight in a file beside it, or inside."""
    weight = numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph), str(path), save_as_external_data=beside, location=location, size_threshold=0)
    return path


# A name longer than 127 bytes has its length in two.
@pytest.mark.parametrize("location", ["net.data", f"{'n' * 200}.data"])
def test_weights_in_a_file_beside_belong_to_the_model(location, tmp_path):
    path = written(tmp_path, location=location)
    before, file_alone = model_digest(path), sha256_file(path)
    data = tmp_path / location
    data.write_bytes(data.read_bytes()[::-1])
    assert sha256_file(path) == file_alone
    assert model_digest(path) != before


def openvino(folder, name="net", weights=b"\x00\x01"):
    path = folder / f"{name}.xml"
    path.write_text("<net/>")
    path.with_suffix(".bin").write_bytes(weights)
    return path


def test_the_weights_of_an_openvino_file_belong_to_it(tmp_path):
    path = openvino(tmp_path)
    before, file_alone = model_digest(path), sha256_file(path)
    openvino(tmp_path, weights=b"\x01\x00")
    assert sha256_file(path) == file_alone
    assert model_digest(path) != before


def test_an_openvino_file_of_another_name_is_the_same_model(tmp_path):
    assert model_digest(openvino(tmp_path, "int8")) == model_digest(openvino(tmp_path, "model.int8"))


def test_length_is_that_of_all_files(tmp_path):
    path = written(tmp_path)
    assert weights_beside(path) == (tmp_path / "net.data",)
    assert model_bytes(path) == path.stat().st_size + 64 * 4
    assert model_bytes(openvino(tmp_path, "other")) == len("<net/>") + 2
    (tmp_path / "other.bin").unlink()
    assert model_bytes(tmp_path / "other.xml") == len("<net/>")


def test_a_model_in_one_file_is_known_by_that_file(tmp_path):
    path = written(tmp_path, beside=False)
    assert model_digest(path) == sha256_file(path)


def test_a_file_outside_the_directory_is_not_looked_at(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = written(folder, location="xxxc.data")
    (tmp_path / "c.data").write_bytes(b"secret")
    path.write_bytes(path.read_bytes().replace(b"xxxc.data", b"../c.data"))
    assert model_digest(path) == sha256_file(path)
