"""From what the user named to a model with weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from PIL import Image

from mscsa_deploy.errors import CheckpointError, UserError
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow.deploy import _open_images
from mscsa_deploy.workflow.header import read_header, resized
from mscsa_deploy.workflow.images import open_images
from mscsa_deploy.workflow.prepare import ModelRequest, prepare
from mscsa_deploy.workflow.stages import Stages

torch = pytest.importorskip("torch")

SMALL = {"model": "topformer_t", "task": "seg", "num_classes": 3, "size": (64, 64)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small random model as a file, and the model."""
    prepared = prepare(ModelRequest(**SMALL, random_weights=1))
    path = tmp_path_factory.mktemp("prepared") / "model.safetensors"
    prepared.save(path)
    return path, prepared


def test_random_weights_are_marked_and_decided_by_their_seed(saved, monkeypatch):
    _, prepared = saved
    assert prepared.random_weights == 1
    assert prepared.source_sha256 == ""
    assert prepared.info().random_weights == 1
    assert (prepared.name, prepared.task, prepared.classes, prepared.size) == ("topformer_t", "seg", 3, (64, 64))
    assert not prepared.module.training
    # The seed decides the key, under which finished work is kept; drawing the weights again is not needed to tell.
    monkeypatch.setattr("mscsa_deploy.models.randomize.randomize", lambda module, *_: module)
    assert prepared.key != prepare(ModelRequest(**SMALL, random_weights=2)).key


def test_a_saved_model_is_a_checkpoint_that_gives_the_same_answers(saved):
    path, prepared = saved
    again = prepare(ModelRequest(model="topformer_t", task="seg", size=(64, 64), checkpoint=path))
    assert again.classes == 3  # told by the head
    assert again.random_weights is None
    assert len(again.source_sha256) == 64
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.module(image), prepared.module(image))


@pytest.fixture
def trained(saved, tmp_path):
    """Weights trained on pictures of 64x96 with their own mean and std, for three named classes."""
    _, prepared = saved
    spec = Preprocess(height=64, width=96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bicubic")
    path = tmp_path / "trained.safetensors"
    replace(prepared, preprocess=spec, labels=("sky", "sea", "land")).save(path)
    return path, spec


def recipe_of(place, *lines):
    place.write_text('model = "topformer_t"\ntask = "seg"\n' + "\n".join(lines))
    return str(place)


def test_what_weights_say_of_preprocessing_and_labels_is_used(trained):
    path, spec = trained
    made = prepare(ModelRequest(model="topformer_t", task="seg", checkpoint=path))
    assert (made.preprocess, made.labels, made.size) == (spec, ("sky", "sea", "land"), (64, 96))
    assert made.recipe.full_preprocess() == spec
    other = prepare(ModelRequest(model="topformer_t", task="seg", checkpoint=path, size=(96, 64)))
    assert other.preprocess == msgspec.structs.replace(spec, height=96, width=64)


def test_a_crop_keeps_its_share_of_the_short_side_at_another_size(monkeypatch):
    spec = Preprocess(height=64, width=64, resize="short_side_crop", short_side=80)
    assert resized(spec, (96, 96)) == msgspec.structs.replace(spec, height=96, width=96, short_side=120)
    # The shipped recipe's 248 for 224 is less than this size by itself.
    monkeypatch.setattr("mscsa_deploy.models.randomize.randomize", lambda module, *_: module)
    made = prepare(ModelRequest(model="pvt_v2_b0_mscsa", task="cls", size=(320, 320), random_weights=1))
    assert made.preprocess.short_side == 354


def test_the_keys_of_a_named_recipe_win_and_a_conflict_is_said(trained, tmp_path, caplog):
    path, spec = trained
    own = recipe_of(
        tmp_path / "own.toml", 'labels = ["a", "b", "c"]', "size = [64, 64]", "[preprocess]", "mean = [0.0, 0.0, 0.0]"
    )
    made = prepare(ModelRequest(model=own, checkpoint=path))
    assert made.preprocess == msgspec.structs.replace(spec, height=64, width=64, mean=(0.0, 0.0, 0.0))
    assert made.labels == ("a", "b", "c")
    assert "mean is (0.0, 0.0, 0.0) by the recipe, which is used; the weights say (0.5, 0.5, 0.5)" in caplog.text
    assert "labels of the recipe" in caplog.text


def test_a_recipe_that_agrees_with_its_weights_says_nothing(trained, tmp_path, caplog):
    path, spec = trained
    silent = recipe_of(tmp_path / "silent.toml", "num_classes = 3", "[preprocess]", "std = [0.25, 0.25, 0.25]")
    made = prepare(ModelRequest(model=silent, checkpoint=path))
    assert (made.preprocess, made.labels) == (spec, ("sky", "sea", "land"))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        pytest.param("{", "damaged", id="no JSON"),
        pytest.param('{"height": 64}', "width", id="no preprocessing"),
    ],
)
def test_a_damaged_header_is_an_error_that_names_the_file(trained, entry, words):
    path, _ = trained
    metadata = {"mscsa_deploy.preprocess": entry}
    with pytest.raises(UserError, match=words) as caught:
        read_header(metadata, str(path))
    assert "trained.safetensors" in str(caught.value)


def test_no_weights_is_an_error_that_names_both_ways_out():
    with pytest.raises(UserError, match="no trained weights come with 'topformer_t'") as caught:
        prepare(ModelRequest(model="topformer_t", task="seg"))
    assert "--checkpoint" in caught.value.hint
    assert "--random-weights" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"size": (100, 100)}, "100", id="size"),
        pytest.param({"model": "topformer_x"}, "unknown model 'topformer_x'", id="model"),
        pytest.param({"task": None}, "--task", id="task"),
    ],
)
def test_what_the_model_cannot_be_is_the_users_mistake(changes, words):
    with pytest.raises(UserError) as caught:
        prepare(ModelRequest(**{**SMALL, "random_weights": 1, **changes}))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [pytest.param(None, UserError, id="missing"), pytest.param(b"garbage", CheckpointError, id="damaged")],
)
def test_a_checkpoint_that_cannot_be_read(tmp_path, content, kind):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=r"w\.safetensors"):
        prepare(ModelRequest(**SMALL, checkpoint=path))


def test_an_onnx_file_has_nothing_to_export(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="nothing to export"):
        prepare(ModelRequest(model=str(tmp_path / "m.onnx"), task="seg", random_weights=1))


def test_another_class_count_leaves_the_recipes_labels_behind(saved):
    assert prepare(ModelRequest(model="topformer_t_mscsa.seg", num_classes=7, random_weights=1)).labels == ()
    with pytest.raises(CheckpointError, match="num_classes = 13, but 7 was asked for"):
        prepare(ModelRequest(model="topformer_t_mscsa.seg", num_classes=7))


def test_shipped_weights_bring_their_card_and_terms():
    prepared = prepare(ModelRequest(model="topformer_t_mscsa.seg"))
    assert prepared.license == "Apache-2.0"
    assert prepared.card is not None
    assert "mIoU" in prepared.card.read_text()


def test_an_own_checkpoint_does_not_inherit_the_terms_of_the_shipped_one(tmp_path):
    own = tmp_path / "own.safetensors"
    prepare(ModelRequest(model="topformer_t_mscsa.seg")).save(own)
    prepared = prepare(ModelRequest(model="topformer_t_mscsa.seg", checkpoint=own))
    assert prepared.license == ""
    assert prepared.card is None


def test_class_folders_get_the_ids_of_the_models_labels(tmp_path):
    for name in ("boot", "trouser"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    images = open_images(tmp_path, "cls", 2, ("trouser", "boot"))
    assert [images.load(index)[1] for index in range(2)] == [1, 0]
    with pytest.raises(UserError, match="boot"):
        open_images(tmp_path, "cls", 2, ("trouser", "shoe"))
    with pytest.raises(UserError, match=r"names 2 classes .*the model has 4"):
        open_images(tmp_path, "cls", 4)


def test_shipped_masks_only_score_models_of_their_classes(monkeypatch):
    told = []
    monkeypatch.setattr("mscsa_deploy.workflow.images.log.warning", lambda words, *_: told.append(words))
    assert open_images("validation", "seg", 13).labels is not None
    pictures = open_images("validation", "seg", 150)
    assert pictures.labels is None
    assert pictures.load(0)[1] is None
    assert "no labels for this model" in "".join(told)


def test_the_head_of_an_own_checkpoint_says_how_many_classes_there_are(tmp_path):
    # The shipped recipe of this name has 1,000.
    made = prepare(ModelRequest(model="topformer_t_mscsa", task="cls", random_weights=1, num_classes=10))
    made.save(tmp_path / "mine.safetensors")
    found = prepare(ModelRequest(model="topformer_t_mscsa", task="cls", checkpoint=tmp_path / "mine.safetensors"))
    assert found.classes == 10
    with pytest.raises(CheckpointError):
        prepare(
            ModelRequest(
                model="topformer_t_mscsa", task="cls", checkpoint=tmp_path / "mine.safetensors", num_classes=11
            )
        )


def test_deploy_takes_calibration_pictures_of_any_classes(tmp_path):
    for number, name in enumerate(("calibration/boot", "validation", "evaluation")):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name / "1.png")
    places = {name: str(tmp_path / name) for name in ("calibration", "validation", "evaluation")}
    request = SimpleNamespace(**places, calibration_images=None, evaluation_images=None)
    prepared = SimpleNamespace(task="cls", classes=2, labels=("trouser", "shoe"), preprocess=None)
    job = SimpleNamespace(request=request, prepared=prepared, stages=Stages(), images={})
    _open_images(job)
    assert {name: len(images) for name, images in job.images.items()} == dict.fromkeys(places, 1)
