from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCENES = Path(__file__).parents[2] / "calibration" / "scenes"


@pytest.fixture
def gradient():
    """(24, 36, 3) uint8 whose every pixel differs, so that a swapped axis or channel shows."""
    rows, columns = np.mgrid[0:24, 0:36]
    return np.stack([rows * 10, columns * 7, rows + columns], axis=-1).astype(np.uint8)


@pytest.fixture
def segmentation_folder(tmp_path, gradient):
    """Three pictures with masks of classes 0..2 and some ignored pixels."""
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for number in range(3):
        picture = np.roll(gradient, number, axis=0)
        mask = np.full((24, 36), number, np.uint8)
        mask[0] = 255
        Image.fromarray(picture).save(tmp_path / "set" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{number}.png")
    return tmp_path / "set"


@pytest.fixture
def class_folders(tmp_path, gradient):
    """Two pictures each of cat and dog, and a file that is no picture."""
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(2):
            picture = np.roll(gradient, 5 * number + len(name) + ord(name[0]), axis=1)
            Image.fromarray(picture).save(tmp_path / "classes" / name / f"{number}.png")
    (tmp_path / "classes" / "cat" / "notes.txt").write_text("not a picture")
    return tmp_path / "classes"
