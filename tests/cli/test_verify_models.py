"""What `verify` compares: files, bundles and models of the zoo, of either task."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.imaging.preprocess import Preprocess

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

PREPROCESS = """
height = 64
width = 64
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
"""


def test_network_that_takes_pixels_agrees_with_the_one_that_takes_values(cli, make, images, reference, tmp_path):
    from mscsa_deploy.graphs.check import read_model, to_bytes
    from mscsa_deploy.graphs.pixels import take_pixels

    model = read_model(reference)
    take_pixels(model, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    candidate = tmp_path / "pixels.onnx"
    candidate.write_bytes(to_bytes(model))

    outcome = cli("verify", reference, candidate, "--images", images, "--json", "-q")

    assert outcome.code == 0
    assert {row["parity"]["argmax_agreement"] for row in outcome.json["rows"] if row["status"] == "ok"} == {100.0}


def test_a_bundle_is_verified_artifact_by_artifact(cli, make, images, reference, tmp_path):
    bundle = make.bundle(tmp_path / "bundle")
    document = cli("verify", reference, bundle, "--images", images, "--json", "-q").json
    assert [(row["artifact"], row["runtime"]) for row in document["rows"]] == [
        ("model.onnx", "onnxruntime"),
        ("model.onnx", "openvino"),
    ]
    assert cli("verify", bundle, reference, "--images", images, "-q").code == 0


def test_an_openvino_file_takes_part(cli, make, images, reference, tmp_path):
    import openvino

    openvino.save_model(openvino.convert_model(reference), tmp_path / "model.xml", compress_to_fp16=False)
    document = cli("verify", reference, tmp_path / "model.xml", "--images", images, "--json", "-q").json
    (row,) = document["rows"]
    assert (row["runtime"], row["status"]) == ("openvino", "ok")
    assert row["size_bytes"] > (tmp_path / "model.xml").stat().st_size


def test_a_file_that_requires_what_this_processor_lacks_is_warned_of_once(cli, make, bare, reference, tmp_path):
    import onnx
    import openvino

    key = "mscsa_deploy_int8.requires"
    graph, model = openvino.convert_model(reference), onnx.load(reference)
    openvino.save_model(graph, tmp_path / "plain.xml", compress_to_fp16=False)
    graph.set_rt_info("no_such_set,nor_this", ["mscsa_deploy", key])
    openvino.save_model(graph, tmp_path / "one.xml", compress_to_fp16=False)
    model.metadata_props.add(key=key, value="no_such_set")
    onnx.save(model, tmp_path / "two.onnx")
    files = [tmp_path / name for name in ("plain.xml", "one.xml", "two.onnx")]
    told = cli("verify", reference, *files, "--images", bare, "--json").err
    assert [line for line in told.splitlines() if "this processor lacks" in line] == [
        "WARNING: 'one.xml' requires no_such_set, nor_this, which this processor lacks: it may be slow or inexact",
        "WARNING: 'two.onnx' requires no_such_set, which this processor lacks: it may be slow or inexact",
    ]


def test_a_bundles_file_is_warned_of_as_a_bare_one_is(cli, make, bare, reference, tmp_path):
    bundle = make.bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["artifacts"][0]["requires"] = ["no_such_set"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    told = cli("verify", reference, bundle, "--images", bare, "--json").err
    assert told.count("'model.onnx' requires no_such_set, which this processor lacks") == 1


def test_files_of_one_name_are_told_apart(cli, make, images, reference, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make.network(tmp_path / folder / "model.onnx", GAIN=2.0 if folder == "a" else 2.5)
    outcome = cli(
        "verify", reference, tmp_path / "a" / "model.onnx", tmp_path / "b" / "model.onnx", "--images", images,
        "--runtime", "onnxruntime", "--json", "-q",
    )  # fmt: skip
    assert outcome.code == 5
    assert [gate["passed"] for gate in outcome.json["gates"]] == [True, False]


def test_a_candidate_of_the_references_name_is_told_apart_from_it(cli, make, images, tmp_path):
    from mscsa_deploy.graphs.metadata import ModelInfo, write_info

    files = [tmp_path / folder / "model.onnx" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        make.network(file)
    rows = cli("verify", *files, "--images", images, "--runtime", "onnxruntime", "--json", "-q").json
    assert [rows["reference"]["artifact"], rows["rows"][0]["artifact"]] == [str(file) for file in files]
    spec = to_plain(Preprocess(height=64, width=64, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)))
    write_info(files[1], ModelInfo(name="colors", task="seg", preprocess=spec))
    outcome = cli("verify", *files, "--images", images, "--json", "-q")
    assert outcome.code == 2
    said = outcome.json["error"]["message"]
    assert said.startswith(f"'{files[1]}' wants another preprocessing than '{files[0]}': ")


def test_classification_has_top_1(cli, make, tmp_path):
    for label in ("red", "green"):
        (tmp_path / "set" / label).mkdir(parents=True)
        make.picture(tmp_path / "set" / label / f"{label}.png")
    net = make.network(tmp_path / "net.onnx", make.classifier, task="cls")
    document = cli("verify", net, net, "--images", tmp_path / "set", "--runtime", "onnxruntime", "--json", "-q").json
    assert document["rows"][0]["metric"]["name"] == "top-1"
    assert document["task"] == "cls"


@pytest.fixture
def foreign(cli, make, tmp_path):
    """Verify an ONNX text that says nothing about itself against itself on images."""
    (tmp_path / "pre.toml").write_text(PREPROCESS)

    def verify(text, task, place):
        net = make.network(tmp_path / "net.onnx", text, info=False)
        told = ("--task", task, "--preprocess", tmp_path / "pre.toml", "--runtime", "onnxruntime")
        return cli("verify", net, net, "--images", place, *told, "--json", "-q")

    return verify


def test_classes_that_only_the_answer_tells_are_counted(foreign, make, tmp_path):
    text = make.classifier.replace("[1, 3] logits)", "[1, n] logits) <bool[3] all = {1, 1, 1}>")
    text = text.replace("logits = Flatten(pooled)", "flat = Flatten(pooled) logits = Compress <axis = 1> (flat, all)")
    for label in ("red", "green", "yellow"):
        (tmp_path / "set" / label).mkdir(parents=True)
        make.picture(tmp_path / "set" / label / f"{label}.png")
    outcome = foreign(text, "cls", tmp_path / "set")
    assert (outcome.code, outcome.json["rows"][0]["metric"]["name"]) == (0, "top-1")
    (tmp_path / "set" / "yellow" / "yellow.png").unlink()
    refused = foreign(text, "cls", tmp_path / "set")
    assert (refused.code, "names 2 classes ('green', 'red'), the model has 3 " in refused.err) == (2, True)


def test_a_class_map_without_labels_is_scored_whatever_numbers_it_holds(foreign, make, images):
    text = make.segmenter.replace("float[1, 3, 8, 8] logits)", "int64[1, 8, 8] map)")
    text = text.replace("float[1] gain", "int64[1] far = {150}, float[1] gain")
    text = text.replace(
        "    shifted = ", "    best = ArgMax <axis = 1, keepdims = 0> (bent) map = Mul (best, far)\n    shifted = "
    )
    for file in (images / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(file)).astype(np.uint16) * 150).save(file)
    outcome = foreign(text, "seg", images)
    assert outcome.code == 0
    assert outcome.json["rows"][0]["metric"]["value"] > 80.0


def test_a_foreign_file_needs_task_and_preprocessing(cli, make, images, tmp_path):
    foreign = make.network(tmp_path / "foreign.onnx", info=False)
    arguments = ["verify", foreign, foreign, "--images", images, "--runtime", "onnxruntime", "-q"]
    outcome = cli(*arguments)
    assert (outcome.code, "--task cls or --task seg" in outcome.err) == (2, True)
    outcome = cli(*arguments, "--task", "seg")
    assert (outcome.code, "--preprocess FILE" in outcome.err) == (2, True)
    (tmp_path / "pre.toml").write_text(PREPROCESS)
    assert cli(*arguments, "--task", "seg", "--preprocess", tmp_path / "pre.toml").code == 0


def test_models_that_see_different_inputs_are_not_compared(cli, make, images, reference, tmp_path):
    from mscsa_deploy.graphs.metadata import ModelInfo, write_info

    other = make.network(tmp_path / "other.onnx")
    spec = to_plain(Preprocess(height=64, width=64, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)))
    write_info(other, ModelInfo(name="colors", task="seg", preprocess=spec))
    outcome = cli("verify", reference, other, "--images", images)
    assert outcome.code == 2
    assert "wants another preprocessing than 'reference.onnx': mean" in outcome.err


def test_models_of_the_zoo_and_pytorch_files_take_part(cli, bare, tmp_path):
    pytest.importorskip("torch")
    from mscsa_deploy.workflow.prepare import ModelRequest, prepare

    model = {"model": "topformer_t", "task": "seg", "num_classes": 3, "size": (64, 64)}
    prepare(ModelRequest(**model, random_weights=4)).save(tmp_path / "seed4.safetensors")
    zoo = ("--task", "seg", "--random-weights", "3", "--num-classes", "3", "--size", "64", "--images", bare)
    outcome = cli(
        "verify", "topformer_t", tmp_path / "seed4.safetensors", *zoo, "--bisect", "--json", "-q"
    )  # fmt: skip
    assert outcome.code == 5
    document = outcome.json
    assert document["reference"]["runtime"] == "pytorch"
    (row,) = document["rows"]
    assert (row["runtime"], row["status"]) == ("pytorch", "ok")
    assert [gate["passed"] for gate in document["gates"]] == [False]
    assert "only ONNX files can be opened up" in document["divergences"][0]["reason"]


def test_a_checkpoint_without_a_model_header_is_refused(cli, bare, reference, tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    outcome = cli("verify", reference, tmp_path / "w.safetensors", "--images", bare)
    assert outcome.code == 2
    assert "--checkpoint" in outcome.err
