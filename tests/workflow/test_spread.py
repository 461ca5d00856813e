"""Shares of a contest add up to the whole; the engine that spreads them may be missing."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.errors import UnsupportedError
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow.contest import Contest, run_part
from mscsa_deploy.workflow.contestants import contestants
from mscsa_deploy.workflow.evaluate import Evaluation
from mscsa_deploy.workflow.prepare import ModelRequest
from mscsa_deploy.workflow.spread import added_up, run_on_ray, shares

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NETWORK = """
<ir_version: 9, opset_import: ["" : 18]>
colors (float[1, 3, 32, 32] image) => (float[1, 3, 4, 4] logits)
<float[1] gain = {GAIN}>
{
    pooled = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (image)
    logits = Mul(pooled, gain)
}
"""
COUNT = 7


@pytest.fixture
def contest(tmp_path):
    """Two networks over seven noisy pictures with masks."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for index in range(COUNT):
        picture = random.integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(picture.repeat(10, 0).repeat(10, 1)).save(tmp_path / "set" / "images" / f"{index}.png")
        mask = random.integers(0, 3, (40, 40), np.uint8)
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{index}.png")
    files = []
    for gain in ("1.0", "-0.5"):
        path = tmp_path / f"gain{gain}.onnx"
        onnx.save(onnx.parser.parse_model(NETWORK.replace("GAIN", gain)), path)
        files += contestants(str(path), ModelRequest(model=""), ("onnxruntime",), tmp_path)
    reference, candidate = files
    spec = Preprocess(height=32, width=32)
    return Contest(
        reference=reference, candidates=(candidate,), place=str(tmp_path / "set"), task="seg", preprocess=spec
    )


@pytest.mark.parametrize(("count", "parts"), [(7, 3), (7, 7), (7, 100), (1, 4), (100, 8)])
def test_shares_are_even_and_cover_every_image_once(count, parts):
    found = shares(count, parts)
    assert [index for share in found for index in share] == list(range(count))
    assert len(found) == min(parts, count)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_shares_add_up_to_the_whole(contest):
    whole = run_part(contest)
    # What a worker gets and gives back travels between processes.
    parts = [pickle.loads(pickle.dumps(run_part(pickle.loads(pickle.dumps(contest)), share))) for share in shares(7, 3)]
    total = added_up(parts)
    assert len(total) == len(whole) == 2
    for one, other in zip(total, whole, strict=True):
        mine, theirs = (Evaluation(images=COUNT, scores=score.judge.scores()).metric(None) for score in (one, other))
        assert mine == theirs
        assert one.executed == other.executed
    mine, theirs = (scores[1].outputs["logits"].result() for scores in (total, whole))
    assert (mine.images, mine.max_abs, mine.argmax_agreement) == (COUNT, theirs.max_abs, theirs.argmax_agreement)
    assert [image.name for image in mine.worst] == [image.name for image in theirs.worst]
    # Sums of float64 in another order.
    assert mine.sqnr_db == pytest.approx(theirs.sqnr_db, rel=1e-12)


def test_counts_that_cannot_be_written_add_up(contest):
    # Ray hands out arrays that share its memory.
    parts = [run_part(contest, share) for share in shares(COUNT, 2)]
    for part in parts:
        for score in part:
            score.judge.matrix._total.flags.writeable = False
    metrics = [
        Evaluation(images=COUNT, scores=scores[0].judge.scores()).metric(None)
        for scores in (added_up(parts), run_part(contest))
    ]
    assert metrics[0] == metrics[1]


def test_a_missing_engine_says_how_to_get_it(contest, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match="'ray' is not installed") as caught:
        run_on_ray(contest)
    assert caught.value.hint == "pip install ray"


def test_ray_gives_the_same_as_one_process(contest, missing):
    if importlib.util.find_spec("ray") is None:
        missing("ray", "ray is not installed: see 'make test-ray'")
    total, whole = run_on_ray(contest), run_part(contest)
    for one, other in zip(total, whole, strict=True):
        mine, theirs = (Evaluation(images=COUNT, scores=score.judge.scores()).metric(None) for score in (one, other))
        assert mine == theirs
