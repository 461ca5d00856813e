from __future__ import annotations

import hashlib
import shutil
import tomllib

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.dataset import refuse_overlap
from mscsa_deploy.imaging.manifest import Style, read_assets
from mscsa_deploy.imaging.scenes import AssetStore, Dice, compose, open_scenes

from .conftest import SCENES

SETS = ("calibration", "validation", "evaluation")
MIT_OR_FREER = {"CC-BY-4.0", "CC0-1.0", "public domain"}


@pytest.fixture(scope="module")
def sets():
    return {name: open_scenes(SCENES / f"{name}.toml") for name in SETS}


@pytest.fixture(scope="module")
def assets():
    return read_assets(SCENES / "assets.toml")


def test_sets_are_as_large_as_promised(sets):
    assert len(sets["calibration"]) >= 300
    assert len(sets["validation"]) >= 100
    assert len(sets["evaluation"]) >= 200


def test_sets_are_disjoint(sets):
    refuse_overlap(*sets.values())


def test_the_same_seed_under_another_name_is_an_overlap(tmp_path, sets):
    text = (SCENES / "validation.toml").read_text().replace('"validation"', '"mine"')
    (tmp_path / "mine.toml").write_text(text.replace('"assets.toml"', f'"{SCENES / "assets.toml"}"'))
    with pytest.raises(UserError, match="share 120 pictures"):
        refuse_overlap(sets["validation"], open_scenes(tmp_path / "mine.toml"))


def test_scene_has_an_exact_mask_of_known_classes(sets):
    image, mask = sets["evaluation"].load(3)
    assert image.shape == (512, 512, 3)
    assert image.dtype == mask.dtype == np.uint8
    assert mask.shape == (512, 512)
    assert mask.max() < len(sets["evaluation"].labels)


def test_scene_is_the_same_in_a_fresh_store(sets):
    again = open_scenes(SCENES / "evaluation.toml")
    for index in (0, 1, 17):
        for ours, theirs in zip(sets["evaluation"].load(index), again.load(index), strict=True):
            assert np.array_equal(ours, theirs)


def test_scenes_do_not_depend_on_the_order_of_loading(sets):
    first = sets["validation"].load(5)[0].copy()
    sets["validation"].load(6)
    assert np.array_equal(sets["validation"].load(5)[0], first)


@pytest.mark.parametrize(
    ("name", "index", "digest"),
    [
        pytest.param("calibration", 0, "f3fd099a6c17d482", id="calibration-0"),
        pytest.param("validation", 0, "905203805778704e", id="validation-0"),
        pytest.param("evaluation", 0, "15a950ecfee111a3", id="evaluation-0"),
        pytest.param("evaluation", 1, "820af6984fffc39a", id="evaluation-1"),
    ],
)
def test_masks_are_the_ones_that_reports_quote(sets, name, index, digest):
    """A change of NumPy or Pillow may not change the layout: quoted figures would be of other scenes."""
    _, mask = sets[name].load(index)
    # Blocks of 16 pixels: a resampling that rounds differently at an edge does not matter, another layout does.
    coarse = np.ascontiguousarray(mask[8::16, 8::16])
    assert hashlib.sha256(coarse.tobytes()).hexdigest()[:16] == digest


def test_parts_take_turns(sets):
    evaluation = sets["evaluation"]
    assert [evaluation.part_of(index) for index in range(4)] == ["seen", "held_out", "seen", "held_out"]


def test_every_class_occurs_in_every_set(sets):
    for dataset in sets.values():
        seen = {int(value) for index in range(60) for value in np.unique(dataset.load(index)[1])}
        assert seen == set(range(len(dataset.labels)))


def test_no_group_lies_on_both_sides_of_the_split(assets):
    sides = {}
    for entry in assets.cutouts:
        sides.setdefault(entry.group, set()).add(entry.split)
    assert all(len(split) == 1 for split in sides.values())


def test_classes_have_enough_cutouts_on_both_sides(assets):
    for label in assets.labels[1:]:
        splits = [entry.split for entry in assets.cutouts if entry.label == label]
        assert len(splits) >= 20, label
        assert 0.2 <= splits.count("held_out") / len(splits) <= 0.3, label


def test_no_picture_ships_twice(assets):
    hashes = [entry.sha256 for entry in (*assets.cutouts, *assets.backgrounds)]
    assert len(set(hashes)) == len(hashes)


def test_shipped_files_are_the_listed_ones_and_stay_small(assets):
    listed = {entry.file for entry in (*assets.cutouts, *assets.backgrounds)}
    folders = ("cutouts", "backgrounds")
    there = {str(path.relative_to(SCENES)) for kind in folders for path in (SCENES / kind).rglob("*") if path.is_file()}
    assert there == listed
    assert sum((SCENES / file).stat().st_size for file in listed) <= 12_000_000


def test_backgrounds_carry_terms_that_allow_shipping(assets):
    assert {entry.license for entry in assets.backgrounds} <= MIT_OR_FREER
    assert all(entry.author for entry in assets.backgrounds)


def test_data_card_names_every_background(assets):
    card = (SCENES / "README.md").read_text()
    for entry in assets.backgrounds:
        assert entry.title in card
        assert entry.author in card


@pytest.fixture
def tiny(tmp_path):
    """Assets with one opaque red square of class 1 and a blue background."""
    Image.new("RGBA", (40, 40), (255, 0, 0, 255)).save(tmp_path / "square.png")
    Image.new("RGB", (100, 100), (0, 0, 200)).save(tmp_path / "back.png")
    digest = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("square.png", "back.png")}
    (tmp_path / "assets.toml").write_text(
        'labels = ["background", "square"]\n'
        f'cutouts = [{{file = "square.png", label = "square", split = "seen", group = "a", '
        f'sha256 = "{digest["square.png"]}"}}]\n'
        f'backgrounds = [{{file = "back.png", split = "seen", sha256 = "{digest["back.png"]}", title = "t", '
        'author = "a", license = "CC0-1.0", origin = "o"}]\n'
    )
    return tmp_path


def test_mask_is_where_the_object_is(tiny):
    style = Style(objects=(1, 1), long_side=(30, 30), turn_degrees=0.0, noise=0)
    image, mask = compose(AssetStore.read(tiny / "assets.toml"), "seen", Dice(1, 0), (64, 96), style)
    red = image[..., 0].astype(int) > image[..., 2].astype(int)
    assert mask.shape == (64, 96)
    assert 0 < mask.sum() <= 900
    assert np.array_equal(mask == 1, red)


def test_no_objects_leaves_an_empty_mask(tiny):
    _, mask = compose(AssetStore.read(tiny / "assets.toml"), "seen", Dice(1, 0), (32, 32), Style(objects=(0, 0)))
    assert not mask.any()


def test_dice_stay_in_their_ranges():
    dice = Dice(3, 4)
    assert {dice.whole(2, 4) for _ in range(200)} == {2, 3, 4}
    noise = dice.noise((50, 50), 3)
    assert (noise.min(), noise.max()) == (-3, 3)
    assert abs(float(noise.mean())) < 0.2


def test_changed_asset_is_refused(tiny):
    store = AssetStore.read(tiny / "assets.toml")
    Image.new("RGBA", (9, 9)).save(tiny / "square.png")
    with pytest.raises(UserError, match="is not the file its manifest describes"):
        store.picture(store.manifest.cutouts[0])


def test_missing_asset_is_refused(tiny):
    store = AssetStore.read(tiny / "assets.toml")
    (tiny / "back.png").unlink()
    with pytest.raises(UserError, match="restore the shipped files"):
        store.picture(store.manifest.backgrounds[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('format = "scenes-1"', 'format = "scenes-2"'), "format"),
        (("scenes = 120", "scenes = 0"), "no scenes"),
        (('split = "seen"', 'split = "held_out"'), "no cut-outs or backgrounds"),
        (("size = [512, 512]", "size = [512, 512]\nstyle.objects = [3, 1]"), "smallest, largest"),
        (("size = [512, 512]", "size = [512, 512]\nsise = 3"), "sise"),
    ],
)
def test_wrong_descriptions_are_refused(tiny, change, said):
    text = (SCENES / "validation.toml").read_text()
    assert change[0] in text
    (tiny / "set.toml").write_text(text.replace(*change))
    with pytest.raises(UserError, match=said):
        open_scenes(tiny / "set.toml")


def test_group_on_both_sides_is_refused(tiny):
    text = (tiny / "assets.toml").read_text()
    row = text.split("cutouts = [")[1].split("]\n")[0]
    (tiny / "assets.toml").write_text(text.replace(row, row + ", " + row.replace('"seen"', '"held_out"')))
    with pytest.raises(UserError, match="both sides"):
        read_assets(tiny / "assets.toml")


def test_unlisted_class_is_refused(tiny):
    text = (tiny / "assets.toml").read_text().replace('label = "square"', 'label = "circle"')
    (tiny / "assets.toml").write_text(text)
    with pytest.raises(UserError, match="circle"):
        read_assets(tiny / "assets.toml")


def test_shipped_copies_outside_the_repository_work(tmp_path):
    shutil.copytree(SCENES, tmp_path / "scenes")
    image, _ = open_scenes(tmp_path / "scenes" / "validation.toml").load(0)
    assert np.array_equal(image, open_scenes(SCENES / "validation.toml").load(0)[0])


def test_sets_are_valid_toml():
    for name in SETS:
        assert tomllib.loads((SCENES / f"{name}.toml").read_text())["name"] == name
