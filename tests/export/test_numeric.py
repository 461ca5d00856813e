from __future__ import annotations

import numpy as np
import onnx
import pytest

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError
from mscsa_deploy.export.numeric import MAX_ERROR, SameNumbers, distance, make_feeds, run_graph

SPEC = TensorSpec("image", "float32", (-1, 3, 8, 6))


def graph(body: str, kind: str = "float") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,8,6] image) => ({kind}[1,3,8,6] y) {{ {body} }}'
    return onnx.parser.parse_model(text).SerializeToString()


def scaled(factor: float) -> bytes:
    return graph(f"f = Constant <value = float {{{factor}}}> ()  y = Mul(image, f)")


def test_feeds_are_repeatable_and_differ_from_one_another() -> None:
    first, again = make_feeds([SPEC], 2), make_feeds([SPEC], 2)
    assert [feed["image"].tolist() for feed in first] == [feed["image"].tolist() for feed in again]
    assert [feed["image"].shape for feed in first] == [(1, 3, 8, 6), (2, 3, 8, 6)]
    assert first[0]["image"].dtype == np.float32
    assert make_feeds([SPEC], 1, seed=1)[0]["image"].tolist() != first[0]["image"].tolist()


def test_second_feed_is_smooth_like_a_picture() -> None:
    noise, smooth = (feed["image"] for feed in make_feeds([TensorSpec("image", "float32", (1, 3, 64, 64))], 2))
    # Neighbors in white noise differ by sqrt(2) standard deviations, in a picture by far less.
    assert np.abs(np.diff(noise, axis=-1)).mean() > 0.8
    assert np.abs(np.diff(smooth, axis=-1)).mean() < 0.2


def test_feeds_of_integers_hold_integers() -> None:
    (feed,) = make_feeds([TensorSpec("ids", "int64", (4,))], 1)
    assert feed["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        pytest.param([0.0, 10.0], [0.0, 9.0], 0.1, id="share_of_range"),
        pytest.param([5.0, 5.0], [5.0, 5.5], 0.1, id="constant_output_by_its_size"),
        pytest.param([0.0, 0.0], [0.0, 0.0], 0.0, id="all_zero"),
        pytest.param([0.0, 1.0], [0.0, float("nan")], float("inf"), id="nan"),
        pytest.param([0.0, 1.0], [0.0], float("inf"), id="shape"),
    ],
)
def test_distance(reference, candidate, expected) -> None:
    found = distance(np.array(reference, np.float32), np.array(candidate, np.float32))
    assert found == pytest.approx(expected)


def test_distance_of_class_maps_is_the_share_that_differs() -> None:
    assert distance(np.array([1, 2, 3, 4], np.uint8), np.array([1, 2, 3, 9], np.uint8)) == 0.25
    assert distance(np.array([1], np.uint8), np.array([1], np.int64)) == float("inf")


def test_same_numbers_accepts_rounding_and_refuses_more() -> None:
    same = SameNumbers(scaled(1.0), make_feeds([SPEC], 1))
    same(scaled(1.0 + MAX_ERROR / 10), "Rounds")
    with pytest.raises(StageError, match=r"rewrite failed on Doubles: it moved the outputs by .*--no-optimize"):
        same(scaled(2.0), "Doubles")


def test_same_numbers_refuses_more_than_rounding_in_a_noisy_graph() -> None:
    # Rounding is amplified a million times, which must not excuse an error a hundred times the limit.
    body = "big = Constant <value = float {1000000.0}> ()  m = Mul(image, big)  y = Sin(m)"
    same = SameNumbers(graph(body), make_feeds([SPEC], 1))
    assert same.noise > 100 * MAX_ERROR
    with pytest.raises(StageError):
        same(graph(body.replace("Sin", "Cos")), "Shifts")


def test_flipped_classes_are_refused() -> None:
    def classes(body: str) -> bytes:
        return graph(f"{body}  y = Cast <to = 2> (b)", "uint8")

    same = SameNumbers(classes("b = Relu(image)"), make_feeds([SPEC], 1))
    with pytest.raises(StageError):
        same(classes("b = Abs(image)"), "Flips")


def test_run_graph_tells_what_the_runtime_said() -> None:
    with pytest.raises(StageError, match="ONNX Runtime"):
        run_graph(b"not a graph", [])
    with pytest.raises(StageError, match="ONNX Runtime"):
        run_graph(scaled(1.0), [{"image": np.zeros((1, 3, 8, 7), np.float32)}])
