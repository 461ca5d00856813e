"""What `pack` writes for serving engines: complete, consistent with the bundle, the same bytes every time."""

from __future__ import annotations

import json
import zipfile

import msgspec
import numpy as np
import pytest

from mscsa_deploy.bundle import kserve, ovms, triton
from mscsa_deploy.errors import UnsupportedError, UserError

FORMATS = {"triton": triton.pack, "kserve": kserve.pack, "ovms": ovms.pack}


def names(path):
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def read(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


@pytest.mark.parametrize("kind", FORMATS)
def test_same_bundle_gives_same_bytes_and_nothing_is_replaced_unasked(bundle, tmp_path, kind):
    one, two = (FORMATS[kind](bundle.root, tmp_path / name) for name in ("one.zip", "two.zip"))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(UserError, match="already exists"):
        FORMATS[kind](bundle.root, one)
    FORMATS[kind](bundle.root, one, force=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_bundle_is_refused(bundle, tmp_path, kind):
    bundle.file("model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="sha256 differs"):
        FORMATS[kind](bundle.root, tmp_path / "x.zip")


def test_triton_repository_is_complete(bundle, tmp_path):
    path = triton.pack(bundle.root, tmp_path / "x.zip")
    found = names(path)
    for model in ("colors", "colors_onnxruntime", "colors_openvino"):
        assert {f"{model}/config.pbtxt", f"{model}/warmup/image"} <= found
        assert f'name: "{model}"' in read(path, f"{model}/config.pbtxt").decode()
    assert {f"colors/1/bundle/{entry.path}" for entry in bundle.manifest.files} < found
    assert read(path, "colors_onnxruntime/1/model.onnx") == bundle.file("model.onnx").read_bytes()
    compile(read(path, "colors/1/model.py"), "model.py", "exec")
    warmup = np.frombuffer(read(path, "colors_openvino/warmup/image"), "<f4")
    np.testing.assert_array_equal(warmup, np.load(bundle.file("golden/input.npy")).ravel())


def test_triton_fixed_batch_is_not_batched_and_free_batch_is(bundle, tiny, tmp_path):
    fixed = triton.repository(bundle)["colors_onnxruntime/config.pbtxt"].decode()
    assert "max_batch_size: 0" in fixed
    assert "dynamic_batching" not in fixed
    entry = bundle.manifest.artifacts[0]
    tensors = [
        [type(item)(name=item.name, dtype=item.dtype, shape=(-1, *item.shape[1:])) for item in items]
        for items in (entry.inputs, entry.outputs)
    ]
    free = msgspec.structs.replace(entry, inputs=tuple(tensors[0]), outputs=tuple(tensors[1]))
    manifest = msgspec.structs.replace(bundle.manifest, artifacts=(free,))
    text = triton.repository(type(bundle)(bundle.root, manifest))["colors_onnxruntime/config.pbtxt"].decode()
    assert "max_batch_size: 8" in text
    assert "max_queue_delay_microseconds: 2000" in text
    assert text.count("dims: 64") == 4  # height and width, of the input and of the warm-up, without the batch


def test_triton_classification_has_labels_and_no_overlay(tiny, tmp_path):
    bundle = tiny.make_bundle(tmp_path / "cls", task="cls")
    text = triton.repository(bundle)["colors/config.pbtxt"].decode()
    assert 'name: "label"' in text
    assert "overlay" not in text


def test_text_format_escapes_and_nests():
    text = triton.text_format({"name": 'a"b\n', "on": True, "of": triton.Word("KIND_CPU"), "inner": {"x": [1, 2]}})
    assert text == 'name: "a\\"b\\n"\non: true\nof: KIND_CPU\ninner {\n  x: 1\n  x: 2\n}\n'


def test_nothing_for_the_engine_is_told(tiny, tmp_path):
    from mscsa_deploy.bundle.store import write_bundle

    directory = tmp_path / "b"
    directory.mkdir()
    (directory / "model.engine").write_bytes(b"x")
    entry = tiny.entry("model.engine", runtimes=("tensorrt",), kind="engine")
    write_bundle(directory, tiny.manifest_of([entry]))
    for kind, pack in FORMATS.items():
        with pytest.raises(UnsupportedError, match="no artefact"):
            pack(directory, tmp_path / f"{kind}.zip")


def test_triton_readme_says_where_the_package_comes_from(bundle, tmp_path):
    text = read(triton.pack(bundle.root, tmp_path / "x.zip"), "README.md").decode()
    assert "pip install '.[onnxruntime,openvino]'  # in a checkout" in text
    assert "on no package index" in text


@pytest.mark.parametrize("kind", FORMATS)
def test_readme_says_which_file_it_is_and_what_that_requires(tiny, tmp_path, kind):
    from mscsa_deploy.bundle.store import write_bundle

    made = tiny.make_bundle(tmp_path / "b")
    made.file("README.md").unlink()
    (entry,) = made.manifest.artifacts
    entry = msgspec.structs.replace(entry, requires=("avx512_vnni",))
    write_bundle(made.root, msgspec.structs.replace(made.manifest, artifacts=(entry,), files=()))
    text = read(FORMATS[kind](made.root, tmp_path / "x.zip"), "README.md").decode()
    assert "`model.onnx` of the bundle, in fp32; it requires avx512_vnni, and is slower" in text


def test_ovms_configuration_names_the_model_and_its_place(bundle, tmp_path):
    path = ovms.pack(bundle.root, tmp_path / "x.zip")
    assert names(path) == {"config.json", "README.md", "colors/1/model.onnx"}
    (entry,) = json.loads(read(path, "config.json"))["model_config_list"]
    assert entry["config"]["base_path"] == "/models/colors"
    assert entry["config"]["plugin_config"]["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.fixture
def measured(tiny, tmp_path):
    """Makes a bundle of one artefact that was measured on OpenVINO in a precision, an INT8 one also of its rest."""
    from mscsa_deploy.bundle.store import write_bundle

    def make(precision, rest=None):
        made = tiny.make_bundle(tmp_path / "b")
        made.file("README.md").unlink()
        options = {} if rest is None else {"float_precision": rest}
        record = tiny.measurement("openvino", 1.0, precision=precision, options=options)
        (entry,) = made.manifest.artifacts
        stored = "fp32" if precision == "bf16" else precision
        entry = msgspec.structs.replace(entry, precision=stored, measurements=(record,))
        return write_bundle(made.root, msgspec.structs.replace(made.manifest, artifacts=(entry,), files=())).root

    return make


MEASURED = [
    ("fp32", None, "f32", "in fp32"),
    ("bf16", None, "bf16", "in bf16"),
    ("int8", None, "f32", "in int8 with the rest in fp32"),
    ("int8", "bf16", "bf16", "in int8 with the rest in bf16"),
]


@pytest.mark.parametrize("case", MEASURED)
def test_ovms_computes_in_what_was_measured(measured, tmp_path, case):
    precision, rest, hint, said = case
    path = ovms.pack(measured(precision, rest), tmp_path / "x.zip")
    (entry,) = json.loads(read(path, "config.json"))["model_config_list"]
    assert entry["config"]["plugin_config"]["INFERENCE_PRECISION_HINT"] == hint
    text = read(path, "README.md").decode()
    assert f"`model.onnx` of the bundle, {said}.\n" in text
    assert f"floating point to {'bf16' if hint == 'bf16' else 'fp32'}, as it was measured." in text


def test_ovms_refuses_a_precision_that_is_none(measured, tmp_path):
    with pytest.raises(UserError, match="said to compute in 'fp7'"):
        ovms.pack(measured("int8", "fp7"), tmp_path / "x.zip")


@pytest.mark.parametrize("case", MEASURED)
@pytest.mark.parametrize("kind", ["triton", "kserve"])
def test_triton_is_told_bf16_and_its_readme_where_precision_is_not_held(measured, tmp_path, kind, case):
    precision, rest, hint, said = case
    path = FORMATS[kind](measured(precision, rest), tmp_path / "x.zip")
    root = {"triton": "", "kserve": "model-repository/"}[kind]
    config = read(path, f"{root}colors_openvino/config.pbtxt").decode()
    told = 'key: "HINT_BF16"\n  value {\n    string_value: "YES"\n' in config
    assert told == (hint == "bf16")
    line = next(
        line for line in read(path, "README.md").decode().splitlines() if line.startswith("- `colors_openvino`")
    )
    assert f"`model.onnx` of the bundle, {said}" in line
    assert ("cannot be held to that" in line) == (hint != "bf16")
    assert "HINT_BF16" not in read(path, f"{root}colors_onnxruntime/config.pbtxt").decode()


def test_kserve_manifest_is_an_inference_service(bundle, tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    path = kserve.pack(bundle.root, tmp_path / "x.zip")
    service = yaml.safe_load(read(path, "inference-service.yaml"))
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service["metadata"]["name"] == "colors"
    model = service["spec"]["predictor"]["model"]
    assert (model["protocolVersion"], model["runtime"]) == ("v2", "kserve-tritonserver")
    assert model["storageUri"] == "pvc://models/colors/model-repository"
    assert "model-repository/colors_openvino/config.pbtxt" in names(path)
    assert not any(name.startswith("model-repository/colors/") for name in names(path))


def test_kserve_counts_a_runtime_that_an_artefact_was_only_measured_on(tiny, tmp_path):
    from mscsa_deploy.bundle.store import write_bundle

    directory = tmp_path / "b"
    directory.mkdir()
    (directory / "model.engine").write_bytes(b"x")
    measured = tiny.measurement("openvino", 1.0, threads=3)
    entry = tiny.entry("model.engine", runtimes=("tensorrt",), kind="engine", measurements=(measured,))
    text = kserve.manifest_text(write_bundle(directory, tiny.manifest_of([entry])))
    assert 'cpu: "6"' in text


@pytest.mark.parametrize(("dtype", "name"), [("int64", "TYPE_INT64"), ("float16", "TYPE_FP16"), ("bool", "TYPE_BOOL")])
def test_triton_knows_every_dtype_of_an_output(bundle, dtype, name):
    entry = bundle.manifest.artifacts[0]
    (output,) = entry.outputs
    changed = msgspec.structs.replace(entry, outputs=(msgspec.structs.replace(output, dtype=dtype),))
    manifest = msgspec.structs.replace(bundle.manifest, artifacts=(changed,))
    text = triton.repository(type(bundle)(bundle.root, manifest))["colors_onnxruntime/config.pbtxt"].decode()
    assert f"data_type: {name}\n" in text
