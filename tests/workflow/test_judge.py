"""How many classes a model tells apart, and judges that are not told."""

from __future__ import annotations

import pytest

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.workflow.judge import class_count

LABELS = ("red", "green")


@pytest.mark.parametrize(
    ("dtype", "shape", "labels", "classes"),
    [
        pytest.param("float32", (1, 5), LABELS, 5, id="scores of classes"),
        pytest.param("float16", (1, 7, 16, 16), (), 7, id="logits of a segmentation"),
        pytest.param("float32", (1, -1), LABELS, 2, id="free axis, labels"),
        pytest.param("float32", (1, -1), (), 0, id="free axis"),
        pytest.param("uint8", (1, 64, 64), LABELS, 2, id="class map, labels"),
        pytest.param("int64", (1, 64, 64), (), 0, id="class map"),
    ],
)
def test_classes_are_counted_by_shape_then_by_labels_and_never_guessed(dtype, shape, labels, classes):
    assert class_count([TensorSpec("out", dtype, shape)], labels) == classes
