"""The rule that says what to ship, on rows written by hand."""

from __future__ import annotations

import pytest

from mscsa_deploy.core.report import Latency, Row
from mscsa_deploy.workflow.choice import choose


def row(precision, p50, *, status="ok", runtime="onnxruntime", artifact="model.onnx"):
    latency = Latency(min=p50, mean=p50, p50=p50, samples=9, cv=0.0, ci95=(p50, p50))
    return Row(runtime=runtime, precision=precision, status=status, artifact=artifact, latency_ms=latency)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([row("fp32", 2.0), row("int8", 1.0)], "int8", id="fastest"),
        pytest.param([row("fp32", 1.01), row("int8", 1.0)], "fp32", id="as fast is not worth bits"),
        pytest.param([row("int8", 1.0), row("bf16", 1.01), row("fp16", 1.005)], "fp16", id="most precise of equals"),
        pytest.param([row("fp32", 2.0), row("int8", 1.0, status="failed")], "fp32", id="failed"),
        pytest.param([row("fp32", 2.0), row("bf16", 1.0, runtime="pytorch")], "fp32", id="not shipped: runtime"),
        pytest.param([row("int8", 2.0), row("fp32", 1.0, artifact="plain.onnx")], "int8", id="not shipped: baseline"),
    ],
)
def test_the_most_precise_of_the_fastest_is_chosen(rows, expected):
    assert choose(rows).precision == expected


def test_nothing_ran_nothing_chosen():
    assert choose([row("int8", 1.0, status="not run")]) is None
