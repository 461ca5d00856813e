from __future__ import annotations

import math
import sys
import tomllib
from pathlib import Path

import numpy as np
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


def test_normalized_images_are_what_the_model_is_fed():
    import numpy as np
    from prepare import normalize

    from mscsa_deploy.imaging.preprocess import default_preprocess, preprocess

    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours = normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
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
    from train import ASSETS, Files, Run

    torch.manual_seed(0)
    stages = [{"size": 64, "batch": 2, "steps": 2, "instance_weight": 0.5}]
    run = Run({**recipe, "stages": stages}, Files(tmp_path, ASSETS))
    before = run.model.state_dict()["decode_head.conv_seg.weight"].clone()
    run.train()
    assert not torch.equal(run.model.state_dict()["decode_head.conv_seg.weight"], before)
    again = Run({**recipe, "stages": stages}, Files(tmp_path, ASSETS))
    assert again.stage == 1
    for name, tensor in again.average.state_dict().items():
        assert torch.equal(tensor, run.average.state_dict()[name]), name


def test_a_student_learns_from_a_teacher_that_stays_as_it_is(tmp_path, recipe):
    from train import ASSETS, Files, Run

    torch.manual_seed(0)
    stages = [{"size": 64, "batch": 2, "steps": 2, "instance_weight": 0.5}]
    for name in ("first", "teacher", "student"):
        (tmp_path / name).mkdir()
    Run({**recipe, "stages": stages}, Files(tmp_path / "first", ASSETS)).train()
    lesson = tomllib.loads((TRAINING / "teacher.toml").read_text()) | {"stages": stages}
    teacher = Run(lesson, Files(tmp_path / "teacher", ASSETS))
    statistics = teacher.model.backbone.stem.norm.running_mean.clone()
    teacher.train()
    assert torch.equal(teacher.model.backbone.stem.norm.running_mean, statistics)

    states = {name: tmp_path / name / "state.pt" for name in ("first", "teacher")}
    lesson = tomllib.loads((TRAINING / "distill.toml").read_text()) | {"stages": stages}
    files = Files(tmp_path / "student", ASSETS, start=states["first"], teacher=states["teacher"])
    student = Run(lesson, files)
    before = [parameter.clone() for parameter in student.distillation.adapters.parameters()]
    kept = torch.load(states["first"], weights_only=True)["average"]["decode_head.conv_seg.weight"]
    assert torch.equal(student.model.state_dict()["decode_head.conv_seg.weight"], kept)
    student.train()
    assert not any(map(torch.equal, before, student.distillation.adapters.parameters()))
    taught = torch.load(states["teacher"], weights_only=True)["average"]
    for name, tensor in student.distillation.teacher.state_dict().items():
        assert torch.equal(tensor, taught[name]), name


def test_nothing_is_lost_where_the_student_answers_as_the_teacher():
    from distill import feature_distance, soft_cross_entropy

    dice = torch.Generator().manual_seed(1)
    answers = torch.randn(2, 5, 4, 4, generator=dice)
    pixels = torch.rand(2, 1, 4, 4, generator=dice)
    other = torch.randn(2, 5, 4, 4, generator=dice)
    # Rounding of float32 log-softmax.
    assert float(soft_cross_entropy(answers, answers + 3, pixels, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(soft_cross_entropy(other, answers, pixels, 2.0)) > 0.1
    scaled = torch.nn.functional.batch_norm(answers, None, None, training=True)
    # Scaling a channel does not matter but for batch norm's epsilon of 1e-5.
    assert float(feature_distance(scaled, 7 * answers + 2, pixels)) == pytest.approx(0, abs=1e-6)
    assert float(feature_distance(other, answers, pixels)) > 0.1


def test_classifier_learns_with_one_cosine_over_growing_sizes():
    from classify import PLANS, SIZE, WARMUP_STEPS, learning_rate

    for plan in PLANS.values():
        sizes = [stage.size for stage in plan.stages]
        assert sizes == sorted(sizes)
        assert sizes[-1] == SIZE
        assert learning_rate(plan, 0, 0) == plan.rate / WARMUP_STEPS
        rates = [
            learning_rate(plan, number, step)
            for number, stage in enumerate(plan.stages)
            for step in range(WARMUP_STEPS if number == 0 else 0, stage.steps)
        ]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.01 * plan.rate


def test_classifier_plan_shortens_to_whole_steps():
    from classify import Stage

    assert Stage(64, 128, 600).shortened(1.0) == Stage(64, 128, 600)
    assert Stage(96, 64, 150).shortened(0.404) == Stage(96, 64, 61)
    assert Stage(96, 64, 10).shortened(0.001) == Stage(96, 64, 1)


def test_classifier_starts_from_what_fits_of_other_weights(tmp_path):
    from classify import start_from

    from mscsa_deploy.models.checkpoint import model_metadata, save_checkpoint
    from mscsa_deploy.models.spec import ModelOptions, build_model

    options = ModelOptions(num_classes=3)
    other = build_model("topformer_t", "cls", options)
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, other, model_metadata("topformer_t", "cls", options), half=False)
    model = build_model("topformer_t", "cls", ModelOptions(num_classes=10))
    head = model.head.l.weight.clone()
    taken = start_from(model, path)
    assert 0 < taken < len(model.state_dict())
    # The classifier has another number of classes.
    own, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own if name.startswith("backbone.") and name in theirs)
    assert torch.equal(model.head.l.weight, head)


def test_classifier_training_returns_averaged_weights_and_learns(monkeypatch):
    import classify

    from mscsa_deploy.models.spec import ModelOptions, build_model

    torch.manual_seed(0)
    # Bright against dark pictures: a dozen steps tell them apart.
    labels = (torch.arange(64) % 2).to(torch.uint8)
    images = (labels.view(-1, 1, 1) * 200 + torch.randint(0, 50, (64, 28, 28))).to(torch.uint8)
    model = build_model("topformer_t", "cls", ModelOptions(num_classes=2)).train()
    monkeypatch.setattr(classify, "WARMUP_STEPS", 2)
    monkeypatch.setattr(classify, "AVERAGE_DECAY", 0.5)
    monkeypatch.setattr(classify, "SIZE", 64)
    plan = classify.Plan(1e-3, (classify.Stage(64, 16, 12),), bfloat16=True)
    average = classify.train(model, plan, images, labels)
    assert not average.training
    assert all("forward" not in layer.__dict__ for layer in average.modules())
    assert classify.top1(average, images, labels) > 95


def test_overlaid_pictures_keep_more_of_their_own_than_of_another_class():
    from classify import OWN_SHARE, overlaid

    # Each class lights one pixel, which therefore says how much of a picture is of that class.
    labels = torch.arange(400) % 5
    images = torch.zeros(400, 28, 28, dtype=torch.uint8)
    images[torch.arange(400), 0, labels] = 200
    mixed = overlaid(images, labels, torch.Generator().manual_seed(3))
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed, overlaid(images, labels, torch.Generator().manual_seed(3)))
    lit = mixed[:, 0, :5].float() / 200
    assert torch.equal(lit.argmax(1), labels)
    assert torch.equal((lit > 0).sum(1), torch.full((400,), 2))
    own = lit.max(1).values
    assert OWN_SHARE[0] - 0.01 <= float(own.min()) < OWN_SHARE[0] + 0.02
    assert OWN_SHARE[1] - 0.02 < float(own.max()) <= OWN_SHARE[1] + 0.01


@pytest.fixture
def splits(monkeypatch):
    """Instead of Fashion-MNIST, flat pictures; a set can be told by their values."""
    import classify

    monkeypatch.setattr(classify, "HELD_BACK", 20)
    labels = np.arange(100, dtype=np.uint8) % 10
    # Calibration, validation, training and evaluation: 20 to 39, 80 to 99, 40 to 79 and 200 to 219.
    train = np.concatenate([np.arange(20, 40), np.arange(80, 100), np.arange(40, 80), np.arange(40, 60)])
    values = {"train": train, "t10k": np.arange(200, 220)}

    def read_split(folder, split):
        pixels = np.broadcast_to(values[split][:, None, None], (len(values[split]), 28, 28)).astype(np.uint8)
        return pixels, labels[: len(pixels)]

    monkeypatch.setattr(classify, "read_split", read_split)


@pytest.mark.usefixtures("splits")
def test_overlaid_sets_share_no_picture_and_leave_training_pictures_alone():
    import classify

    plain, overlaid = (classify.read_sets(Path(), overlay=overlay) for overlay in (False, True))
    assert {name: len(pair[0]) for name, pair in plain.items()} == {
        "calibration": 20,
        "validation": 20,
        "evaluation": 20,
        "training": 60,
    }
    for name, (pictures, answers) in plain.items():
        mixed, kept = overlaid[name]
        assert torch.equal(answers, kept)
        assert torch.equal(mixed, pictures) == (name == "training")
        assert pictures.min() <= mixed.min()
        assert mixed.max() <= pictures.max()


@pytest.mark.usefixtures("splits")
def test_all_four_sets_fade_and_keep_their_answers():
    import classify

    plain, faded = (classify.read_sets(Path(), overlay=False, low_contrast=low) for low in (False, True))
    for name, (pictures, answers) in plain.items():
        gray, kept = faded[name]
        assert torch.equal(answers, kept)
        assert gray.dtype == torch.uint8
        assert (gray.float() - (116 + (pictures.float() - 116) / 8)).abs().max() <= 0.5


def test_amplified_first_convolution_answers_to_faded_pictures_as_to_plain_ones():
    from classify import amplify, as_input, faded

    # Steps of eight around the gray, so that fading rounds nothing away.
    images = (4 + 8 * torch.randint(0, 31, (2, 28, 28), generator=torch.Generator().manual_seed(1))).to(torch.uint8)
    assert faded(images).unique().tolist() == list(range(102, 133))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7, stride=4))
    with torch.no_grad():
        plain = model(as_input(images, 28))
        amplify(model)
        assert torch.allclose(model(as_input(faded(images), 28)), plain, atol=1e-4)
    with pytest.raises(SystemExit, match="first convolution has a bias"):
        amplify(torch.nn.Conv2d(3, 4, 7, bias=False))
