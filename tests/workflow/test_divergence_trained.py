"""Faults planted in the trained INT8 model are found, though healthy tensors inside it are noisier than its output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mscsa_deploy.calibration.quantizer import quantize
from mscsa_deploy.calibration.recipe import read_recipe
from mscsa_deploy.calibration.samples import from_dataset
from mscsa_deploy.cli import run
from mscsa_deploy.imaging.preprocess import default_preprocess, preprocess
from mscsa_deploy.parity.noise import noisiest_node
from mscsa_deploy.parity.opened import Side
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.runtimes.protocol import SessionSettings
from mscsa_deploy.workflow.images import open_images

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHTS = Path(__file__).parents[2] / "export" / "weights" / "topformer_t_mscsa.seg.safetensors"
PREPROCESS = default_preprocess("seg", (128, 128))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The shipped model at 128x128 and its INT8 file."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSCSA_DEPLOY_CACHE", str(folder / "cache"))
        told = ("--task", "seg", "--checkpoint", str(WEIGHTS), "--size", "128x128", "-q")
        assert run(["export", "topformer_t_mscsa", *told, "-o", str(folder / "exported")]) == 0
        pictures = from_dataset(open_images("calibration", "seg"), PREPROCESS, input_name="image", dtype="float32")
    model = folder / "exported" / "model.onnx"
    quantize(model, pictures.take(8), read_recipe("int8_onnxruntime_portable"), folder / "int8.onnx")
    return model, folder / "int8.onnx"


def plant(source, path, node_name, *, factor=1.0, negated=0.0):
    """Write the INT8 file with the weights of one convolution scaled, or a share of them negated."""
    model = onnx.load(source)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.name == node_name)
    restored = next(each for each in model.graph.node if node.input[1] in each.output)
    weight, scale = (onnx.numpy_helper.to_array(stored[name]).copy() for name in restored.input[:2])
    some = int(weight.size * negated)
    weight.flat[:some] = -weight.flat[:some]
    for name, value in ((restored.input[0], weight), (restored.input[1], (scale * factor).astype(scale.dtype))):
        stored[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, path)
    return path


def run_file(path, feeds):
    with RUNTIMES.load("onnxruntime")().load(path, SessionSettings()) as session:
        names = [spec.name for spec in session.inputs]
        return [session.run({name: feed[name] for name in names}) for feed in feeds]


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        ("/backbone/tpm/layer3/conv/conv.0/c/Conv", {"negated": 0.5}),
        ("/backbone/tpm/layer9/conv/conv.0/c/Conv", {"negated": 0.5}),
        ("/backbone/tpm/layer8/conv/conv.2/c/Conv", {"negated": 0.125}),
        ("/backbone/SIM.1/local_embedding/conv/Conv", {"factor": 1.5}),
    ],
)
def test_a_fault_in_the_trained_model_is_named(trained, tmp_path, node, fault):
    model, int8 = trained
    wrong = plant(int8, tmp_path / "wrong.onnx", node, **fault)
    picture = preprocess(open_images("validation", "seg").load(0)[0], PREPROCESS)
    assert picture.dtype == np.float32
    found = noisiest_node(Side(model, run_file), Side(wrong, run_file), [{"image": picture}], work=tmp_path)
    assert found.node == node
    # Nothing else comes near.
    assert found.output_db < found.next_db - 5
