"""The command line in this process, and small things to give it: pictures, ONNX files, bundles.

The network tells the strongest color: its logits are the mean of each color channel over 8x8 pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.bundle.manifest import ArtifactEntry, BundleModel, Choice, Manifest, Postprocess, Tensor
from mscsa_deploy.bundle.store import write_bundle
from mscsa_deploy.cli import run
from mscsa_deploy.core.config import to_plain
from mscsa_deploy.imaging.preprocess import Preprocess

SIZE, STRIDE = 64, 8
LABELS = ("red", "green", "blue")
PREPROCESS = Preprocess(height=SIZE, width=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

SEGMENTER = """
<ir_version: 9, opset_import: ["" : 18]>
colors (float[1, 3, 64, 64] image) => (float[1, 3, 8, 8] logits)
<float[1] gain = {GAIN}, float[1] two = {2.0}, float[1] one = {1.0}>
{
    pooled = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (image)
    bent = Tanh(pooled)
    scaled = Mul(bent, gain)
    shifted = Sub(scaled, one)
    logits = Mul(shifted, two)
}
"""

# The same with 8-bit values; RANGE is what the values of `bent` are believed to reach.
QUANTIZED = """
<ir_version: 9, opset_import: ["" : 18]>
colors (float[1, 3, 64, 64] image) => (float[1, 3, 8, 8] logits)
<float[1] gain = {2.0}, float[1] two = {2.0}, float[1] one = {1.0},
 float step = {STEP}, uint8 zero = {0}, float step2 = {0.0157}, uint8 middle = {128}>
{
    pooled = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (image)
    bent = Tanh(pooled)
    bent_q = QuantizeLinear(bent, step, zero)
    bent_dq = DequantizeLinear(bent_q, step, zero)
    scaled = Mul(bent_dq, gain)
    shifted = Sub(scaled, one)
    shifted_q = QuantizeLinear(shifted, step2, middle)
    shifted_dq = DequantizeLinear(shifted_q, step2, middle)
    logits = Mul(shifted_dq, two)
}
"""

CLASSIFIER = """
<ir_version: 9, opset_import: ["" : 18]>
colors (float[1, 3, 64, 64] image) => (float[1, 3] logits)
{
    pooled = AveragePool <kernel_shape = [64, 64], strides = [64, 64]> (image)
    logits = Flatten(pooled)
}
"""


@dataclass(frozen=True)
class Outcome:
    """How one call of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one document on stdout; fails if there is anything else."""
        return json.loads(self.out)


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Call the command line; returns an `Outcome`. The cache is this test's own."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def scene(height=96, width=160, *, seed=0):
    """Left third red, middle green, right blue, with some noise; and its mask."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for channel, part in enumerate(np.array_split(np.arange(width), 3)):
        image[:, part, channel] += 150
        mask[:, part] = channel
    return image, mask


def picture(path, **more):
    Image.fromarray(scene(**more)[0]).save(path)
    return path


def image_set(folder, count=3, *, masks=True):
    (folder / "images").mkdir(parents=True)
    if masks:
        (folder / "masks").mkdir()
    for index in range(count):
        image, mask = scene(seed=index)
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        if masks:
            Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    return folder if masks else folder / "images"


def network(path, text=SEGMENTER, *, task="seg", info=True, **values):
    """Write the ONNX text as a file; with `info` it says what it is."""
    import onnx

    from mscsa_deploy.graphs.metadata import ModelInfo, write_info

    for name, value in {"GAIN": 2.0, "STEP": 0.004, **values}.items():
        text = text.replace(name, str(value))
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.checker.check_model(model)
    onnx.save(model, path)
    if info:
        stride = STRIDE if task == "seg" else 0
        write_info(
            path,
            ModelInfo(name="colors", task=task, stride=stride, preprocess=to_plain(PREPROCESS), labels=LABELS),
        )
    return path


def bundle(directory, *, task="seg", runtimes=("onnxruntime", "openvino")):
    directory.mkdir(parents=True)
    network(directory / "model.onnx", SEGMENTER if task == "seg" else CLASSIFIER, task=task)
    image = Tensor(name="image", dtype="float32", shape=(1, 3, SIZE, SIZE))
    shape = (1, 3, SIZE // STRIDE, SIZE // STRIDE) if task == "seg" else (1, 3)
    artifact = ArtifactEntry(
        path="model.onnx",
        kind="onnx",
        precision="fp32",
        runtimes=runtimes,
        inputs=(image,),
        outputs=(Tensor(name="logits", dtype="float32", shape=shape),),
        postprocess=Postprocess.of(task, "logits", tensor="logits", stride=STRIDE if task == "seg" else 1),
    )
    manifest = Manifest(
        model=BundleModel(name="colors"),
        task=task,
        labels=LABELS,
        palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)) if task == "seg" else (),
        input=image,
        preprocess=PREPROCESS,
        artifacts=(artifact,),
        recommended=Choice(artifact="model.onnx", runtime=runtimes[0], precision="fp32"),
        license="CC0-1.0",
    )
    write_bundle(directory, manifest)
    return directory


@pytest.fixture
def make():
    """Makers of small things."""
    return SimpleNamespace(
        scene=scene,
        picture=picture,
        image_set=image_set,
        network=network,
        bundle=bundle,
        quantized=QUANTIZED,
        classifier=CLASSIFIER,
        segmenter=SEGMENTER,
    )


@pytest.fixture
def images(make, tmp_path):
    return make.image_set(tmp_path / "set")


@pytest.fixture
def bare(make, tmp_path):
    return make.image_set(tmp_path / "bare", masks=False)


@pytest.fixture
def reference(make, tmp_path):
    return make.network(tmp_path / "reference.onnx")
