"""Profiles in, sentences out."""

from __future__ import annotations

import msgspec

from mscsa_deploy.core.report import Latency, Ratio, Row
from mscsa_deploy.runtimes.protocol import OpProfile, OpRow
from mscsa_deploy.timing.explain import explain, profile_of, read_profile


def _op(node: str, op: str, precision: str, ms: float, kernel: str = "") -> OpRow:
    return OpRow(node, op, precision, kernel, "", ms, 1)


INT8 = OpProfile(
    "onnxruntime", "1", "int8+fp32", 20,
    (
        _op("conv1", "QLinearConv", "int8", 4.0),
        _op("conv2", "Conv", "fp32", 3.0, "brgconv_dw_f32"),
        _op("q1", "QuantizeLinear", "fp32", 1.5),
        _op("t1", "Transpose", "int8", 1.0),
        _op("r1", "Resize", "fp32", 0.5),
    ),
)  # fmt: skip
FP32 = OpProfile("onnxruntime", "1", "fp32", 20, (_op("conv1", "Conv", "fp32", 8.0), _op("conv2", "Conv", "fp32", 2.0)))


def _row(precision: str, p50: float = 1.0, profile: OpProfile | None = None, ratio: Ratio | None = None, **more) -> Row:
    latency = Latency(min=p50, mean=p50, p50=p50, samples=100, cv=0.01, ci95=(p50, p50))
    details = {} if profile is None else {"op_profile": msgspec.to_builtins(profile)}
    known = {"runtime": "onnxruntime", "status": "ok", "stable": True, "sha256": precision, "artifact": precision}
    return Row(precision=precision, latency_ms=latency, details=details, speedup_vs_fp32=ratio, **(known | more))


def _ratio(value: float, low: float, high: float) -> Ratio:
    return Ratio(value=value, ci95=(low, high), blocks=13, reference="pinned FP32 of the plain export")


def test_profile_survives_the_report() -> None:
    assert profile_of(_row("int8", profile=INT8)) == INT8
    assert profile_of(_row("int8")) is None


def test_reading_sums_and_sorts() -> None:
    reading = read_profile(INT8)
    assert {s.name: s.share for s in reading.by_precision} == {"fp32": 0.5, "int8": 0.5}
    assert reading.by_op[0].name == "QLinearConv int8"
    assert [s.name for s in reading.left_float] == ["conv2"]
    assert reading.depthwise_float.ms == 3.0
    assert reading.unfused.ms == 1.5
    assert reading.layout.share == 0.1


def test_explanation_names_verdict_isa_and_causes() -> None:
    row = _row("int8", profile=INT8, ratio=_ratio(0.8, 0.75, 0.85))
    lines = explain(row, _row("fp32", profile=FP32), arch="x86_64", isa=("avx2",))
    assert lines[0] == (
        "int8 on onnxruntime: slower, 0.80x (95 % 0.75 to 0.85) the speed of pinned FP32 of the plain export"
    )
    text = "\n".join(lines)
    assert "lacks AVX512-VNNI" in text
    assert "1 arithmetic nodes stayed float and take 30% of the time (conv2 30%)" in text
    assert "depthwise convolutions for which this runtime chose a float kernel take 30%" in text
    assert "not fused into their neighbors take 15%" in text
    assert "10% of the time goes to transposes" in text
    assert "QuantizeLinear +1.50 ms, Transpose +1.00 ms, Resize +0.50 ms" in text


def test_explanation_does_not_invent_causes() -> None:
    clean = OpProfile("openvino", "1", "int8", 20, (_op("conv1", "Convolution", "int8", 4.0),))
    row = _row("int8", profile=clean, ratio=_ratio(1.9, 1.8, 2.0))
    lines = explain(row, None, arch="x86_64", isa=("avx512_vnni",))
    assert lines[0].startswith("int8 on onnxruntime: faster, 1.90x")
    assert lines[1:] == ("time by op: Convolution int8 100%", "time by precision: int8 100%")
    assert explain(_row("int8"), None) == ()
    (near,) = explain(_row("bf16", ratio=_ratio(1.01, 0.97, 1.05)), None)
    assert near.startswith("bf16 on onnxruntime: no measurable difference, 1.01x (95 % 0.97 to 1.05) the speed of")
