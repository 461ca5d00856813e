"""Scoring a session over images: metric, drop, parity, and the parts of a set."""

from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow.evaluate import ImageSet, evaluate

SPEC = Preprocess(height=32, width=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Pictures:
    """Pictures of one color each: the class of picture i is i modulo 3."""

    name, labels = "colors", None

    def __init__(self, count, target, parts=None):
        self.count, self.target, self.parts = count, target, parts
        if parts is not None:
            self.part_of = lambda index: parts[index]

    def __len__(self):
        return self.count

    def load(self, index):
        image = np.zeros((40, 48, 3), np.uint8)
        image[..., index % 3] = 255
        label = index % 3
        targets = {"mask": np.full((40, 48), label, np.uint8), "label": label, "none": None}
        return image, targets[self.target]

    def content_hash(self, index):
        return f"hash {index}"

    def target_hash(self, _):
        return self.target


class Colors:
    """Answers with the mean of each color channel, shifted where told; as logits or as a class map."""

    inputs = (TensorSpec("image", "float32", (1, 3, 32, 32)),)

    def __init__(self, *, task="seg", classmap=False, wrong=(), noise=0.0):
        self.task, self.classmap, self.wrong, self.noise, self.calls = task, classmap, wrong, noise, 0

    def run(self, feed):
        tensor = feed["image"]
        cells = tensor.reshape(1, 3, 4, 8, 4, 8).mean((3, 5)) if self.task == "seg" else tensor.mean((2, 3))
        cells = cells + self.noise
        if self.calls in self.wrong:
            cells = -cells
        self.calls += 1
        if self.classmap:
            return {"classmap": np.repeat(np.repeat(cells.argmax(1), 8, 1), 8, 2).astype(np.uint8)}
        return {"logits": cells.astype(np.float32)}


def images(target="mask", *, task="seg", count=6, **more):
    parts = more.pop("parts", None)
    return ImageSet(Pictures(count, target, parts), SPEC, task, 3, **more)


@pytest.mark.parametrize("classmap", [False, True], ids=["logits", "class map"])
def test_a_perfect_segmenter_scores_100(classmap):
    found = evaluate(Colors(classmap=classmap), images())
    metric = found.metric(None)
    assert metric is not None
    assert (metric.name, metric.value, metric.images) == ("mIoU", 100.0, 6)
    assert metric.others["pixel accuracy"] == 100.0
    assert metric.drop is None


def test_a_perfect_classifier_scores_100():
    found = evaluate(Colors(task="cls"), images("label", task="cls"))
    assert list(found.scores) == ["top-1", "top-5"]
    metric = found.metric(None)
    assert metric is not None
    assert metric.value == 100.0


def test_the_drop_is_the_reference_minus_the_value():
    reference = evaluate(Colors(), images())
    found = evaluate(Colors(wrong=(0, 1, 2)), images()).metric(reference)
    assert found is not None
    assert found.reference == 100.0
    assert found.drop == pytest.approx(100.0 - found.value)
    assert found.drop > 20.0
    low, high = found.drop_ci95
    assert low <= found.drop <= high


def test_without_targets_there_is_no_metric():
    found = evaluate(Colors(), images("none"))
    assert found.scores == {}
    assert found.metric(None) is None
    assert found.images == 6


def test_parity_is_against_the_outputs_kept_before(tmp_path):
    kept = tmp_path / "reference.npy"
    evaluate(Colors(), images("none"), keep=kept)
    assert np.load(kept).shape == (6, 3, 4, 4)
    same = evaluate(Colors(), images("none"), reference=kept).parity
    assert same is not None
    assert same.max_abs == 0.0
    other = evaluate(Colors(noise=0.25), images("none"), reference=kept).parity
    assert other is not None
    # The noise is added to values of 0 and 1 in float32.
    assert other.max_abs == pytest.approx(0.25, abs=1e-6)
    assert other.argmax_agreement == 100.0


def test_a_limit_takes_the_first_images():
    few = images(limit=2)
    assert len(few) == 2
    assert few.hashes == ("hash 0", "hash 1")
    session = Colors()
    assert evaluate(session, few).images == 2
    assert session.calls == 2


def test_parts_of_a_set_have_values_of_their_own():
    parts = ["seen"] * 3 + ["held out"] * 3
    found = evaluate(Colors(wrong=(3, 4, 5)), images(parts=parts))
    assert found.parts["seen"] == 100.0
    assert found.parts["held out"] < 50.0
    metric = found.metric(None)
    assert metric is not None
    assert set(metric.others) == {"pixel accuracy", "mIoU seen", "mIoU held out"}


def test_a_set_of_one_part_has_none():
    assert evaluate(Colors(), images(parts=["all"] * 6)).parts == {}


def test_no_images_is_an_error():
    with pytest.raises(UserError, match="'colors' holds no images"):
        evaluate(Colors(), images(count=0))


def test_progress_ends_at_the_total():
    seen = []
    evaluate(Colors(), images(count=3), progress=lambda *told: seen.append(told), label="score")
    assert seen == [(done, 3, "score") for done in range(4)]


@pytest.mark.parametrize(("task", "target"), [("seg", "mask"), ("cls", "label")])
def test_counts_of_two_halves_are_those_of_the_whole(task, target):
    given = images(target, task=task)
    whole, first, second = (given.judge() for _ in range(3))
    session = Colors(task=task, wrong=(1,))
    for index in range(6):
        image, truth = given.dataset.load(index)
        output = session.run({"image": given.input(index)})["logits"]
        del image
        for judge in (whole, first if index < 3 else second):
            judge.add(output, truth)
    first.extend(second)
    ones = np.ones((1, 6))
    for name, scores in whole.scores().items():
        assert first.scores()[name].values(ones) == scores.values(ones)
