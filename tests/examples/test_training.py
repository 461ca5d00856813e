from __future__ import annotations

import math
import sys
import tomllib
from pathlib import Path

import pytest
import torch

TRAINING = Path(__file__).parents[2] / "examples" / "training"


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path():
    """The scripts import one another by bare name, as when they are run."""
    sys.path.insert(0, str(TRAINING))
    yield
    sys.path.remove(str(TRAINING))


@pytest.fixture(scope="module")
def recipe():
    return tomllib.loads((TRAINING / "recipe.toml").read_text())


def test_training_scenes_show_seen_cutouts_only():
    from prepare import ASSETS, TrainingScenes, seen_cutouts

    from mscsa_deploy.imaging.manifest import read_assets

    assets = read_assets(ASSETS)
    images, masks = next(iter(TrainingScenes(64, 3, seed=5)))
    assert images.shape == (3, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert masks.shape == (3, 64, 64)
    assert 0 < int(masks.max()) <= len(seen_cutouts(assets))
    assert all(entry.split == "seen" for entry in seen_cutouts(assets))


def test_stream_goes_on_where_it_stopped():
    from prepare import TrainingScenes

    whole = iter(TrainingScenes(64, 2, seed=5))
    next(whole)
    late = next(iter(TrainingScenes(64, 2, seed=5, first=2)))
    for ours, theirs in zip(next(whole), late, strict=True):
        assert torch.equal(ours, theirs)


def test_class_table_turns_cutouts_into_classes():
    from prepare import ASSETS, class_table, seen_cutouts

    from mscsa_deploy.imaging.manifest import read_assets

    assets = read_assets(ASSETS)
    table = class_table(assets)
    assert int(table[0]) == 0
    assert assets.labels[int(table[1])] == seen_cutouts(assets)[0].label
    assert set(table.tolist()) == set(range(13))


def test_normalised_images_are_what_the_model_is_fed():
    import numpy as np
    from prepare import normalise

    from mscsa_deploy.imaging.preprocess import default_preprocess, preprocess

    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours = normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    # The same affine map in another order of float32 operations.
    np.testing.assert_allclose(ours, preprocess(image, default_preprocess("seg", (64, 64))), atol=2e-6)


def test_learning_rate_warms_up_and_falls_to_a_hundredth(recipe):
    from train import Stage, learning_rate

    stages = [Stage(**stage) for stage in recipe["stages"]]
    assert learning_rate(recipe, stages, 0, 0) < recipe["learning_rate"] / 100
    first = learning_rate(recipe, stages, 0, recipe["warmup_steps"])
    last = learning_rate(recipe, stages, len(stages) - 1, stages[-1].steps)
    assert first == pytest.approx(recipe["learning_rate"] * math.sqrt(stages[0].batch / 16), rel=0.05)
    assert last == pytest.approx(recipe["learning_rate"] * math.sqrt(stages[-1].batch / 16) / 100)


def test_a_short_run_learns_and_resumes(tmp_path, recipe):
    from train import ASSETS, Run

    torch.manual_seed(0)
    stages = [{"size": 64, "batch": 2, "steps": 2, "instance_weight": 0.5}]
    run = Run({**recipe, "stages": stages}, tmp_path, ASSETS)
    before = run.model.state_dict()["decode_head.conv_seg.weight"].clone()
    run.train()
    assert not torch.equal(run.model.state_dict()["decode_head.conv_seg.weight"], before)
    again = Run({**recipe, "stages": stages}, tmp_path, ASSETS)
    assert again.stage == 1
    for name, tensor in again.average.state_dict().items():
        assert torch.equal(tensor, run.average.state_dict()[name]), name
