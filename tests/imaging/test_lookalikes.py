"""Near-duplicates between sets are told once."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mscsa_deploy.imaging import lookalikes
from mscsa_deploy.imaging.dataset import open_dataset, refuse_overlap
from mscsa_deploy.imaging.lookalikes import alike, look, looks

from .conftest import SCENES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photograph(seed):
    """Soft blobs of color, as unlike each other as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)


@pytest.fixture
def sets(tmp_path):
    """Two folders of five pictures each, all different."""
    folders = tmp_path / "one", tmp_path / "two"
    for number, folder in enumerate(folders):
        folder.mkdir()
        for index in range(5):
            photograph(10 * number + index).save(folder / f"{index}.png")
    return folders


def sixteen_bit(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


CHANGES = {
    "smaller": lambda image, path: image.resize((200, 150)).save(path / "copy.png"),
    "compressed": lambda image, path: image.save(path / "copy.jpg", quality=40),
    "darker": lambda image, path: ImageEnhance.Brightness(image).enhance(0.7).save(path / "copy.png"),
    "sixteen bit gray": lambda image, path: sixteen_bit(image).save(path / "copy.png"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_in_another_set_is_named(sets, caplog, change):
    change(photograph(3), sets[1])
    refuse_overlap(*(open_dataset(folder, "seg") for folder in sets))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("1 pictures look like one of another set (")
    assert "3.png" in record.getMessage()
    assert "copy" in record.getMessage()


def test_many_are_one_warning_that_names_the_first(sets, caplog):
    for index in range(5):
        photograph(index).save(sets[1] / f"copy{index}.jpg", quality=60)
    refuse_overlap(*(open_dataset(folder, "seg") for folder in sets))
    (record,) = caplog.records
    assert record.getMessage().startswith("5 pictures")
    assert record.getMessage().count("' and '") == 3


def test_other_pictures_and_flat_ones_are_no_warning(sets, caplog):
    for folder, gray in zip(sets, (100, 101), strict=True):
        Image.new("RGB", (64, 64), (gray, gray, gray)).save(folder / "flat.png")
    # Alike within one set is no matter.
    photograph(1).save(sets[0] / "again.jpg")
    refuse_overlap(*(open_dataset(folder, "seg") for folder in sets))
    assert not caplog.records


def test_looks_are_kept_by_content(sets, monkeypatch):
    dataset = open_dataset(sets[0], "seg")
    first = dataset.looks()
    monkeypatch.setattr(lookalikes, "look", lambda _: pytest.fail("a picture was read again"))
    assert np.array_equal(dataset.looks(), first)
    with pytest.raises(pytest.fail.Exception):
        looks([sample.image for sample in dataset.samples], ["other"] * 5)


def test_a_damaged_picture_looks_like_nothing(tmp_path):
    photograph(0).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "damaged.jpg").write_bytes(data[: len(data) // 2])
    assert look(tmp_path / "damaged.jpg") == 0


def test_composed_scenes_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(lookalikes, "look", lambda _: pytest.fail("a scene was composed"))
    refuse_overlap(*(open_dataset(SCENES / f"{name}.toml", "seg") for name in ("calibration", "evaluation")))


def test_a_turned_jpeg_looks_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(0).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    photograph(0).save(tmp_path / "plain.jpg", quality=95)
    assert (look(tmp_path / "turned.jpg") ^ look(tmp_path / "plain.jpg")).bit_count() <= lookalikes.MOST_BITS


def test_the_closest_is_the_pair_and_four_bits_are_the_limit():
    first = np.array([0b1111_0000_1111, 0b1111_0000_1110, 0xFFFF_0000], np.uint64)
    second = np.array([0b1111_0000_1110, 0xFFFF_FF00, 0xFFFF_000F, 0xFFFF_001F], np.uint64)
    assert alike(first, second) == [(1, 0), (2, 2)]
    assert alike(first[:0], second) == alike(first, second[:0]) == []


def test_the_shipped_photographs_are_told_apart_and_their_copies_are_not(tmp_path):
    paths = sorted((SCENES / "backgrounds").glob("*.jpg"))
    copies = []
    for path in paths:
        copies.append(tmp_path / path.name)
        with Image.open(path) as image:
            image.resize((image.width // 2, image.height // 2)).save(copies[-1], quality=50)
    first, second = (np.array([look(path) for path in each], np.uint64) for each in (paths, copies))
    assert alike(first, second) == [(place, place) for place in range(len(paths))]
    closest = min(int(np.bitwise_count(one ^ other)) for place, one in enumerate(first) for other in first[:place])
    assert closest > 4 * lookalikes.MOST_BITS
