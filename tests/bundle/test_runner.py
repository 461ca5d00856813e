"""The light runner: right answers from pictures, paths, bytes and tensors."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest
from PIL import ExifTags, Image

from mscsa_deploy.bundle.archive import pack
from mscsa_deploy.bundle.manifest import Postprocess, Tensor
from mscsa_deploy.bundle.store import Bundle, write_bundle
from mscsa_deploy.errors import SpecError, UserError
from mscsa_deploy.runner import load


def test_predict_segments_at_the_size_of_the_picture(bundle, tiny, runtime):
    image = tiny.scene(96, 160)
    with load(bundle.root, runtime=runtime) as runner:
        answer = runner.predict(image)
        assert runner.candidate.runtime == runtime
    assert answer.size == (96, 160)
    assert answer.class_map.shape == (96, 160)
    assert answer.class_map.dtype == np.uint8
    expected = image.argmax(axis=2)
    # borders move by up to a cell of the small logits: 8 of 64 columns of 160
    assert np.mean(answer.class_map == expected) > 0.95
    assert set(answer.parts_ms) == {"decode", "preprocess", "network", "postprocess"}
    assert all(value >= 0 for value in answer.parts_ms.values())


def test_predict_path_bytes_and_pixels_agree(bundle, tiny, tmp_path):
    image = tiny.scene()
    path = tmp_path / "scene.png"
    path.write_bytes(tiny.picture_bytes(image))
    with load(bundle, runtime="onnxruntime") as runner:
        maps = [runner.predict(given).class_map for given in (image, path, str(path), path.read_bytes())]
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "turned"])
def test_predict_takes_images_of_pillow_as_their_files(bundle, tiny, kind):
    image = Image.fromarray(tiny.scene())
    exif = image.getexif()
    if kind == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if kind == "turned":
        exif[ExifTags.Base.Orientation] = 6
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    with load(bundle, runtime="onnxruntime") as runner, Image.open(stream) as opened:
        wanted = runner.predict(stream.getvalue())
        given = runner.predict(opened)
        again = runner.predict(opened)
        with pytest.raises(UserError, match="the picture is not a readable picture"):
            runner.predict(Image.new("La", (4, 4)))
    assert given.size == ((160, 96) if kind == "turned" else (96, 160))
    for answer in (given, again):
        np.testing.assert_array_equal(answer.class_map, wanted.class_map)


def test_pixels_in_and_a_class_map_out_give_the_same_answer(bundle, tiny, tmp_path):
    from mscsa_deploy.graphs.check import read_model, to_bytes
    from mscsa_deploy.graphs.pixels import take_pixels
    from mscsa_deploy.graphs.tail.files import write_with_tail

    whole = tmp_path / "whole"
    whole.mkdir()
    manifest, path = bundle.manifest, whole / "model.onnx"
    write_with_tail(bundle.root / "model.onnx", "cells", path)
    model = read_model(path)
    take_pixels(model, manifest.preprocess.mean, manifest.preprocess.std)
    path.write_bytes(to_bytes(model))
    pixels = (Tensor(name="image", dtype="uint8", shape=(1, 64, 64, 3)),)
    classes = (Tensor(name="classmap", dtype="uint8", shape=(1, 64, 64)),)
    post = Postprocess.of("seg", "classmap", tensor="classmap")
    made = tiny.entry("model.onnx", runtimes=("onnxruntime", "openvino"))
    made = msgspec.structs.replace(made, inputs=pixels, outputs=classes, postprocess=post)
    write_bundle(whole, tiny.manifest_of([made]))

    with load(bundle.root) as runner:
        wanted = runner.predict(tiny.scene()).class_map
    for runtime in ("onnxruntime", "openvino"):
        with load(whole, runtime=runtime) as runner:
            np.testing.assert_array_equal(runner.predict(tiny.scene()).class_map, wanted)


def test_predict_classifies_with_labels_and_probabilities(tiny, tmp_path, runtime):
    bundle = tiny.make_bundle(tmp_path / "cls", task="cls")
    green = np.zeros((50, 70, 3), np.uint8)
    green[..., 1], green[..., 2] = 255, 51
    with load(bundle, runtime=runtime) as runner:
        answer = runner.predict(green)
        best = runner.predict(green, top=1)
    assert best.top == answer.top[:1]
    assert answer.class_map is None
    assert [ranked.label for ranked in answer.top] == ["green", "blue", "red"]
    weights = np.exp([1.0, 0.2, 0.0])
    np.testing.assert_allclose([ranked.probability for ranked in answer.top], weights / weights.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("output", "values", "shape"),
    [
        pytest.param("logits-full", np.float32, (1, 3, 64, 64), id="logits-full"),
        pytest.param("classmap", np.uint8, (1, 64, 64), id="classmap"),
        pytest.param("probs", np.float32, (1, 3, 64, 64), id="probs"),
    ],
)
def test_predict_understands_every_boundary(bundle, monkeypatch, output, values, shape):
    from mscsa_deploy.bundle.manifest import Postprocess
    from mscsa_deploy.runner import Runner

    post = Postprocess.of("seg", output, tensor="logits")
    changed = msgspec.structs.replace(bundle.manifest.artifacts[0], postprocess=post)
    manifest = msgspec.structs.replace(bundle.manifest, artifacts=(changed,))
    classes = np.zeros((64, 64), np.uint8)
    classes[:, 32:] = 2
    array = np.moveaxis(np.eye(3, dtype=values)[classes], 2, 0)[None] if len(shape) == 4 else classes[None]
    monkeypatch.setattr(Runner, "run", lambda *_: array)
    with load(Bundle(bundle.root, manifest), runtime="onnxruntime") as runner:
        answer = runner.predict(np.zeros((128, 32, 3), np.uint8))
    assert (answer.class_map[:, :16] == 0).all()
    assert (answer.class_map[:, 16:] == 2).all()


def test_load_zip_answers_the_same(bundle, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = pack(bundle.root, tmp_path / "bundle.zip")
    with load(path, runtime="onnxruntime") as zipped, load(bundle.root, runtime="onnxruntime") as plain:
        one, other = zipped.predict(tiny.scene()), plain.predict(tiny.scene())
    np.testing.assert_array_equal(one.class_map, other.class_map)


def test_run_golden_input_gives_golden_output(bundle, runtime):
    golden = bundle.manifest.golden
    with load(bundle, runtime=runtime) as runner:
        output = runner.run(np.load(bundle.file(golden.input)))
    # float32 sums of 64 values in another order
    np.testing.assert_allclose(output, np.load(bundle.file(golden.output)), rtol=1e-5, atol=1e-6)


def test_predict_unreadable_picture_refused(bundle):
    with load(bundle, runtime="onnxruntime") as runner:
        with pytest.raises(UserError, match="not a readable picture"):
            runner.predict(b"GIF89a but not really")
        with pytest.raises(SpecError, match="expected"):
            runner.predict(np.zeros((4, 4), np.uint8))
