"""Scoring many variants: one reference, each picture decoded once, and nothing scored twice."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.core.artifact import Artifact, MadeBy
from mscsa_deploy.imaging.dataset import FileDataset, open_dataset
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.runtimes.fake import Fake, FakeModel, FakeTensor, write_fake
from mscsa_deploy.runtimes.protocol import SessionSettings
from mscsa_deploy.workflow.evaluate import ImageSet
from mscsa_deploy.workflow.score import score_variants
from mscsa_deploy.workflow.variants import Variant

COUNT = 3
SHAPE = (1, 3, 32, 32)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of pictures with masks, and a cache of its own."""
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for index in range(COUNT):
        pixels = generator.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / "images" / f"{index}.png")
        Image.fromarray(pixels.argmax(axis=2).astype(np.uint8)).save(tmp_path / "set" / "masks" / f"{index}.png")
    return tmp_path / "set"


@pytest.fixture
def loads(monkeypatch):
    """The pictures that were decoded, one entry each time."""
    seen = []
    load = FileDataset.load

    def counted(self, index):
        seen.append(index)
        return load(self, index)

    monkeypatch.setattr(FileDataset, "load", counted)
    return seen


@pytest.fixture
def variant(tmp_path):
    """A variant of the fake runtime that answers with its input, changed as told."""

    def variant(name, **model):
        ports = {each: (FakeTensor(name=each, shape=SHAPE),) for each in ("inputs", "outputs")}
        path = write_fake(tmp_path / f"{name}.fake", FakeModel(**ports, **model))
        artifact = Artifact.of(path, kind="fake", precision="fp32", inputs=(), outputs=(), made_by=MadeBy(stage="test"))
        return Variant(runtime="fake", precision="fp32", artifact=artifact, settings=SessionSettings())

    return variant


def images(place):
    return ImageSet(open_dataset(place, "seg"), Preprocess(height=32, width=32), "seg", 3)


def facts(scored):
    return [
        (variant.status, score and (score.metric(scored[0][1]), score.parity, score.images))
        for variant, score in scored
    ]


def test_each_picture_is_decoded_once_for_the_reference_and_once_for_the_others(place, loads, variant):
    scored = score_variants([variant("a"), variant("b", gain=2.0), variant("c", offset=9.0)], images(place))
    assert len(loads) == 2 * COUNT
    assert [score.parity and score.parity.argmax_agreement for _, score in scored] == [None, 100.0, 100.0]
    assert scored[2][1].parity.max_abs == pytest.approx(9.0)


def test_what_was_scored_is_not_run_again(place, variant, monkeypatch):
    variants = [variant("a"), variant("b", gain=-1.0)]
    first = score_variants(variants, images(place))
    monkeypatch.setattr(Fake, "load", None)
    again = score_variants(variants, images(place))
    assert [score.kept for _, score in first + again] == [False, False, True, True]
    assert facts(again) == facts(first)


def test_only_what_is_new_is_run_beside_the_reference(place, loads, variant):
    score_variants([variant("a"), variant("b", gain=2.0)], images(place))
    loads.clear()
    scored = score_variants([variant("a"), variant("b", gain=2.0), variant("c", gain=3.0)], images(place))
    assert [score.kept for _, score in scored] == [False, True, False]
    assert len(loads) == 2 * COUNT


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_another_picture_or_mask_is_scored_anew(place, variant, kind):
    score_variants([variant("a")], images(place))
    Image.new("RGB" if kind == "images" else "L", (48, 40)).save(place / kind / "0.png")
    ((_, score),) = score_variants([variant("a")], images(place))
    assert not score.kept


def test_one_that_fails_is_marked_and_the_others_go_on(place, variant):
    scored = score_variants(
        [variant("a"), variant("b", fail="run"), variant("c", fail="load"), variant("d", gain=2.0)], images(place)
    )
    assert [variant.status for variant, _ in scored] == ["ok", "failed", "failed", "ok"]
    assert scored[3][1].parity.argmax_agreement == 100.0


def test_when_the_first_fails_the_next_is_the_reference(place, variant):
    scored = score_variants([variant("a", fail="run"), variant("b"), variant("c", gain=2.0)], images(place))
    assert [score and score.parity is None for _, score in scored] == [None, True, False]
