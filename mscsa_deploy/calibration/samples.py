"""Calibration feeds: sized, re-iterable, loaded one at a time, chosen the same way every time."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mscsa_deploy.core.config import to_plain
from mscsa_deploy.core.files import content_key
from mscsa_deploy.core.tensors import check_feed
from mscsa_deploy.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mscsa_deploy.core.tensors import Array, Feed, TensorSpec
    from mscsa_deploy.imaging.dataset import Dataset
    from mscsa_deploy.imaging.preprocess import Preprocess


@dataclass(frozen=True)
class Samples:
    """A sized collection of feeds; iterating it again gives the same feeds again.

    Args:
        name: What the report and the artefact call this set.
        feed: Loads and preprocesses one sample: ``feed(index) -> {input: array}``.
        indices: Which samples of the underlying set are used, in this order.
        content: A hash of the content of each of `indices`, or of what generates it.
        preprocessing: The preprocessing as plain containers, part of every cache key.
        noise: True when the feeds are not pictures; the artefact then says so.
    """

    name: str
    feed: Callable[[int], Feed]
    indices: tuple[int, ...]
    content: tuple[str, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    noise: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Feed]:
        for index in self.indices:
            yield self.feed(index)

    @property
    def key(self) -> str:
        """Changes with any sample's content, their order and the preprocessing."""
        return content_key({"content": self.content, "preprocessing": self.preprocessing, "noise": self.noise})

    def take(self, count: int, *, draw: int = 0) -> Samples:
        """At most `count` of these samples.

        Args:
            count: How many.
            draw: 0 takes every n-th, so that an ordered set is covered evenly; another number takes a
                random draw seeded by it, for the spread over calibration draws.
        """
        total = len(self.indices)
        if draw == 0 and count >= total:
            return self
        if draw == 0:
            chosen = [position * total // count for position in range(count)]
        else:
            # A seeded choice of samples, not a secret.
            chosen = sorted(random.Random(draw).sample(range(total), min(count, total)))  # noqa: S311 - see above
        return replace(
            self,
            indices=tuple(self.indices[position] for position in chosen),
            content=tuple(self.content[position] for position in chosen),
        )


def from_dataset(dataset: Dataset, preprocess: Preprocess, *, input_name: str, dtype: str = "float32") -> Samples:
    """The pictures of `dataset`, preprocessed as the model's metadata says, one at a time.

    Args:
        dataset: Pictures; targets are not looked at.
        preprocess: The model's own preprocessing.
        input_name: Name of the model's picture input.
        dtype: Of that input: ``"float32"`` (1, 3, H, W), or ``"uint8"`` (1, H, W, 3) for pixels as they are.

    Raises:
        UserError: The dataset is empty.
    """
    from mscsa_deploy.imaging.preprocess import model_input

    if len(dataset) == 0:
        raise UserError(f"'{dataset.name}' holds no pictures to calibrate with", hint="pass a folder of pictures")

    def feed(index: int) -> Feed:
        image, _ = dataset.load(index)
        return {input_name: model_input(image, preprocess, dtype)}

    indices = tuple(range(len(dataset)))
    content = tuple(dataset.content_hash(index) for index in indices)
    return Samples(dataset.name, feed, indices, content, {**to_plain(preprocess), "dtype": dtype})


def from_arrays(name: str, arrays: Sequence[Array], *, input_name: str) -> Samples:
    """Ready (1, C, H, W) arrays as samples."""
    if not arrays:
        raise UserError(f"'{name}' holds no arrays to calibrate with")
    content = tuple(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays)
    return Samples(name, lambda index: {input_name: arrays[index]}, tuple(range(len(arrays))), content)


def noise(specs: tuple[TensorSpec, ...], count: int, *, seed: int = 0) -> Samples:
    """Standard-normal feeds for a model without pictures; whatever is calibrated with them says so.

    Args:
        specs: The model's inputs, static shapes.
        count: How many feeds.
        seed: Makes them reproducible.
    """

    def feed(index: int) -> Feed:
        generator = np.random.default_rng((seed, index))
        return {spec.name: generator.standard_normal(spec.shape).astype(spec.dtype) for spec in specs}

    content = tuple(f"noise-{seed}-{index}" for index in range(count))
    return Samples(f"{count} feeds of Gaussian noise", feed, tuple(range(count)), content, noise=True)


def check_samples(samples: Samples, specs: tuple[TensorSpec, ...]) -> None:
    """Refuse samples that a model with these inputs cannot be calibrated with.

    Loads the first, the last and one sample between them.

    Raises:
        UserError: There are none, or all pictures are the same, or each is a single flat color.
        SpecError: A feed has another name, channel count, size or dtype than the model takes.
    """
    if len(samples) == 0:
        raise UserError(f"'{samples.name}' holds no calibration samples", hint="pass a folder of pictures")
    if len(samples) > 1 and len(set(samples.content)) == 1:
        raise UserError(
            f"all {len(samples)} calibration samples of '{samples.name}' have the same content",
            hint="ranges taken from one picture do not hold for others; pass different pictures",
        )
    probes = sorted({0, len(samples) // 2, len(samples) - 1})
    feeds = [samples.feed(samples.indices[position]) for position in probes]
    for feed in feeds:
        check_feed(specs, feed)
    if all(_is_flat(feed) for feed in feeds):
        raise UserError(
            f"the calibration pictures of '{samples.name}' are flat: every pixel of a picture has one value",
            hint="check that the pictures decode as expected",
        )


def _is_flat(feed: Feed) -> bool:
    """Whether no channel of any picture varies."""
    return all(float(np.ptp(array, axis=tuple(range(2, array.ndim))).max()) == 0.0 for array in feed.values())
