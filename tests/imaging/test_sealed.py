from __future__ import annotations

import pytest

from mscsa_deploy.imaging.dataset import open_dataset, refuse_overlap
from mscsa_deploy.imaging.sealed import SealedDataset


def test_a_sealed_set_is_counted_and_told_apart_but_not_read(segmentation_folder):
    pictures = open_dataset(segmentation_folder, "seg")
    sealed = SealedDataset(pictures)
    assert (len(sealed), sealed.name) == (3, pictures.name)
    assert [sealed.content_hash(index) for index in range(3)] == [pictures.content_hash(index) for index in range(3)]
    assert sealed.target_hash(1) == pictures.target_hash(1)
    refuse_overlap(sealed)
    with pytest.raises(AssertionError, match=r"picture 2 of .* was read before the choices were made"):
        sealed.load(2)


def test_opening_does_not_open_it_for_others(segmentation_folder):
    sealed = SealedDataset(open_dataset(segmentation_folder, "seg"))
    assert sealed.open().load(0)[0].shape == (24, 36, 3)
    with pytest.raises(AssertionError, match="choices"):
        sealed.load(0)
