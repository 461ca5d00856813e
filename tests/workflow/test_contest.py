"""The pictures of a comparison: with their targets where something is to be scored by them."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow import images
from mscsa_deploy.workflow.contest import Contest, paired


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        pytest.param(None, 13, id="nothing is scored yet"),
        pytest.param(13, 13, id="the classes of the set"),
        pytest.param(150, None, id="other classes"),
    ],
)
def test_shipped_masks_stay_unless_the_model_has_other_classes(classes, labels, monkeypatch):
    said = []
    monkeypatch.setattr(images.log, "warning", lambda *words: said.append(words))
    contest = Contest(
        reference=None, candidates=(), place="validation", task="seg", preprocess=Preprocess(height=64, width=64)
    )
    dataset = contest.images(classes).dataset
    assert (dataset.labels and len(dataset.labels)) == labels
    assert (dataset.load(0)[1] is None) == (labels is None)
    assert bool(said) == (labels is None)


def test_outputs_are_paired_by_name_and_else_in_order():
    one, two = np.zeros(1), np.ones(1)
    assert paired({"a": one, "b": two}, {"b": two, "a": one}) == {"a": one, "b": two}
    assert paired({"a": one}, {"x": two}) == {"a": two}
    with pytest.raises(Exception, match="the candidate"):
        paired({"a": one}, {"x": one, "y": two})
