"""A made-up report that holds every kind of row."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.core.phones import MobileModel, MobileVerdict
from mscsa_deploy.core.report import (
    Decision,
    Latency,
    Metric,
    ModelRecord,
    ParityNumbers,
    Parts,
    Ratio,
    Report,
    Row,
    StageRecord,
    Verdict,
)

PROFILE = {
    "runtime": "onnxruntime",
    "version": "1.31.1",
    "precision": "int8+fp32",
    "runs": 20,
    "rows": [
        {"node": "a", "op": "QLinearConv", "precision": "int8", "kernel": "", "layout": "", "ms": 4.1, "count": 41},
        {"node": "b", "op": "HardSwish", "precision": "fp32", "kernel": "", "layout": "", "ms": 2.2, "count": 19},
        {"node": "c", "op": "MatMul", "precision": "fp32", "kernel": "", "layout": "", "ms": 0.9, "count": 8},
        {"node": "d", "op": "Softmax", "precision": "fp32", "kernel": "", "layout": "", "ms": 0.4, "count": 4},
    ],
}


def latency_of(samples):
    p50 = float(np.median(samples))
    return Latency(
        min=float(samples.min()),
        mean=float(samples.mean()),
        p50=p50,
        p90=float(np.percentile(samples, 90)),
        samples=len(samples),
        cv=float(samples.std() / samples.mean()),
        ci95=(p50 * 0.99, p50 * 1.01),
    )


def draw(p50, seed):
    random = np.random.default_rng(seed)
    return p50 * (0.93 + random.gamma(2.0, 0.04, 1200)) + (random.random(1200) < 0.04) * p50 * 0.4


def measured(runtime, precision, p50, value, *, size, boundary="core", seed=0, **more):
    samples = draw(p50, seed)
    ratio = 14.7 / p50
    row = Row(
        runtime=runtime,
        runtime_version="1.31.1",
        precision=precision,
        executed_precision=more.pop("executed", precision),
        status="ok",
        boundary=boundary,
        threads=1,
        input_size=(512, 512),
        artifact=more.pop("artifact", "model.onnx"),
        latency_ms=latency_of(samples),
        stable=True,
        fps=1000 / p50,
        size_bytes=size,
        speedup_vs_fp32=Ratio(value=ratio, ci95=(ratio * 0.98, ratio * 1.02), blocks=20, reference="plain FP32"),
        speedup_vs_optimised_fp32=Ratio(value=ratio * 0.9, ci95=(ratio * 0.88, ratio * 0.92), blocks=20, reference="x"),
        metric=Metric(
            name="mIoU",
            value=value,
            images=200,
            reference=63.4,
            drop=63.4 - value,
            drop_ci95=(63.4 - value - 0.21, 63.4 - value + 0.2),
            others={"pixel accuracy": 88.1},
        ),
        parity=ParityNumbers(max_abs=0.2, max_abs_over_range=0.01, cosine=0.9991, argmax_agreement=99.41, sqnr_db=31.0),
    )
    return row, more, samples


def make_report(directory):
    """The report, with its samples and pictures written below `directory`."""
    made = [
        measured("pytorch", "fp32", 71.6, 63.4, size=5_730_000, seed=1),
        measured("onnxruntime", "fp32", 12.9, 63.4, size=5_730_000, seed=2),
        measured("onnxruntime", "int8", 8.4, 63.1, size=1_710_000, seed=3, executed="int8+fp32",
                 artifact="onnxruntime/x86_vnni/model.int8.onnx"),
        measured("openvino", "fp32", 14.1, 63.4, size=5_730_000, seed=4),
        measured("openvino", "bf16", 8.9, 63.37, size=5_730_000, seed=5),
        measured("openvino", "int8", 7.6, 63.22, size=1_650_000, seed=6, executed="int8+fp32",
                 artifact="openvino/x86_vnni/model.xml"),
        measured("onnxruntime", "int8", 15.8, 63.1, size=1_710_000, seed=7, boundary="end_to_end",
                 executed="int8+fp32", artifact="onnxruntime/x86_vnni/model.int8.onnx"),
        measured("openvino", "int8", 14.2, 63.22, size=1_650_000, seed=8, boundary="end_to_end",
                 executed="int8+fp32", artifact="openvino/x86_vnni/model.xml"),
    ]  # fmt: skip
    (directory / "samples").mkdir()
    rows = []
    for place, (row, _, samples) in enumerate(made):
        name = f"{place:03d}.npz"
        np.savez(directory / "samples" / name, samples_ns=(samples * 1e6).astype(np.int64))
        changes = {"samples_file": f"samples/{name}"}
        if row.boundary == "end_to_end":
            changes["parts_ms"] = Parts(decode=3.1, preprocess=2.9, network=8.4, postprocess=1.4)
        if place == 2:
            changes |= {
                "details": {"op_profile": PROFILE},
                "explanation": ("1.54x over plain FP32.", "HardSwish stays in float: 29 % of the time."),
                "left_float": ("/head/gate: HardSigmoid has no integer kernel", "/ffn/act: kept for accuracy"),
            }
        if place == 4:
            changes |= {"stable": False, "unstable_reason": "the first tenth ran 7 % slower than the rest"}
        rows.append(_with(row, **changes))
    sizes = {"threads": 1, "input_size": (512, 512)}
    rows.append(Row(runtime="tensorrt", precision="fp16", status="built, not run", artifact="tensorrt/rtx/model.engine",
                    reason="no NVIDIA GPU on this machine", size_bytes=3_900_000, **sizes))  # fmt: skip
    rows.append(Row(runtime="tensorrt", precision="int8", status="not run", reason="not installed; "
                    "pip install 'mscsa-deploy[tensorrt]'", **sizes))  # fmt: skip
    rows.append(Row(runtime="onnxruntime", precision="fp16", status="failed", artifact="model.fp16.onnx",
                    reason="inference failed on x: <Resize> has no fp16 kernel | on this CPU", **sizes))  # fmt: skip
    names = [f"overlay_{number}.png" for number in range(2)]
    for number, name in enumerate(names):
        tiles = np.random.default_rng(number).integers(0, 255, (6, 16, 3), dtype=np.uint8)
        Image.fromarray(tiles).resize((240, 90), Image.Resampling.BICUBIC).save(directory / name)
    return Report(
        created="2026-11-22T09:40:00Z",
        command="mscsa-deploy deploy topformer_t_mscsa -o out",
        environment={"cpu": "AMD EPYC 9B14", "system": "Debian GNU/Linux 12", "isa": ["avx2", "avx512_vnni"],
                     "memory_bytes": 25 << 30, "clocks": {"governor": "", "current_mhz": 2600.0},
                     "packages": {"onnxruntime": "1.31.1", "openvino": "2026.4.1"}},
        model=ModelRecord(name="topformer_t_mscsa", task="seg", sha256="ab" * 32, params=1_430_000, macs=612_000_000,
                          input_size=(512, 512), classes=13, source="own training, see the model card"),
        data={"evaluation": {"name": "scenes", "images": 200}, "calibration": {"name": "scenes", "images": 300}},
        stages=(StageRecord(name="export", seconds=3.2, status="ok", detail="opset 18, 131 nodes"),
                StageRecord(name="quantize onnxruntime", seconds=22.4, status="ok"),
                StageRecord(name="benchmark", seconds=88.0, status="ok", detail="8 rows")),
        rows=tuple(rows),
        verdict=Verdict(passed=True, recommended="openvino/x86_vnni/model.xml", runtime="openvino", precision="int8",
                        summary="Ship OpenVINO INT8: 1.93x faster than plain FP32 for 0.18 mIoU.",
                        gates=("mIoU drop 0.18 of at most 0.50 points", "FP32 ONNX equals PyTorch within 1e-4")),
        pictures=tuple(names),
        decisions=(Decision(subject="device profile", choice="x86_vnni", reason="named with --device"),
                   Decision(subject="tail on openvino", choice="cells", scores_ms={"outside": 9.31, "cells": 7.5})),
        mobile=(MobileModel(artifact="model.onnx", precision="fp32", path="mobile/model.ort", size_bytes=5_800_000,
                            operators="mobile/model.required_operators_and_types.config", max_abs_over_range=2.4e-7,
                            verdicts=(MobileVerdict(provider="NNAPI", suited="no", nodes=258, supported=239,
                                                    partitions=(80, 4, 155), unsupported=("ai.onnx:HardSigmoid",),
                                                    blocker="/act/HardSigmoid (HardSigmoid)"),
                                      MobileVerdict(provider="QNN", suited="unknown"))),
                MobileModel(artifact="a/model.int8.onnx", precision="int8", status="failed", reason="it was refused")),
    )  # fmt: skip


def _with(row, **changes):
    return Row(**{field: getattr(row, field) for field in row.__struct_fields__} | changes)


@pytest.fixture
def report(tmp_path):
    return make_report(tmp_path)
