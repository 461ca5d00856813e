"""Gates and the recommendation, on rows written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from mscsa_deploy.core.report import Latency, Metric, ParityNumbers, Row
from mscsa_deploy.workflow.deployment import DeployRequest
from mscsa_deploy.workflow.gates import judge

EXACT = ParityNumbers(max_abs=0.0, max_abs_over_range=0.0, cosine=1.0, argmax_agreement=100.0)


def row(p50, *, precision="fp32", runtime="onnxruntime", metric=70.0, reference=70.0, **more):
    latency = None if p50 is None else Latency(min=p50, mean=p50, p50=p50, samples=9, cv=0.0, ci95=(p50, p50))
    score = Metric(name="mIoU", value=metric, reference=reference, drop=reference - metric, images=10)
    fields = {"status": "ok", "parity": EXACT, "artifact": f"{runtime}.{precision}.onnx", "metric": score}
    return Row(runtime=runtime, precision=precision, latency_ms=latency, **{**fields, **more})


def decide(*rows, **settings):
    request = DeployRequest(model="m", **settings)
    return judge(
        rows, SimpleNamespace(settings=request, prepared=SimpleNamespace(recipe=SimpleNamespace(output="logits")))
    )


def off(**numbers):
    return msgspec.structs.replace(EXACT, **numbers)


def test_faster_int8_within_budget_is_recommended():
    gates, verdict = decide(row(10.0), row(5.0, precision="int8", metric=69.6))
    assert all(gate.passed for gate in gates)
    assert (verdict.passed, verdict.precision, verdict.runtime) == (True, "int8", "onnxruntime")
    assert verdict.recommended == "onnxruntime.int8.onnx"
    assert "Not INT8" not in verdict.summary


@pytest.mark.parametrize(
    ("int8", "words"),
    [
        pytest.param(row(9.95, precision="int8"), "is not faster than", id="no faster than one run can tell"),
        pytest.param(row(20.0, precision="int8"), "is not faster than", id="slower"),
        pytest.param(row(5.0, precision="int8", metric=69.0), "within budget", id="too inexact"),
        pytest.param(row(None, precision="int8", status="not run"), "could be run", id="not run"),
    ],
)
def test_otherwise_float_is_recommended_and_the_reason_told(int8, words):
    _, verdict = decide(row(10.0), int8)
    assert (verdict.passed, verdict.precision) == (True, "fp32")
    assert words in verdict.summary


def test_the_budget_is_the_callers():
    rows = (row(10.0), row(5.0, precision="int8", metric=69.0))
    assert decide(*rows)[1].precision == "fp32"
    assert decide(*rows, max_drop=1.5)[1].precision == "int8"


def test_a_generous_budget_does_not_lift_the_floor():
    # 60 of 70 is 86 % of FP32, below the floor of 96 %.
    _, verdict = decide(row(10.0), row(5.0, precision="int8", metric=60.0), max_drop=50.0)
    assert verdict.precision == "fp32"


def test_require_int8_makes_its_lack_a_failure():
    rows = (row(10.0), row(20.0, precision="int8"))
    assert decide(*rows)[1].passed
    gates, verdict = decide(*rows, require_int8=True)
    assert not verdict.passed
    assert [gate.subject for gate in gates if not gate.passed] == ["deployment"]


@pytest.mark.parametrize(
    ("agreement", "chosen"), [pytest.param(99.2, "int8", id="enough"), pytest.param(98.9, "fp32", id="too little")]
)
def test_without_labels_int8_is_judged_by_agreement_and_says_so(agreement, chosen):
    int8 = row(5.0, precision="int8", parity=off(argmax_agreement=agreement))
    rows = [msgspec.structs.replace(each, metric=None) for each in (row(10.0), int8)]
    gates, verdict = decide(*rows)
    assert verdict.precision == chosen
    assert any("no labels" in gate.asked for gate in gates)


@pytest.mark.parametrize(
    "parity",
    [
        pytest.param(off(max_abs_over_range=2e-4), id="numbers"),
        pytest.param(off(argmax_agreement=99.8), id="decisions"),
    ],
)
def test_an_fp32_row_that_disagrees_fails_the_deployment_and_is_not_recommended(parity):
    gates, verdict = decide(row(5.0, parity=parity), row(10.0, runtime="openvino"))
    assert not verdict.passed
    assert verdict.runtime == "openvino"
    (lost,) = [gate for gate in gates if not gate.passed]
    assert lost.required
    assert "FAILED" in str(lost)


def test_a_bf16_row_that_disagrees_is_only_not_recommended():
    bf16 = row(1.0, precision="bf16", runtime="openvino", parity=off(argmax_agreement=90.0))
    gates, verdict = decide(row(10.0), bf16)
    assert verdict.passed
    assert verdict.precision == "fp32"
    assert any("not met" in str(gate) for gate in gates)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_float_precision_has_the_budget_of_int8(precision):
    gates, verdict = decide(row(10.0), row(5.0, precision=precision, metric=69.4), row(6.0, precision="int8"))
    assert (verdict.passed, verdict.precision) == (True, "int8")
    (gate,) = [gate for gate in gates if gate.subject == f"onnxruntime {precision}"]
    assert not gate.passed
    assert "argmax_agreement >= " in gate.asked
    assert "mIoU drop at most 0.5 points" in gate.asked


def test_what_is_not_shipped_is_not_recommended():
    plain = row(1.0, artifact="plain.onnx", details={"role": "fp32"})
    torch = row(2.0, runtime="pytorch", artifact="")
    _, verdict = decide(plain, torch, row(10.0))
    assert verdict.recommended == "onnxruntime.fp32.onnx"


def test_end_to_end_rows_do_not_decide():
    tail = msgspec.structs.replace(row(1.0, runtime="openvino"), boundary="end_to_end")
    _, verdict = decide(row(10.0), tail)
    assert verdict.runtime == "onnxruntime"


def test_when_nothing_passes_nothing_is_recommended():
    _, verdict = decide(row(5.0, parity=off(max_abs_over_range=1.0)))
    assert not verdict.passed
    assert verdict.recommended == ""
    assert verdict.summary.startswith("No artefact passed its gates")


def test_the_sentence_gives_the_latency_from_picture_to_answer_and_judges_by_the_network_alone():
    rows = (row(10.0), row(5.0, precision="int8"))
    there = (row(11.0, boundary="end_to_end"), row(12.0, precision="int8", boundary="end_to_end"))
    _, verdict = decide(*rows, *there)
    assert verdict.precision == "int8"
    assert "From picture to answer p50 12.00 ms; the runner-up, onnxruntime fp32, 11.00 ms (faster)." in verdict.summary
