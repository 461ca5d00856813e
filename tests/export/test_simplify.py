from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from mscsa_deploy.export.numeric import SameNumbers, make_feeds, run_graph
from mscsa_deploy.export.simplify import simplify
from mscsa_deploy.graphs.check import op_histogram, parsed, signature

# Two Transposes that cancel, and a shape computed at run time.
TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1,3,8,8] image) => (float[1,3,64] y) {
    s = Shape(image)
    i = Constant <value = int64[2] {0, 1}> ()
    front = Gather <axis = 0> (s, i)
    rest = Constant <value = int64[1] {-1}> ()
    target = Concat <axis = 0> (front, rest)
    a = Transpose <perm = [0, 2, 3, 1]> (image)
    b = Transpose <perm = [0, 3, 1, 2]> (a)
    c = Reshape(b, target)
    y = Softmax <axis = -1> (c)
}
"""


@pytest.fixture
def check() -> SameNumbers:
    model = onnx.parser.parse_model(TEXT).SerializeToString()
    return SameNumbers(model, make_feeds(signature(parsed(model))[0]))


def stand_in(code: str) -> list[str]:
    """A simplifier that runs `code` with the paths IN and OUT as `source` and `target`."""
    head = "import sys, onnx, pathlib; source, target = map(pathlib.Path, sys.argv[1:]); "
    return [sys.executable, "-c", head + code]


def test_simplify_folds_and_keeps_the_numbers(check) -> None:
    result = simplify(check)

    assert result.simplified
    assert result.note == ""
    assert set(op_histogram(parsed(result.model))) <= {"Reshape", "Softmax", "Constant"}
    for before, after in zip(check.reference, run_graph(result.model, check.feeds), strict=True):
        np.testing.assert_array_equal(before[0], after[0])


def test_simplify_gives_the_same_bytes_every_time(check) -> None:
    assert simplify(check).model == simplify(check).model


def assert_kept(result, check, reason: str) -> None:
    assert not result.simplified
    assert result.model == check.model
    assert reason in result.note


def test_hanging_simplifier_is_stopped(check) -> None:
    result = simplify(check, command=stand_in("import time; time.sleep(60)"), timeout_seconds=0.3)
    assert_kept(result, check, "longer than 0.3 s")


def test_crashing_simplifier_is_survived(check) -> None:
    result = simplify(check, command=stand_in("import os; os.kill(os.getpid(), 11)"))
    assert_kept(result, check, "ended with code -11")


def test_failing_simplifier_is_quoted(check) -> None:
    assert_kept(simplify(check, command=stand_in("raise ValueError('cannot fold')")), check, "cannot fold")


def test_simplifier_that_cannot_start_is_survived(check) -> None:
    assert_kept(simplify(check, command=["/does/not/exist"]), check, "could not be started")


def test_simplifier_that_writes_nothing_is_noticed(check) -> None:
    assert_kept(simplify(check, command=stand_in("pass")), check, "wrote no file")


def test_half_written_result_is_noticed(check) -> None:
    code = "target.write_bytes(source.read_bytes()[:50])"
    assert_kept(simplify(check, command=stand_in(code)), check, "not a readable ONNX file")


def test_wrong_numbers_are_noticed(check) -> None:
    code = (
        "m = onnx.load(source); "
        "s = next(n for n in m.graph.node if n.op_type == 'Softmax'); s.op_type = 'LogSoftmax'; onnx.save(m, target)"
    )
    assert_kept(simplify(check, command=stand_in(code)), check, "outputs differ by")


def test_changed_signature_is_noticed(check) -> None:
    code = "m = onnx.load(source); m.graph.node[-1].output[0] = 'z'; m.graph.output[0].name = 'z'; onnx.save(m, target)"
    assert_kept(simplify(check, command=stand_in(code)), check, "changed the inputs or outputs")


def test_foreign_op_is_noticed(check) -> None:
    code = (
        "m = onnx.load(source); m.opset_import.add(domain='com.microsoft', version=1); "
        "n = m.graph.node.add(op_type='Gelu', domain='com.microsoft', input=['image'], output=['unused']); "
        "onnx.save(m, target)"
    )
    assert_kept(simplify(check, command=stand_in(code)), check, "com.microsoft::Gelu")
