"""`quantize` searching on a small network: real files and answers, scripted latencies."""

import json
import platform
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.calibration.budget import AGREEMENT, USUAL_DROP, Budget
from mscsa_deploy.calibration.recipe import read_recipe
from mscsa_deploy.calibration.search_log import SearchLog
from mscsa_deploy.cli import run
from mscsa_deploy.errors import StageError
from mscsa_deploy.imaging.scenes import SceneDataset
from mscsa_deploy.workflow.quantize_bench import Bench
from mscsa_deploy.workflow.quantize_search import _best_float
from mscsa_deploy.workflow.variants import Variant

NET = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,3,64,64] image) => (float[1,4,16,16] logits) {
  [stem] a = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(image, w0)
  [relu] b = Relu(a)
  [depthwise] c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>(b, w1)
  [pointwise] d = Conv<kernel_shape=[1,1]>(c, w2)
  [residual] e = Add(d, b)
  [pool] f = AveragePool<kernel_shape=[2,2], strides=[2,2]>(e)
  [classifier] logits = Conv<kernel_shape=[1,1]>(f, w3)
}"""
SHAPES = ((8, 3, 3, 3), (8, 1, 3, 3), (8, 8, 1, 1), (4, 8, 1, 1))
FLOAT_MS = 10.0


@pytest.fixture
def model(write_foreign, tmp_path, monkeypatch):
    """The network, its preprocessing and two folders of pictures; arguments for the command line."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    # Random weights decide by a hair: INT8 agrees on 98.6 % of their pixels.
    monkeypatch.setitem(USUAL_DROP, AGREEMENT, 4.0)
    # Times are scripted, so that every machine may pass for one of the profile below.
    monkeypatch.setattr("mscsa_deploy.core.environment.architecture", lambda: "x86_64")
    monkeypatch.setattr("mscsa_deploy.core.environment.isa_flags", lambda: ("avx2", "avx512f", "avx512_vnni"))
    told = write_foreign(NET, SHAPES, {"calibration": 10, "validation": 4})
    return [
        *("quantize", *told, "--for", "onnxruntime", "-q", "--json", "--device", "x86_avx512_vnni"),
        *("--calibration", str(tmp_path / "calibration"), "--validation", str(tmp_path / "validation")),
    ]


@pytest.fixture
def clock(monkeypatch):
    """Latencies by recipe name, with a list of what was timed; float takes 10 ms, what is not in the table 8 ms."""
    state = SimpleNamespace(times={}, timed=[], usual=8.0)

    def latencies(_, variants, __):
        others = [variant.recipe for variant in variants[1:]]
        state.timed.extend(others)
        return [(FLOAT_MS, ""), *((state.times.get(name, state.usual), "") for name in others)]

    monkeypatch.setattr(Bench, "latencies", latencies)
    return state


def outcome_of(arguments, out, capsys):
    code = run([*arguments, "-o", str(out)])
    return code, json.loads(capsys.readouterr().out)


def test_the_fastest_file_within_budget_is_found_and_its_replay_gives_the_same_bytes(model, clock, tmp_path, capsys):
    clock.times["int8_onnxruntime_x86+per-tensor"] = 5.0
    code, first = outcome_of(model, tmp_path / "one", capsys)
    assert code == 0
    assert first["recipe"]["per_channel"] is False
    assert first["best_float"] == "onnxruntime fp32"
    lines = {line["recipe"]: line for line in first["search"]}
    assert lines["int8_onnxruntime_x86+per-tensor"]["speedup_vs_best_float"] == 2.0
    assert "value" not in lines["int8_onnxruntime_x86"]
    clock.timed.clear()
    code, second = outcome_of(model, tmp_path / "two", capsys)
    assert (code, clock.timed) == (0, [])
    assert second == first
    assert (tmp_path / "one" / first["artifact"]).read_bytes() == (tmp_path / "two" / first["artifact"]).read_bytes()
    found = read_recipe(str(tmp_path / "one" / first["recipe_file"]))
    assert found.plain() == first["recipe"]


def test_corrected_labels_are_scored_anew(model, clock, tmp_path, capsys):
    def labeled(label):
        pictures = sorted((tmp_path / "validation").glob("*.png"))
        (tmp_path / "labeled").mkdir(exist_ok=True)
        for picture in pictures:
            (tmp_path / "labeled" / picture.name).write_bytes(picture.read_bytes())
            mask = np.full((64, 64), label, np.uint8)
            Image.fromarray(mask).save(tmp_path / "labeled" / f"{picture.stem}_mask.png")
        lines = [f"{picture.name},{picture.stem}_mask.png" for picture in pictures]
        (tmp_path / "labeled" / "list.csv").write_text("\n".join(["image,mask", *lines]) + "\n")
        return str(tmp_path / "labeled" / "list.csv")

    values = []
    for label in (0, 1):
        asked = [*model[: model.index("--validation")], "--validation", labeled(label), "--max-drop", "100"]
        outcome_of(asked, tmp_path / f"out{label}", capsys)
        log = [*(tmp_path / "cache" / "search").glob("*.jsonl")]
        values.append(len(log))
    assert values == [1, 2]


def test_a_killed_search_goes_on_where_it_stopped(model, clock, tmp_path, capsys, monkeypatch):
    whole = Bench.score
    scored = []

    def killed(bench, variant, name):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(name)
        return whole(bench, variant, name)

    monkeypatch.setattr(Bench, "score", killed)
    assert run([*model, "-o", str(tmp_path / "killed")]) != 0
    assert not (tmp_path / "killed").exists()
    monkeypatch.setattr(Bench, "score", lambda bench, variant, name: scored.append(name) or whole(bench, variant, name))
    timed = list(clock.timed)
    capsys.readouterr()
    code, outcome = outcome_of(model, tmp_path / "out", capsys)
    assert code == 0
    assert clock.timed[: len(timed)] == timed
    # What is timed again is the confirmation of the winner; the winner's answers are compared once more for the report.
    assert len(clock.timed) == len(timed) + 1
    assert sorted(set(scored)) == sorted(scored[:-1])
    assert outcome["artifact"]


def test_no_int8_faster_than_float_is_exit_5_with_the_way_out(model, clock, tmp_path, capsys):
    clock.usual = 9.9
    code = run([*model, "-o", str(tmp_path / "out")])
    told = capsys.readouterr()
    outcome = json.loads(told.out)
    assert code == 5
    assert outcome["error"] == {"kind": "gate", "message": outcome["verdict"], "hint": ""}
    assert told.err == f"error: {outcome['verdict']}\n"
    assert outcome["artifact"] == ""
    assert outcome["verdict"].startswith("INT8 is not faster than the best float artefact here: 9.90 ms")
    assert "ship the float file, run as onnxruntime fp32 (--recipe NAME makes an INT8 file" in outcome["verdict"]
    assert not any("value" in line for line in outcome["search"])


@pytest.fixture
def elsewhere(write_foreign, tmp_path, monkeypatch):
    """`quantize` for a device of another processor than this machine's."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    told = write_foreign(NET, SHAPES, {"calibration": 10, "validation": 4})
    other = "generic_x86" if platform.machine() in ("aarch64", "arm64") else "arm64_cortex_a76"
    places = ("--calibration", str(tmp_path / "calibration"), "--validation", str(tmp_path / "validation"))
    return ["quantize", *told, "--for", "onnxruntime", "-q", "--json", "--device", other, *places]


def test_a_search_for_another_machine_is_refused_before_any_work(elsewhere, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mscsa_deploy.workflow.quantize.open_subject", lambda *_, **__: pytest.fail("work was done"))
    code, document = outcome_of(elsewhere, tmp_path / "out", capsys)
    assert (code, document["error"]["kind"]) == (3, "unsupported")
    assert f"is not of the class '{elsewhere[elsewhere.index('--device') + 1]}'" in document["error"]["message"]
    assert "--recipe" in document["error"]["hint"]
    assert not (tmp_path / "out").exists()


def test_a_recipe_makes_the_file_for_another_machine(elsewhere, tmp_path, capsys):
    code, outcome = outcome_of([*elsewhere, "--recipe", "int8_onnxruntime_arm64"], tmp_path / "out", capsys)
    assert code in (0, 5)  # Random weights decide by a hair.
    assert outcome["profile"] == elsewhere[elsewhere.index("--device") + 1]


def test_a_recipe_beyond_the_budget_is_exit_5_and_leaves_the_report_alone(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Budget, "allows", lambda *_: False)
    code, outcome = outcome_of([*model, "--recipe", "int8_onnxruntime_x86"], tmp_path / "out", capsys)
    assert (code, outcome["passed"], outcome["artifact"]) == (5, False, "")
    assert outcome["error"]["message"] == outcome["verdict"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "quantize.json"]


def test_masks_of_another_set_of_classes_are_not_scored(model, tmp_path, capsys):
    arguments = [*model[: model.index("--validation")], "--validation", "validation", "--validation-images", "2"]
    _, outcome = outcome_of([*arguments, "--recipe", "int8_onnxruntime_x86"], tmp_path / "out", capsys)
    assert outcome["metric"] is None
    assert outcome["parity"]["argmax_agreement"] > 50


def bench_of(scores, budget):
    """A bench that answers with (metric, float's metric) by precision."""
    return SimpleNamespace(
        latencies=lambda variants, _: [({"fp32": 10.0, "bf16": 6.0}[each.precision], "") for each in variants],
        score=lambda variant, _: SimpleNamespace(parity=None, precision=variant.precision),
        headline=lambda score: scores[score.precision],
        source=SimpleNamespace(runtime="openvino"),
        budget=budget,
    )


@pytest.mark.parametrize(("value", "expected"), [(69.9, "bf16"), (60.0, "fp32")])
def test_what_int8_has_to_beat_is_the_fastest_float_within_budget(tmp_path, value, expected):
    artifact = SimpleNamespace(sha256="0")
    floats = [
        Variant(runtime="openvino", precision=each, artifact=artifact, settings=None) for each in ("fp32", "bf16")
    ]
    log = SearchLog(tmp_path / "log.jsonl", {"model": "a"})
    best = _best_float(floats, bench_of({"bf16": (value, 70.0)}, Budget(0.5)), log)
    assert best.precision == expected


@pytest.mark.parametrize("option", ["--calibration", "--validation"])
def test_a_search_on_the_pictures_that_reports_quote_is_refused(model, tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(SceneDataset, "load", lambda *_: pytest.fail("an evaluation picture was read"))
    model[model.index(option) + 1] = "evaluation"
    assert run([*model, "-o", str(tmp_path / "out")]) == 2
    error = json.loads(capsys.readouterr().out)["error"]["message"]
    assert "'evaluation' and 'evaluation' share 240 pictures" in error
    assert not (tmp_path / "out").exists()


def test_blocks_that_cannot_be_ranked_cost_the_repairs_and_not_the_search(model, clock, tmp_path, capsys, monkeypatch):
    asked = []

    def broken(*_, **__):
        asked.append(True)
        raise StageError("sensitivity", "net.onnx", "a unit alone does not load")

    monkeypatch.setattr("mscsa_deploy.calibration.sensitivity.measure_sensitivity", broken)
    monkeypatch.setattr(Budget, "allows", lambda *_: False)
    code = run([each for each in (*model, "-o", str(tmp_path / "out")) if each != "-q"])
    told = capsys.readouterr()
    outcome = json.loads(told.out)
    assert (code, bool(asked)) == (5, True)
    assert {line["stage"] for line in outcome["search"]} >= {"placement", "observer"}
    assert "is not repaired, since its blocks could not be ranked" in " ".join(told.err.split())
