from __future__ import annotations

import numpy as np
import pytest

from mscsa_deploy.calibration.samples import check_samples, from_arrays
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import SpecError, UserError

from .conftest import pictures

IMAGE = (TensorSpec("image", "float32", (1, 3, 32, 32)),)


def test_iterating_twice_gives_the_same_feeds():
    samples = pictures()
    first, second = (np.stack([feed["image"] for feed in samples]) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(first) == len(samples)


def test_feeds_are_loaded_only_when_asked_for():
    loaded = []
    samples = pictures(8)
    lazy = type(samples)("lazy", lambda i: loaded.append(i) or samples.feed(i), samples.indices, samples.content)
    next(iter(lazy))
    assert loaded == [0]


def test_take_spreads_evenly_and_draws_by_seed():
    samples = pictures(10)
    assert samples.take(5).indices == (0, 2, 4, 6, 8)
    assert samples.take(99).indices == samples.indices
    assert samples.take(5, draw=1).indices == samples.take(5, draw=1).indices
    assert samples.take(5, draw=1).indices != samples.take(5, draw=2).indices


def test_the_key_follows_content_order_and_preprocessing():
    samples = pictures(4)
    keys = {samples.key, samples.take(2).key, pictures(4, seed=2).key}
    sized = type(samples)(samples.name, samples.feed, samples.indices, samples.content, {"height": 64})
    keys.add(sized.key)
    assert len(keys) == 4
    assert samples.key == pictures(4).key


def test_no_arrays_are_refused():
    with pytest.raises(UserError, match="no arrays"):
        from_arrays("nothing", [], input_name="image")


def test_equal_pictures_are_refused():
    array = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with pytest.raises(UserError, match="same content"):
        check_samples(from_arrays("equal", [array, array.copy()], input_name="image"), IMAGE)


def test_flat_pictures_are_refused():
    arrays = [np.full((1, 3, 32, 32), value, np.float32) for value in (0.0, 0.5, 1.0)]
    with pytest.raises(UserError, match="flat"):
        check_samples(from_arrays("flat", arrays, input_name="image"), IMAGE)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        pytest.param((1, 1, 32, 32), "image", id="one channel"),
        pytest.param((1, 3, 16, 32), "image", id="another size"),
        pytest.param((1, 3, 32, 32), "x", id="another name"),
    ],
)
def test_feeds_that_do_not_fit_the_model_are_refused(shape, name):
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape).astype(np.float32) for _ in range(2)]
    with pytest.raises(SpecError):
        check_samples(from_arrays("wrong", arrays, input_name=name), IMAGE)
