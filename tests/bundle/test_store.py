"""Bundles are read only when every file is what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest

from mscsa_deploy import __version__
from mscsa_deploy.bundle.describe import readme, summary
from mscsa_deploy.bundle.integrity import check_name
from mscsa_deploy.bundle.manifest import Postprocess, json_schema, json_schema_text
from mscsa_deploy.bundle.store import Bundle, read_bundle
from mscsa_deploy.errors import UnsupportedError, UserError

SCHEMA = Path(__file__).parents[2] / "docs" / "bundle-manifest.schema.json"


def edit(bundle, change):
    path = bundle.root / "manifest.json"
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def test_read_bundle_gives_back_what_was_written(bundle):
    again = read_bundle(bundle.root)
    assert again.manifest == bundle.manifest
    assert read_bundle(bundle.root / "manifest.json").manifest == bundle.manifest
    roles = {entry.path: entry.role for entry in again.manifest.files}
    assert roles["model.onnx"] == "artifact"
    assert roles["golden/input.npy"] == "golden"
    assert roles["README.md"] == "document"
    assert "manifest.json" not in roles


def test_golden_arrays_are_plain_little_endian_files(bundle):
    golden = bundle.manifest.golden
    output = np.load(bundle.file(golden.output), allow_pickle=False)
    assert output.dtype.str == "<f4"
    assert output.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("name", ["model.onnx", "golden/output.npy", "README.md"])
def test_read_bundle_changed_file_refused(bundle, name):
    path = bundle.file(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=rf"'{name}'.*sha256 differs"):
        read_bundle(bundle.root)


def test_read_bundle_missing_file_refused(bundle):
    bundle.file("golden/input.npy").unlink()
    with pytest.raises(UserError, match=r"'golden/input\.npy' is missing"):
        read_bundle(bundle.root)


@pytest.mark.parametrize("place", ["../elsewhere.onnx", "inside.onnx"])
def test_read_bundle_file_replaced_by_link_refused(bundle, place):
    path = bundle.file("model.onnx")
    path.rename(bundle.root / place)
    path.symlink_to(bundle.root / place)
    with pytest.raises(UserError, match="is a link"):
        read_bundle(bundle.root)


def test_read_bundle_folder_replaced_by_link_refused(bundle, tmp_path):
    path = bundle.file("golden")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        read_bundle(bundle.root)


def test_read_bundle_newer_version_refused_before_anything_else(bundle):
    edit(bundle, lambda plain: plain.update(schema_version=2, unheard_of=True))
    with pytest.raises(
        UserError, match=r"schema version 2.*reads up to 1; install a newer mscsa-deploy, from its checkout"
    ):
        read_bundle(bundle.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda plain: plain.pop("schema_version"), "no schema_version", id="no version"),
        pytest.param(lambda plain: plain.update(schema_version=True), "no schema_version", id="version true"),
        pytest.param(
            lambda plain: plain.update(extra=1),
            "unknown field `extra`; the keys are in docs/bundle-manifest.schema.json in mscsa-deploy; or install a",
            id="unknown key",
        ),
        pytest.param(lambda plain: plain.update(task="det"), "task", id="unknown task"),
        pytest.param(lambda plain: plain["files"].append(plain["files"][0]), "lists a file twice", id="twice"),
        pytest.param(
            lambda plain: plain["artifacts"].append(plain["artifacts"][0]), "an artefact twice", id="artefact twice"
        ),
        pytest.param(
            lambda plain: plain["files"].__setitem__(0, {**plain["files"][0], "path": "../x"}), "unsafe", id="climbs"
        ),
        pytest.param(lambda plain: plain["artifacts"][0].update(path="/etc/passwd"), "unsafe file name", id="absolute"),
        pytest.param(
            lambda plain: plain["artifacts"][0].update(path="other.onnx"), "without a hash: other.onnx", id="unhashed"
        ),
    ],
)
def test_read_bundle_damaged_manifest_refused(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(UserError, match=message):
        read_bundle(bundle.root)


def artifact(**changes):
    """Change the first artefact of a manifest; a value may be a function of what stands there."""

    def change(plain):
        entry = plain["artifacts"][0]
        for name, value in changes.items():
            entry[name] = value(entry[name]) if callable(value) else value

    return change


def step(**changes):
    """Change what follows after the first artefact's network."""
    return artifact(postprocess=lambda post: {**post, **changes})


CLASS_MAP = {"output": "classmap", "upsample": "none", "decide": "none", "stride": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            artifact(postprocess=lambda post: {**post, "tensor": "other"}),
            "'model.onnx' answers with the output 'other', but its outputs are 'logits'",
            id="no such output",
        ),
        pytest.param(artifact(outputs=[]), "answers with the output 'logits', but its outputs are none", id="outputs"),
        pytest.param(artifact(inputs=[]), "'model.onnx' has no input", id="no input"),
        pytest.param(
            artifact(postprocess=lambda post: {**post, "decide": "none"}),
            "answers with logits for the task seg, which decide = 'argmax' goes with",
            id="logits as they are",
        ),
        pytest.param(
            artifact(postprocess=lambda post: {**post, "output": "classmap"}),
            "decide = 'none' goes",
            id="decided twice",
        ),
        pytest.param(
            artifact(postprocess=lambda post: {**post, **CLASS_MAP}),
            r"shape \[1, 3, 8, 8\], the task seg wants \(N, H, W\)",
            id="class map of four axes",
        ),
        pytest.param(lambda plain: plain.update(task="cls"), "decide = 'softmax' goes", id="another task"),
        pytest.param(
            artifact(outputs=lambda outputs: [{**outputs[0], "shape": [1, 3]}]),
            r"shape \[1, 3\], the task seg wants \(N, classes, H, W\)",
            id="segmentation of a classifier",
        ),
        pytest.param(lambda plain: plain["palette"].__setitem__(0, [0, 256, 0]), "palette is outside 0 to", id="color"),
        pytest.param(lambda plain: plain["palette"].__setitem__(0, [-1, 0, 0]), "palette is outside 0 to", id="dark"),
        pytest.param(
            lambda plain: plain["labels"].pop(),
            "'model.onnx' tells 3 classes apart, but there are 2 labels",
            id="few labels",
        ),
        pytest.param(lambda plain: plain.update(labels=[]), "has no labels, a segmentation bundle", id="no labels"),
        pytest.param(
            lambda plain: plain["preprocess"].update(height=32),
            r"its network takes an input of shape \[1, 3, 64, 64\], its preprocess makes \(N, 3, 32, 64\) of float32",
            id="height",
        ),
        pytest.param(
            artifact(inputs=lambda inputs: [{**inputs[0], "shape": [1, 3, 64, 32]}]),
            r"'model.onnx' takes an input of shape \[1, 3, 64, 32\], its preprocess makes \(N, 3, 64, 64\)",
            id="width of the artefact",
        ),
        pytest.param(
            artifact(inputs=lambda inputs: [{**inputs[0], "dtype": "uint8"}]),
            r"its preprocess makes \(N, 64, 64, 3\) of uint8",
            id="pixels",
        ),
        pytest.param(step(stride=0), r"Expected `int` >= 1 - at `\$.artifacts\[0\].postprocess.stride`", id="stride 0"),
        pytest.param(
            step(stride=4), "answers with 8x8 cells of 4 pixels, which is not its input of 64x64", id="stride 4"
        ),
        pytest.param(
            step(upsample="none"), "the task seg, which upsample = 'bilinear' goes with, not 'none'", id="small"
        ),
        pytest.param(step(restore="none"), "which restore = 'nearest' goes with, not 'none'", id="not restored"),
        pytest.param(
            step(output="logits-full", upsample="none"), "which stride = 1 goes with, not 8", id="stride at input size"
        ),
        pytest.param(
            step(output="logits-full", upsample="none", stride=1),
            "answers with 8x8 cells of 1 pixels, which is not its input",
            id="values at input size",
        ),
        pytest.param(
            lambda plain: [
                step(**CLASS_MAP)(plain),
                artifact(outputs=lambda outputs: [{**outputs[0], "dtype": "uint8", "shape": [1, 8, 8]}])(plain),
            ],
            "answers with 8x8 cells of 1 pixels, which is not its input",
            id="small class map",
        ),
        pytest.param(lambda plain: plain["palette"].pop(), "2 colors in its palette for 3 labels", id="few colors"),
        pytest.param(lambda plain: plain["labels"].append("\ud800"), r"not valid Unicode: '.ud800'", id="surrogate"),
        pytest.param(lambda plain: plain.update(task="\udfff"), "not valid Unicode", id="surrogate in a word"),
        pytest.param(
            lambda plain: plain["recommended"].update(artifact="README.md"),
            "recommends 'README.md', which is none of its artefacts",
            id="recommends no model",
        ),
        pytest.param(
            lambda plain: plain.update(schema_version=0), "schema version 0, expected at least 1", id="version 0"
        ),
        pytest.param(
            lambda plain: plain.update(schema_version=-7), "schema version -7, expected at least 1", id="version -7"
        ),
    ],
)
def test_read_bundle_manifest_that_contradicts_itself_refused(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(UserError, match=message):
        read_bundle(bundle.root)


def listing(*names):
    """List further files."""

    def change(plain):
        plain["files"] += [{**plain["files"][0], "path": name} for name in names]

    return change


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(("\ud800",), "not valid Unicode", id="surrogate"),
        pytest.param(("n" * 256,), "too long", id="long name"),
        pytest.param(("\u00e9" * 128,), "too long", id="long in bytes"),
        pytest.param(("/".join(["n" * 200] * 6),), "too long", id="long path"),
        pytest.param(("a\x7fb",), "unsafe file name", id="delete"),
        pytest.param(("a\x85b",), "unsafe file name", id="next line"),
        pytest.param(("a\u2028b",), "unsafe file name", id="line separator"),
        pytest.param(("gpj\u202eexe",), r"unsafe file name 'gpj.u202eexe'", id="right to left"),
        pytest.param(("a\u2066b",), "unsafe file name", id="isolate"),
        pytest.param(("\u00e9", "e\u0301"), "lists a file twice", id="one accent, two spellings"),
        pytest.param(("manifest.JSON",), "lists a file twice", id="the manifest"),
        pytest.param(("a", "a/b"), "'a' as a file and as a folder", id="file in a file"),
        pytest.param(("a/b/c", "A"), "'a' as a file and as a folder", id="another case"),
    ],
)
def test_read_bundle_name_that_is_no_file_everywhere_refused(bundle, names, message):
    edit(bundle, listing(*names))
    with pytest.raises(UserError, match=message):
        read_bundle(bundle.root)


def test_read_bundle_at_too_long_a_place_refused(bundle, tmp_path):
    name = "/".join(["n" * 200] * 4)
    deep = tmp_path / "/".join(["d" * 250] * 13)
    deep.mkdir(parents=True)
    edit(bundle, listing(name))
    (deep / "manifest.json").write_bytes((bundle.root / "manifest.json").read_bytes())
    for entry in bundle.manifest.files:
        (deep / entry.path).parent.mkdir(exist_ok=True)
        (deep / entry.path).write_bytes(bundle.file(entry.path).read_bytes())
    with pytest.raises(UserError, match=r"cannot read 'nnn.*too long"):
        read_bundle(deep)


def test_read_bundle_no_json_refused(bundle):
    (bundle.root / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_bundle(bundle.root)


def test_read_bundle_other_place_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        read_bundle(tmp_path)
    with pytest.raises(UserError, match="there is no bundle"):
        read_bundle(tmp_path / "nowhere")


def test_write_bundle_missing_artifact_refused(bundle):
    from mscsa_deploy.bundle.store import write_bundle

    bundle.file("model.onnx").unlink()
    with pytest.raises(UserError, match=r"names 'model\.onnx'"):
        write_bundle(bundle.root, bundle.manifest)


def test_write_bundle_link_refused(bundle):
    from mscsa_deploy.bundle.store import write_bundle

    (bundle.root / "link").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a link"):
        write_bundle(bundle.root, bundle.manifest)


def test_artifacts_for_other_runtime_lists_what_there_is(bundle):
    assert [entry.path for entry in bundle.artifacts_for("openvino")] == ["model.onnx"]
    with pytest.raises(UnsupportedError, match=r"model\.onnx \(fp32, for onnxruntime, openvino\)"):
        bundle.artifacts_for("tensorrt")
    empty = Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, artifacts=()))
    with pytest.raises(UnsupportedError, match="it holds: no model file at all"):
        empty.artifacts_for("onnxruntime")


def test_json_schema_is_the_committed_one():
    assert SCHEMA.read_text() == json_schema_text()


@pytest.mark.parametrize(
    ("task", "output", "expected"),
    [
        ("seg", "logits", ("bilinear", "argmax", "nearest", 8)),
        ("seg", "logits-full", ("none", "argmax", "nearest", 1)),
        ("seg", "classmap", ("none", "none", "nearest", 1)),
        ("seg", "probs", ("none", "argmax", "nearest", 1)),
        ("cls", "logits", ("none", "softmax", "none", 1)),
        ("cls", "probs", ("none", "none", "none", 1)),
    ],
)
def test_postprocess_follows_from_the_boundary(task, output, expected):
    post = Postprocess.of(task, output, tensor="y", stride=8 if (task, output) == ("seg", "logits") else 1)
    assert (post.upsample, post.decide, post.restore, post.stride) == expected


def test_readme_and_summary_tell_the_essentials(bundle):
    text = readme(bundle.manifest)
    assert text == bundle.file("README.md").read_text()
    for words in ("model.onnx", "bilinear", "1.00 ms", "CC0-1.0", "golden/picture.png", "onnxruntime"):
        assert words in text
    told = summary(bundle.manifest)
    assert told["artifacts"][0]["size_bytes"] == bundle.file("model.onnx").stat().st_size
    assert told["recommended"]["runtime"] == "onnxruntime"


def test_readme_says_where_the_package_comes_from_and_where_the_schema_is(bundle):
    text = readme(bundle.manifest)
    assert "pip install '.[onnxruntime]'  # in a checkout" in text
    assert f"mscsa_deploy-{__version__}-py3-none-any.whl[onnxruntime]" in text
    assert "on no package index" in text
    assert "pip install 'mscsa-deploy" not in text
    # The schema is named as it lies in a checkout.
    assert f"`{SCHEMA.relative_to(SCHEMA.parents[1])}`" in text


def test_readme_explains_every_kind_of_output_and_keeps_boundaries_apart(bundle, tiny):
    (logits,) = bundle.manifest.artifacts
    whole = msgspec.structs.replace(
        logits,
        path="model.classmap.onnx",
        postprocess=Postprocess.of("seg", "classmap", tensor="classmap"),
        measurements=(tiny.measurement("onnxruntime", 7.0, boundary="end_to_end"),),
    )
    text = readme(msgspec.structs.replace(bundle.manifest, artifacts=(logits, whole)))
    for words in (
        "`model.onnx`:",
        "`model.classmap.onnx`:",
        "Tensor `classmap` holds the number of each pixel's class",
    ):
        assert words in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `model")]
    assert [row[4:6] for row in rows if "openvino" in row[2]] == [["1.00 ms", ""]]
    assert [row[4:6] for row in rows if "classmap" in row[0]] == [["", "7.00 ms"]]
    for words in ("EXIF", "over white"):
        assert words in text
        assert words in json_schema_text()


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_manifest_fits_its_schema(tiny, tmp_path, task):
    text = (tiny.make_bundle(tmp_path / task, task=task).root / "manifest.json").read_text()
    jsonschema.validate(json.loads(text), json_schema())
    with pytest.raises(jsonschema.ValidationError, match="'logit' is not one of"):
        jsonschema.validate(json.loads(text.replace('"output": "logits"', '"output": "logit"')), json_schema())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda plain: plain.pop("schema_version"), "'schema_version' is a required", id="no version"),
        pytest.param(lambda plain: plain.update(schema_version=0), "1 was expected", id="version 0"),
        pytest.param(lambda plain: plain.update(schema_version=2), "1 was expected", id="version 2"),
        pytest.param(lambda plain: plain.pop("files"), "'files' is a required", id="no files"),
        pytest.param(lambda plain: plain.pop("palette"), "'palette' is a required", id="no palette"),
        pytest.param(lambda plain: plain["artifacts"][0].pop("requires"), "'requires' is a required", id="requires"),
        pytest.param(lambda plain: plain["files"][0].update(sha256="zz"), "'zz' does not match", id="hash"),
        pytest.param(lambda plain: plain["model"].update(sha256="A" * 64), "does not match", id="hash of weights"),
        pytest.param(lambda plain: plain["files"][0].update(size_bytes=-1), "less than the minimum of 0", id="size"),
        pytest.param(lambda plain: plain["palette"][1].__setitem__(2, 300), "than the maximum of 255", id="palette"),
        pytest.param(lambda plain: plain["preprocess"]["std"].__setitem__(0, 0), "less than or equal", id="std"),
        pytest.param(lambda plain: plain["preprocess"].update(width=0), "less than the minimum of 1", id="width"),
        pytest.param(step(stride=0), "less than the minimum of 1", id="stride"),
        pytest.param(lambda plain: plain["golden"].update(input="/x"), "does not match", id="golden"),
        pytest.param(lambda plain: plain["recommended"].update(artifact="a//b"), "does not match", id="recommended"),
        pytest.param(lambda plain: plain.update(model_card="../MODEL_CARD.md"), "does not match", id="model card"),
    ],
)
def test_schema_refuses_what_readers_refuse(bundle, change, message):
    plain = json.loads((bundle.root / "manifest.json").read_text())
    jsonschema.validate(plain, json_schema())
    change(plain)
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(plain, json_schema())


@pytest.mark.parametrize(
    "name",
    ["model.onnx", "a/b.c/d", ".hidden", "a b", "a..b", "é/ü.xml", "x", "", ".", "..", "a/..", "../x", "/x", "a//b",
     "a/", "a.", "a./b", " a", "a ", "a/ b", "a\\b", "c:x", "a\nb", "a\x7fb", "a\u2028b", "n" * 1025],
)  # fmt: skip
def test_schema_and_reader_judge_names_alike(name):
    validator = jsonschema.Draft202012Validator(json_schema()["$defs"]["FileEntry"]["properties"]["path"])
    fits = True
    try:
        check_name(name, source="it")
    except UserError:
        fits = False
    assert validator.is_valid(name) == fits


def test_schema_explains_every_field_by_itself():
    for name, definition in json_schema()["$defs"].items():
        assert "Args:" not in definition["description"]
        told = [field for field, given in definition["properties"].items() if "description" in given]
        # These two are the report's, and explained there.
        assert name in ("Latency", "Metric") or told == list(definition["properties"])
