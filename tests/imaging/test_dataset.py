from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.dataset import (
    PicturesOnly,
    open_dataset,
    read_mask,
    refuse_overlap,
    skipped,
    without_zero_label,
)
from mscsa_deploy.imaging.sealed import SealedDataset

from .conftest import SCENES


def test_segmentation_folder_pairs_pictures_with_masks(segmentation_folder):
    dataset = open_dataset(segmentation_folder, "seg")
    assert len(dataset) == 3
    image, mask = dataset.load(1)
    assert image.shape == (24, 36, 3)
    assert np.unique(mask).tolist() == [1, 255]


def test_missing_mask_is_named(segmentation_folder):
    (segmentation_folder / "masks" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 3 .*1\.png"):
        open_dataset(segmentation_folder, "seg")


def test_pictures_without_masks_have_no_target(segmentation_folder):
    shutil.rmtree(segmentation_folder / "masks")
    dataset = open_dataset(segmentation_folder, "seg")
    assert [dataset.load(index)[1] for index in range(len(dataset))] == [None] * 3


def test_mask_of_another_size_is_refused(segmentation_folder):
    Image.new("L", (5, 5)).save(segmentation_folder / "masks" / "0.png")
    with pytest.raises(UserError, match="5x5 pixels, its picture is 36x24"):
        open_dataset(segmentation_folder, "seg").load(0)


def test_palette_masks_are_read_as_indices(tmp_path):
    mask = Image.new("P", (2, 1))
    mask.putpalette([9, 9, 9, 8, 8, 8])
    mask.putpixel((1, 0), 1)
    mask.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1]]


def test_sixteen_bit_masks_keep_large_ids(tmp_path):
    Image.fromarray(np.array([[300, 0]], np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[300, 0]]


def test_color_mask_is_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="RGB picture, expected one class id"):
        read_mask(tmp_path / "m.png")


def test_class_folders_give_labels_in_order(class_folders):
    dataset = open_dataset(class_folders, "cls")
    assert dataset.labels == ("cat", "dog")
    assert [dataset.load(index)[1] for index in range(len(dataset))] == [0, 0, 1, 1]


def test_class_folders_take_the_ids_of_the_model(class_folders):
    dataset = open_dataset(class_folders, "cls", labels=("dog", "bird", "cat"))
    assert [dataset.load(index)[1] for index in range(len(dataset))] == [2, 2, 0, 0]


def test_class_folder_that_the_model_lacks_is_refused(class_folders):
    with pytest.raises(UserError, match=r"unknown class 'cat'.*did you mean 'cats'"):
        open_dataset(class_folders, "cls", labels=("cats", "dog"))


def test_numbered_folders_are_ids(class_folders):
    (class_folders / "cat").rename(class_folders / "7")
    (class_folders / "dog").rename(class_folders / "12")
    dataset = open_dataset(class_folders, "cls", labels=("a", "b"))
    assert {dataset.load(index)[1] for index in range(len(dataset))} == {7, 12}


def test_loose_pictures_beside_class_folders_are_refused(class_folders):
    shutil.copy(class_folders / "cat" / "0.png", class_folders / "loose.png")
    with pytest.raises(UserError, match=r"loose pictures \('loose\.png'\)"):
        open_dataset(class_folders, "cls")


def test_bare_pictures_have_no_labels(class_folders):
    dataset = open_dataset(class_folders / "cat", "cls")
    assert len(dataset) == 2
    assert dataset.load(0)[1] is None


def test_list_with_labels(class_folders):
    (class_folders / "list.csv").write_text("image,label\ndog/0.png,dog\ncat/0.png,cat\n")
    dataset = open_dataset(class_folders / "list.csv", "cls")
    assert [dataset.load(index)[1] for index in range(2)] == [1, 0]
    assert dataset.labels == ("cat", "dog")


def test_list_with_numbers_keeps_them(class_folders):
    (class_folders / "list.csv").write_text("image,label\ndog/0.png,41\ncat/0.png,3\n")
    assert [open_dataset(class_folders / "list.csv", "cls").load(index)[1] for index in range(2)] == [41, 3]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("image,label\ndog/0.png, 2\ncat/0.png , 3 \n", id="cells"),
        pytest.param("image, label\ndog/0.png, 2\ncat/0.png, 3\n", id="header"),
        pytest.param('Image , Label\n dog/0.png, "2"\ncat/0.png,3\n', id="capitals-and-quotes"),
    ],
)
def test_spaces_in_a_list_do_not_turn_class_ids_into_names(class_folders, text):
    (class_folders / "list.csv").write_text(text)
    dataset = open_dataset(class_folders / "list.csv", "cls", classes=4)
    assert [dataset.load(index)[1] for index in range(len(dataset))] == [2, 3]
    assert dataset.labels is None


@pytest.mark.parametrize("label", ["-1", "1.0", "+2", "- 1"])
def test_a_number_that_is_no_class_id_is_refused(class_folders, label):
    (class_folders / "list.csv").write_text(f"image,label\ndog/0.png,{label}\ncat/0.png,0\n")
    with pytest.raises(UserError, match=r"list\.csv': the label '[-+.\d ]+' is no class id"):
        open_dataset(class_folders / "list.csv", "cls", classes=2)


def test_pictures_that_nothing_is_scored_on_may_have_any_label(class_folders):
    (class_folders / "list.csv").write_text("image,label\ndog/0.png,-1\ncat/0.png,0\n")
    assert len(open_dataset(class_folders / "list.csv", "cls")) == 2


def test_a_number_may_be_part_of_a_class_name_and_one_that_the_model_knows(class_folders):
    (class_folders / "cat").rename(class_folders / "n01440764")
    (class_folders / "dog").rename(class_folders / "-1")
    dataset = open_dataset(class_folders, "cls", labels=("n01440764", "-1"))
    assert {dataset.load(index)[1] for index in range(len(dataset))} == {0, 1}


@pytest.mark.parametrize("form", ["folders", "list"])
def test_names_tell_ids_of_a_model_without_labels_only_where_all_classes_are_there(class_folders, form):
    place = class_folders
    if form == "list":
        place = class_folders / "list.csv"
        place.write_text("image,label\ndog/0.png,dog\ncat/0.png,cat\n")
    assert open_dataset(place, "cls", classes=2).load(0)[1] == (0 if form == "folders" else 1)
    with pytest.raises(UserError, match=r"names 2 classes \('cat', 'dog'\), the model has 4 .*give class ids, 0 to 3"):
        open_dataset(place, "cls", classes=4)
    with pytest.raises(UserError, match=r"the model says neither their names nor how many: .*give class ids, from 0,"):
        open_dataset(place, "cls", classes=0)
    # Nothing is judged by them: no matter.
    assert len(open_dataset(place, "cls")) == (4 if form == "folders" else 2)


def test_list_with_masks_and_a_byte_order_mark(segmentation_folder):
    text = "image,mask\nimages/2.png,masks/2.png\n"
    (segmentation_folder / "list.csv").write_text(text, encoding="utf-8-sig")
    assert 2 in open_dataset(segmentation_folder / "list.csv", "seg").load(0)[1]


def test_list_for_the_other_task_is_bare_pictures(class_folders):
    (class_folders / "list.csv").write_text("image,label\ndog/0.png,dog\n")
    assert open_dataset(class_folders / "list.csv", "seg").load(0)[1] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("picture,label\na,b\n", "expected 'image,label'", id="header"),
        pytest.param("image,label\nnone.png,cat\n", "line 2: there is no file 'none.png'", id="missing-file"),
        pytest.param("image,label\ncat/0.png,\n", "line 2: .*value is missing", id="missing-label"),
        pytest.param("", "expected 'image,label'", id="empty"),
        pytest.param("image,label\n", "holds no pictures", id="no-rows"),
    ],
)
def test_bad_list_is_refused_with_its_line(class_folders, text, said):
    (class_folders / "list.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        open_dataset(class_folders / "list.csv", "cls")


@pytest.mark.parametrize("task", ["cls", "seg"])
def test_empty_folder_is_refused(tmp_path, task):
    with pytest.raises(UserError, match="holds no pictures"):
        open_dataset(tmp_path, task)


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no image set"):
        open_dataset(tmp_path / "none", "seg")


def test_other_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match="is no image set"):
        open_dataset(tmp_path / "a.txt", "seg")


def test_more_than_one_percent_unreadable_is_refused(class_folders):
    (class_folders / "cat" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"1 of the 5 pictures .*bad\.png"):
        open_dataset(class_folders, "cls")


def test_few_unreadable_pictures_are_left_out_and_named(tmp_path, gradient, caplog):
    for number in range(120):
        Image.fromarray(np.roll(gradient, number, axis=0)).save(tmp_path / f"{number:03}.png")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    dataset = open_dataset(tmp_path, "seg")
    assert len(dataset) == 120
    assert [path.name for path in dataset.skipped] == ["bad.jpg"]
    assert "1 of 121" in caplog.text
    for wrapped in (PicturesOnly(dataset), SealedDataset(dataset)):
        assert skipped(wrapped) == dataset.skipped


def test_hidden_files_are_left_out(segmentation_folder):
    (segmentation_folder / "images" / ".trash.png").write_bytes(b"x")
    assert len(open_dataset(segmentation_folder, "seg")) == 3


def test_shared_pictures_are_refused_whatever_their_name(segmentation_folder, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(segmentation_folder / "images" / "2.png", tmp_path / "other" / "renamed.png")
    one, two = open_dataset(segmentation_folder, "seg"), open_dataset(tmp_path / "other", "seg")
    with pytest.raises(UserError, match=r"share 1 pictures.*renamed\.png"):
        refuse_overlap(one, two)


def test_pictures_that_occur_twice_in_one_set_are_allowed(class_folders):
    shutil.copy(class_folders / "cat" / "0.png", class_folders / "cat" / "again.png")
    refuse_overlap(open_dataset(class_folders, "cls"))


def test_scene_set_is_opened_by_its_description():
    dataset = open_dataset(SCENES / "evaluation.toml", "seg")
    assert len(dataset) == 240
    assert dataset.labels[0] == "background"


def test_scene_set_without_masks_for_classification():
    scenes, pictures = (open_dataset(SCENES / "evaluation.toml", task) for task in ("seg", "cls"))
    assert (len(pictures), pictures.labels) == (240, None)
    image, target = pictures.load(3)
    assert target is None
    np.testing.assert_array_equal(image, scenes.load(3)[0])
    assert pictures.content_hash(3) == scenes.content_hash(3)


@pytest.fixture
def raw_ade20k(tmp_path, gradient):
    """Folders as ADE20K has them, 0 for unlabeled and classes from 1, and the TOML that names them."""
    images, masks = (tmp_path / "ade" / kind / "validation" for kind in ("images", "annotations"))
    for folder in (images, masks):
        folder.mkdir(parents=True)
    mask = np.array([[0, 1, 2, 150], [255, 1, 1, 1]], np.uint8).repeat(12, axis=0).repeat(9, axis=1)
    Image.fromarray(gradient).save(images / "a.jpg")
    Image.fromarray(mask).save(masks / "a.png")
    path = tmp_path / "ade.toml"
    path.write_text(
        'format = "folders-1"\nimages = "ade/images/validation"\nmasks = "ade/annotations/validation"\n'
        "reduce_zero_label = true\n"
    )
    return path


def test_masks_with_classes_from_one_are_told_in_toml(raw_ade20k):
    dataset = open_dataset(raw_ade20k, "seg")
    mask = dataset.load(0)[1]
    assert mask[::12, ::9].tolist() == [[255, 0, 1, 149], [255, 0, 0, 0]]
    assert mask.dtype == np.uint8
    plain = raw_ade20k.with_name("plain.toml")
    plain.write_text(raw_ade20k.read_text().replace("true", "false"))
    other = open_dataset(plain, "seg")
    assert other.load(0)[1][::12, ::9].tolist() == [[0, 1, 2, 150], [255, 1, 1, 1]]
    # Scores that were kept for one reading are not those of the other.
    assert dataset.target_hash(0) != other.target_hash(0)


def test_sixteen_bit_masks_with_classes_from_one_keep_large_ids():
    assert without_zero_label(np.array([0, 1, 300], np.uint16)).tolist() == [255, 0, 299]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("validation", "nowhere"), "there is no folder .*nowhere"),
        (("reduce_zero_label", "reduce_zero"), "unknown field `reduce_zero`"),
    ],
    ids=["folder", "key"],
)
def test_toml_that_does_not_fit_is_refused(raw_ade20k, change, message):
    raw_ade20k.write_text(raw_ade20k.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        open_dataset(raw_ade20k, "seg")


def test_unreadable_pictures_leave_masks_read_as_told(raw_ade20k):
    images, masks = (raw_ade20k.parent / "ade" / kind / "validation" for kind in ("images", "annotations"))
    for index in range(100):
        shutil.copy(images / "a.jpg", images / f"{index}.jpg")
        shutil.copy(masks / "a.png", masks / f"{index}.png")
    (images / "a.jpg").write_bytes(b"")
    dataset = open_dataset(raw_ade20k, "seg")
    assert (len(dataset), len(dataset.skipped), dataset.reduce_zero_label) == (100, 1, True)
