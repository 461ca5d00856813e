"""The rule that says what to ship, on rows written by hand."""

from __future__ import annotations

import pytest

from mscsa_deploy.core.report import Latency, Row
from mscsa_deploy.workflow.choice import choose, from_picture


def row(precision, p50, *, status="ok", runtime="onnxruntime", artifact="model.onnx", boundary="core"):
    latency = Latency(min=p50, mean=p50, p50=p50, samples=9, cv=0.0, ci95=(p50, p50))
    return Row(
        runtime=runtime, precision=precision, status=status, artifact=artifact, latency_ms=latency, boundary=boundary
    )


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


def whole(precision, p50):
    return row(precision, p50, boundary="end_to_end", artifact="model.classmap.onnx")


CORE = [row("fp32", 9.0), row("bf16", 5.0), row("int8", 6.0)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param([], "", id="not measured"),
        pytest.param([whole("int8", 8.0)], "", id="the chosen one not measured"),
        pytest.param([whole("bf16", 9.0)], "From picture to answer p50 9.00 ms", id="the runner-up not measured"),
        pytest.param([whole("bf16", 9.0), whole("int8", 9.1)], "onnxruntime int8, 9.10 ms (which one run", id="equal"),
        pytest.param([whole("bf16", 9.0), whole("int8", 9.9)], "onnxruntime int8, 9.90 ms (slower)", id="slower"),
        pytest.param([whole("bf16", 9.0), whole("int8", 8.0)], "onnxruntime int8, 8.00 ms (faster)", id="faster there"),
    ],
)
def test_latency_from_picture_to_answer_is_told_beside_the_runner_up_s(rows, words):
    text = from_picture(CORE[1], CORE, [*CORE, *rows])
    assert words in text
    assert bool(text) == bool(words)


def test_what_was_chosen_from_picture_to_answer_needs_no_further_words():
    rows = [whole("bf16", 9.0), whole("int8", 9.1)]
    assert not from_picture(rows[0], rows, rows)
