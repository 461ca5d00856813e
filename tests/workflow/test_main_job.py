"""The main job on a small input size: every stage for real, with timing that only shows that it runs."""

import contextlib
import json
import re
import tempfile
import tomllib
from pathlib import Path

import jsonschema
import pytest

from mscsa_deploy.bundle.manifest import json_schema
from mscsa_deploy.calibration.budget import Budget
from mscsa_deploy.cli import run
from mscsa_deploy.core.files import sha256_file
from mscsa_deploy.reporting.files import read_report
from mscsa_deploy.workflow import sensitivity


@pytest.fixture(scope="module")
def deployed(deploy_small):
    """A deployment for ONNX Runtime and OpenVINO; (exit code, bundle)."""
    return deploy_small("--mobile")


def test_deploy_finishes_and_every_required_gate_passes(deployed):
    code, out = deployed
    report = read_report(out / "report.json")
    assert code == 0
    assert report.verdict is not None
    assert report.verdict.passed
    assert [stage.name for stage in report.stages][:3] == ["plan", "checkpoint", "images"]
    assert all(stage.status == "ok" for stage in report.stages)


def test_deploy_writes_a_manifest_that_fits_its_schema(deployed):
    jsonschema.validate(json.loads((deployed[1] / "manifest.json").read_text()), json_schema())


def test_no_text_of_a_bundle_says_where_it_was_made(deployed, small_cache):
    out, texts = deployed[1], {}
    for path in (path for path in out.rglob("*") if path.is_file()):
        with contextlib.suppress(UnicodeDecodeError):
            # The command in the report names the bundle's own place, which whoever asked for it chose; in the pixels of
            # pictures any short word may stand.
            text = path.read_text(encoding="utf-8").replace(str(out), "")
            texts[path.relative_to(out).as_posix()] = re.sub(r"base64,[\w+/=]+", "", text)
    assert {"report.html", "manifest.json", "mobile/model.required_operators_and_types.config"} <= set(texts)
    for name, text in texts.items():
        for place in (small_cache, Path.home(), tempfile.gettempdir()):
            assert f"{place}/" not in text, name


def test_deploy_reports_each_artifact_at_both_boundaries(deployed):
    report = read_report(deployed[1] / "report.json")
    measured = {(row.runtime, row.precision, row.boundary) for row in report.rows if row.status == "ok"}
    for runtime in ("onnxruntime", "openvino"):
        for precision in ("fp32", "int8"):
            assert {(runtime, precision, "core"), (runtime, precision, "end_to_end")} <= measured


def test_deploy_measures_tails_and_says_which_one_each_runtime_gets(deployed):
    out = deployed[1]
    report = read_report(out / "report.json")
    (stage,) = [stage for stage in report.stages if stage.name == "tails"]
    assert "onnxruntime: " in stage.detail
    assert "openvino: " in stage.detail
    manifest = json.loads((out / "manifest.json").read_text())
    for entry in manifest["artifacts"]:
        whole = entry["path"].endswith((".classmap.onnx", ".classmap.xml"))
        assert entry["postprocess"]["output"] == ("classmap" if whole else "logits")
        assert {each["boundary"] for each in entry["measurements"]} <= (
            {"end_to_end"} if whole else {"core", "end_to_end"}
        )


def test_deploy_pins_fp32_and_reads_it_back(deployed):
    rows = read_report(deployed[1] / "report.json").rows
    fp32 = [row for row in rows if row.precision == "fp32" and row.status == "ok"]
    assert {row.executed_precision for row in fp32} == {"fp32"}
    int8 = [row for row in rows if row.precision == "int8" and row.status == "ok"]
    assert all("int8" in row.executed_precision for row in int8)


def test_deploy_compares_int8_with_fp32_of_the_same_images(deployed):
    rows = read_report(deployed[1] / "report.json").rows
    for row in rows:
        if row.status == "ok" and row.precision == "int8":
            assert row.metric is not None
            assert row.metric.images == 4
            assert row.metric.drop == pytest.approx(row.metric.reference - row.metric.value)
            assert row.parity is not None


def test_fp32_rows_agree_with_the_first_reference(deployed):
    # Two runtimes add the same float32 numbers up in other orders; random weights are the worst case.
    for row in read_report(deployed[1] / "report.json").rows:
        if row.status == "ok" and row.precision == "fp32" and row.parity is not None:
            assert row.parity.max_abs_over_range <= 1e-4


def test_manifest_names_every_file_with_its_hash(deployed):
    out = deployed[1]
    manifest = json.loads((out / "manifest.json").read_text())
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(listed) == present
    assert all(sha256_file(out / path) == digest for path, digest in listed.items())


def test_bundle_says_that_its_weights_are_random(deployed):
    manifest = json.loads((deployed[1] / "manifest.json").read_text())
    assert manifest["model"]["random_weights"] is True
    assert "never trained" in (deployed[1] / "README.md").read_text()


def test_deploy_makes_files_for_phones_and_says_who_would_run_them(deployed):
    out = deployed[1]
    made = {model.artifact: model for model in read_report(out / "report.json").mobile}
    manifest = json.loads((out / "manifest.json").read_text())
    # Whether ONNX Runtime gets an FP32 file of its own is decided by measuring.
    assert {"model.onnx", "onnxruntime/generic_x86/model.int8.onnx"} <= made.keys()
    assert all(entry["postprocess"]["output"] == "logits" for entry in manifest["artifacts"] if entry["path"] in made)
    for entry in manifest["artifacts"]:
        if entry["path"] in made:
            assert entry["mobile"] == {key: getattr(made[entry["path"]], key) for key in ("path", "operators")}
            assert (out / entry["mobile"]["path"]).read_bytes()[4:8] == b"ORTM"
            assert "Conv" in (out / entry["mobile"]["operators"]).read_text()
    made_for = {model.precision: model.made_for for model in made.values()}
    assert made_for == {"fp32": "accelerators", "int8": "processor"}
    verdicts = {verdict.provider: verdict for verdict in made["model.onnx"].verdicts}
    assert (verdicts["NNAPI"].suited, len(verdicts["NNAPI"].partitions)) == ("yes", 1)


def test_deploy_keeps_no_path_of_the_machine(deployed):
    out = deployed[1]
    for name in ("manifest.json", "report.json", "report.md", "resolved.toml"):
        text = (out / name).read_text().replace(str(out), "OUT")
        assert str(Path.home()) not in text, name


def test_replay_gives_the_same_files(deployed, tmp_path, monkeypatch):
    # Nothing of the first run is at hand: every artefact is made anew. What is measured on them makes no files.
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mscsa_deploy.workflow.deploy.measure_variants", lambda *_, **__: {})
    monkeypatch.setattr("mscsa_deploy.workflow.deploy._tails", lambda _: None)
    monkeypatch.setattr("mscsa_deploy.workflow.deploy.score_variants", lambda all_, *_, **__: [(v, None) for v in all_])
    out = tmp_path / "again"
    assert run(["run", str(deployed[1] / "resolved.toml"), "-o", str(out), "-q"]) == 0
    first, again = (json.loads((folder / "manifest.json").read_text()) for folder in (deployed[1], out))
    hashes = [{f["path"]: f["sha256"] for f in each["files"]} for each in (first, again)]
    # Which class-map files there are is decided by measuring; every other file by what was asked for.
    kept = [artifact for artifact in first["artifacts"] if ".classmap." not in artifact["path"]]
    made = [path for artifact in kept for path in (artifact["path"], *artifact["files"])]
    assert len(made) >= 4
    assert {path: hashes[1].get(path) for path in made} == {path: hashes[0][path] for path in made}
    assert tomllib.loads((out / "resolved.toml").read_text()) == tomllib.loads(
        (deployed[1] / "resolved.toml").read_text()
    )


def test_bundle_answers_through_the_light_runner(deployed, tmp_path):
    from mscsa_deploy.runner import load

    with load(deployed[1]) as runner:
        answer = runner.predict(deployed[1] / "golden" / "picture.png")
    assert answer.class_map.shape == (512, 512)


def test_existing_output_is_refused_and_left_alone(small, deployed, capsys):
    out = deployed[1]
    before = sha256_file(out / "manifest.json")
    assert run(["deploy", *small, "--preset", "smoke", "-o", str(out), "-q"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert sha256_file(out / "manifest.json") == before


def test_overlapping_image_sets_are_refused(small, cache, tmp_path, capsys):
    out = tmp_path / "out"
    code = run(["deploy", *small, "--validation", "evaluation", "--preset", "smoke", "-o", str(out), "-q"])
    assert code == 2
    assert "evaluation" in capsys.readouterr().err
    assert not out.exists()


def test_dry_run_does_nothing_and_says_what_would_be_done(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["deploy", *small, "--dry-run", "--json", "-o", str(out)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == {"profile", "runtimes", "recipes"}
    assert not out.exists()


def test_benchmark_of_the_bundle_writes_a_report(deployed, tmp_path, capsys):
    out = tmp_path / "bench"
    args = ["--preset", "smoke", "--no-peak", "--runtime", "onnxruntime", "--boundary", "core", "-q"]
    assert run(["benchmark", str(deployed[1]), *args, "-o", str(out)]) == 0
    rows = read_report(out / "report.json").rows
    assert {row.precision for row in rows} == {"fp32", "int8"}
    assert all(row.latency_ms is not None and row.latency_ms.samples >= 8 for row in rows)
    assert len(list((out / "samples").glob("*.npz"))) == len(rows)


def test_quantize_by_recipe_keeps_the_file_only_within_budget(deployed, tmp_path, capsys, monkeypatch):
    args = [
        "--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86", "--validation-images", "4", "-q",
    ]  # fmt: skip
    # Random weights may lose nothing at all.
    monkeypatch.setattr(Budget, "allows", lambda *_: False)
    code = run(["quantize", str(deployed[1]), *args, "-o", str(tmp_path / "no"), "--json"])
    outcome = json.loads(capsys.readouterr().out)
    assert code == 5
    assert outcome["passed"] is False
    assert outcome["artifact"] == ""
    assert sorted(p.name for p in (tmp_path / "no").iterdir()) == ["manifest.json", "quantize.json"]


def test_export_failure_leaves_nothing(small, tmp_path, capsys, monkeypatch):
    from mscsa_deploy.parity import tolerance

    strict = tolerance.Tolerance(max_abs=-1.0, why="nothing can pass this")
    monkeypatch.setattr(tolerance, "tolerance_for", lambda _: strict)
    code = run(["export", *small, "-o", str(tmp_path / "out"), "-q"])
    assert code == 5
    assert "max_abs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sensitivity_ranks_the_blocks_of_the_bundle(deployed, capsys, monkeypatch):
    places = []
    opened = sensitivity.open_images
    monkeypatch.setattr(sensitivity, "open_images", lambda place, *more: places.append(place) or opened(place, *more))
    args = ["--for", "onnxruntime", "--recipe", "int8_onnxruntime_x86", "--max-images", "1", "--json", "-q"]
    args += ["--validation", "evaluation"]
    assert run(["sensitivity", str(deployed[1]), *args]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert (places, ranking["images"]) == (["calibration", "evaluation"], 1)
    noise = [unit["sqnr_db"] for unit in ranking["units"]]
    assert noise == sorted(noise)
    assert ranking["whole_sqnr_db"] <= noise[-1]


def test_what_holds_no_float_file_cannot_be_quantized(deployed, tmp_path, capsys):
    int8 = next((deployed[1] / "onnxruntime").rglob("model.int8.onnx"))
    for command in (["sensitivity", str(int8)], ["quantize", str(int8), "-o", str(tmp_path / "out")]):
        assert run([*command, "--for", "onnxruntime", "-q"]) == 2
        assert "no FP32 ONNX file" in capsys.readouterr().err
