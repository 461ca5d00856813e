"""`deploy --output classmap`: a bundle of class maps alone, and every command that reads such a bundle."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.cli import run
from mscsa_deploy.imaging.classmap import resize_nearest
from mscsa_deploy.reporting.files import read_report
from mscsa_deploy.runner import load

SIZE = (64, 96)
RUNTIMES = ("onnxruntime", "openvino")
# The deployment is forty seconds of processor time, which a busy machine stretches.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def deployed(deploy_small):
    code, out = deploy_small("--output", "classmap")
    assert code == 0
    return out


@pytest.fixture(scope="module")
def manifest(deployed):
    return read_bundle(deployed).manifest


def npy(bundle, name):
    return np.load(bundle / "golden" / f"{name}.npy")


def test_every_model_file_ends_in_a_class_map(deployed, manifest):
    found = {(runtime, entry.precision) for entry in manifest.artifacts for runtime in entry.runtimes}
    assert found == {(runtime, precision) for runtime in RUNTIMES for precision in ("fp32", "int8")}
    for entry in manifest.artifacts:
        assert (entry.postprocess.output, entry.postprocess.decide) == ("classmap", "none")
        assert [(each.name, each.dtype, each.shape) for each in entry.outputs] == [("classmap", "uint8", (1, *SIZE))]
    models = {path.relative_to(deployed).as_posix() for path in deployed.rglob("model*")}
    assert models == {file for entry in manifest.artifacts for file in (entry.path, *entry.files)}
    assert manifest.recommended.artifact in {entry.path for entry in manifest.artifacts}


def test_report_names_files_of_the_bundle_and_says_what_core_leaves_out(deployed, manifest):
    rows = [row for row in read_report(deployed / "report.json").rows if row.status == "ok" and not row.plain_export]
    shipped = {entry.path for entry in manifest.artifacts}
    assert {row.boundary for row in rows if row.artifact in shipped} == {"core", "end_to_end"}
    notes = [row.details["notes"] for row in rows if row.artifact in shipped and row.boundary == "core"]
    assert notes
    assert all("before its tail" in note[-1] for note in notes)


def test_readme_asks_for_neither_upsampling_nor_argmax(deployed):
    text = (deployed / "README.md").read_text()
    assert "Tensor `classmap` holds the number of each pixel's class, (N, H, W)" in text
    assert "upsample" not in text
    assert "take the class" not in text
    assert "values within" not in text


def test_golden_pair_holds_a_class_map_that_every_file_gives(deployed, manifest):
    expected = npy(deployed, "answer")
    assert (expected.shape, expected.dtype) == (SIZE, np.uint8)
    np.testing.assert_array_equal(npy(deployed, "output"), expected[None])
    for entry in manifest.artifacts:
        limits = manifest.golden.tolerance[entry.precision]
        assert limits.max_abs_over_range is None
        with load(deployed, runtime=entry.runtimes[0], precision=entry.precision) as runner:
            assert runner.candidate.entry.path == entry.path
            answer = runner.run(npy(deployed, "input"))
        assert 100 * (answer[0] == expected).mean() >= limits.argmax_agreement


def test_what_is_recommended_is_what_runs(deployed, manifest):
    with load(deployed) as runner:
        assert runner.candidate.entry.path == manifest.recommended.artifact
        assert runner.candidate.runtime == manifest.recommended.runtime


def test_predict_writes_class_maps_of_the_size_of_the_picture(deployed, tmp_path):
    picture = deployed / "golden" / "picture.png"
    options = ["--classmap", "--runtime", "onnxruntime", "--precision", "fp32", "-q", "-o", str(tmp_path / "out")]
    assert run(["predict", str(deployed), str(picture), *options]) == 0
    with Image.open(tmp_path / "out" / "picture.classes.png") as image, Image.open(picture) as original:
        assert image.size == original.size
        found = np.asarray(image)
    # The golden answer was decided from logits, by other code.
    np.testing.assert_array_equal(found, resize_nearest(npy(deployed, "answer"), found.shape))


def test_inspect_shows_what_comes_out(deployed, capsys):
    assert run(["inspect", str(deployed), "--json"]) == 0
    artifacts = json.loads(capsys.readouterr().out)["artifacts"]
    assert {entry["postprocess"]["output"] for entry in artifacts} == {"classmap"}


def test_verify_judges_decisions(deployed, manifest, capsys):
    files = [str(deployed / each.path) for each in manifest.artifacts if each.precision == "fp32"]
    options = ["--runtime", "onnxruntime", "--images", "evaluation", "--max-images", "2", "--json", "-q"]
    assert run(["verify", str(deployed), *files, *options]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["passed"] is True
    assert len(outcome["rows"]) == len(files) == len(RUNTIMES)


def test_benchmark_measures_the_files_as_they_are(deployed, tmp_path):
    options = ["--preset", "smoke", "--no-peak", "--runtime", "onnxruntime", "-q", "-o", str(tmp_path / "bench")]
    assert run(["benchmark", str(deployed), *options]) == 0
    rows = read_report(tmp_path / "bench" / "report.json").rows
    assert {(row.precision, row.boundary) for row in rows} == {
        (precision, boundary) for precision in ("fp32", "int8") for boundary in ("core", "end_to_end")
    }
    assert {row.status for row in rows} == {"ok"}
    assert all(".classmap." in row.artifact for row in rows)


@pytest.mark.parametrize("kind", ["triton", "ovms", "kserve", "bundle"])
def test_pack_declares_class_maps(deployed, tmp_path, kind):
    assert run(["pack", str(deployed), "--format", kind, "-o", str(tmp_path / "out.zip"), "-q"]) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith((".pbtxt", ".md"))}
    if kind == "triton":
        configs = [text for name, text in texts.items() if name.endswith("config.pbtxt")]
        assert len(configs) == 1 + len(RUNTIMES)
        for text in configs:
            assert 'name: "classmap"\n  data_type: TYPE_UINT8' in text
            assert "logits" not in text
            assert "probabilities" not in text
    if kind == "ovms":
        assert "Output `classmap`" in texts["README.md"]


def test_serve_answers_with_class_maps_and_offers_no_values(deployed):
    pytest.importorskip("starlette")
    from mscsa_deploy.serving.application import Service
    from mscsa_deploy.serving.repository import Place
    from mscsa_deploy.serving.settings import Work

    repository = Service((Place.of(str(deployed)),), Work(workers=1)).open()
    try:
        model = repository.all()[0].pool.model
        names = {item.name for item in model.outputs}
        assert names == {"classmap", "class_map", "overlay"}
        prepared = model.prepare_picture((deployed / "golden" / "picture.png").read_bytes(), ["class_map"])
        raw = model.compute(prepared.tensor, prepared.runner)
        answer = model.answers(prepared, raw, ["class_map"])["class_map"]
    finally:
        repository.close()
    with Image.open(deployed / "golden" / "picture.png") as picture:
        assert answer.shape == (1, *reversed(picture.size))
    assert set(np.unique(answer)) == set(np.unique(raw))


def test_quantize_asks_for_a_network_without_a_tail(deployed, tmp_path, capsys):
    options = ["--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86", "-q", "-o", str(tmp_path / "out")]
    assert run(["quantize", str(deployed), *options]) == 2
    assert "no FP32 ONNX file to quantize" in capsys.readouterr().err
