from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from PIL import Image

from mscsa_deploy.imaging.dataset import open_dataset
from mscsa_deploy.imaging.preprocess import Preprocess
from mscsa_deploy.workflow.evaluate import ImageSet
from mscsa_deploy.workflow.finish import _data


def test_the_report_counts_the_pictures_that_could_not_be_read(tmp_path):
    for number in range(120):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    whole = ImageSet(open_dataset(tmp_path, "seg"), Preprocess(height=8, width=8), "seg", 3)
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    less = ImageSet(open_dataset(tmp_path, "seg"), Preprocess(height=8, width=8), "seg", 3)
    found = _data(SimpleNamespace(images={"calibration": whole, "evaluation": less}))
    assert "unreadable" not in found["calibration"]
    assert (found["evaluation"]["images"], found["evaluation"]["unreadable"]) == (120, 1)
