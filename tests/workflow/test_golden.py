"""The golden pair of a deployment tests the resizing too."""

from __future__ import annotations

import numpy as np

from mscsa_deploy.imaging.preprocess import default_preprocess, fit
from mscsa_deploy.workflow.golden import of_another_size


def test_picture_of_the_inputs_size_becomes_one_of_another():
    image = np.random.default_rng(2).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    changed = of_another_size(image, (64, 96))
    assert changed.shape == (60, 120, 3)
    # Nearest neighbors, or no antialiasing, would pass on a picture that is only enlarged.
    assert fit(changed, default_preprocess("seg", (64, 96))).shape == (64, 96, 3)


def test_picture_of_another_size_is_left_as_it_is():
    image = np.zeros((50, 70, 3), np.uint8)
    assert of_another_size(image, (64, 96)) is image
