"""Scenes composed from a seed: cut-outs with alpha over photographs, with exact class masks.

Only operations whose result does not depend on the machine are used: uniform doubles of PCG64, integer look-up
tables, and Pillow's 8-bit resampling and pasting.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging.manifest import (
    AssetManifest,
    Background,
    CutOut,
    Part,
    SceneSet,
    Split,
    Style,
    read_assets,
    read_scene_set,
)
from mscsa_deploy.imaging.manifest import fingerprint as part_fingerprint

Pixels = npt.NDArray[np.uint8]
MASK_THRESHOLD = 128
_SHADOW_COARSENESS = 8
_FLIP = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass
class AssetStore:
    """Cut-outs and backgrounds, decoded once and kept.

    Args:
        folder: Where the files of the manifest lie.
        manifest: What there is.
    """

    folder: Path
    manifest: AssetManifest
    _decoded: dict[str, Image.Image] = field(default_factory=dict, repr=False)
    _by_class: dict[Split, list[list[CutOut]]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: Path) -> AssetStore:
        """The store of the asset manifest at `path`."""
        return cls(path.parent, read_assets(path))

    def classes(self, split: Split) -> list[list[CutOut]]:
        """Cut-outs of `split` per class id - 1; a class may be empty."""
        if split not in self._by_class:
            entries = [entry for entry in self.manifest.cutouts if entry.split == split]
            self._by_class[split] = [
                [entry for entry in entries if entry.label == label] for label in self.manifest.labels[1:]
            ]
        return self._by_class[split]

    def backgrounds(self, split: Split) -> list[Background]:
        """Backgrounds of `split`."""
        return [entry for entry in self.manifest.backgrounds if entry.split == split]

    def picture(self, entry: CutOut | Background) -> Image.Image:
        """The decoded picture of `entry`: RGBA cropped to what is visible, or RGB.

        Raises:
            UserError: The file is missing or is not the one the manifest describes.
        """
        if entry.file not in self._decoded:
            path = self.folder / entry.file
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UserError(f"cannot read '{path}': {error.strerror}", hint="restore the shipped files") from error
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise UserError(f"'{path}' is not the file its manifest describes", hint="restore the shipped files")
            image = Image.open(io.BytesIO(data)).convert("RGBA" if isinstance(entry, CutOut) else "RGB")
            self._decoded[entry.file] = image.crop(image.getbbox()) if isinstance(entry, CutOut) else image
        return self._decoded[entry.file]


class Dice:
    """The random choices of one scene; only uniform doubles, whose stream NumPy keeps stable.

    Args:
        seed: Of the set's part.
        index: Of the scene in it.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))

    def real(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def whole(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return low + int((high - low + 1) * float(self._generator.random()))

    def noise(self, shape: tuple[int, ...], amplitude: int) -> npt.NDArray[np.int16]:
        """Uniform whole numbers in -amplitude..amplitude."""
        raw = np.frombuffer(self._generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
        return (raw.astype(np.int16) * (2 * amplitude + 1) >> 8) - np.int16(amplitude)


def _gain_table(gains: list[float], offset: float) -> list[int]:
    steps = np.arange(256, dtype=np.float64)
    return [int(v) for gain in gains for v in np.clip(np.rint(steps * gain + offset), 0, 255)]


def photograph(store: AssetStore, split: Split, dice: Dice, size: tuple[int, int]) -> Image.Image:
    """A randomly cropped, flipped and lit photograph of `split`, RGB, `size` (height, width) pixels."""
    height, width = size
    entries = store.backgrounds(split)
    image = store.picture(entries[dice.whole(0, len(entries) - 1)])
    fit = min(image.width / width, image.height / height)
    zoom = fit * dice.real(0.45, 1.0)
    left = dice.real(0, image.width - zoom * width)
    top = dice.real(0, image.height - zoom * height)
    box = (left, top, min(left + zoom * width, image.width), min(top + zoom * height, image.height))
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if dice.whole(0, 1):
        image = image.transpose(_FLIP)
    light = dice.real(0.75, 1.15)
    return image.point(_gain_table([light * dice.real(0.92, 1.08) for _ in range(3)], dice.real(-12, 12)))


def _cutout(store: AssetStore, entry: CutOut, dice: Dice, style: Style) -> Image.Image:
    image = store.picture(entry)
    ratio = dice.real(*style.long_side) / max(image.size)
    image = image.resize(
        (max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), Image.Resampling.BILINEAR
    )
    if dice.whole(0, 1):
        image = image.transpose(_FLIP)
    image = image.rotate(dice.real(-style.turn_degrees, style.turn_degrees), Image.Resampling.BILINEAR, expand=True)
    light = dice.real(0.8, 1.15)
    color = _gain_table([light * dice.real(0.93, 1.07) for _ in range(3)], dice.real(-10, 10))
    return image.point(color + list(range(256)))


def _paste(canvas: Image.Image, mask: Image.Image, cutout: Image.Image, value: int, dice: Dice) -> None:
    left = round(dice.real(0.08, 0.92) * canvas.width - cutout.width / 2)
    top = round(dice.real(0.08, 0.92) * canvas.height - cutout.height / 2)
    alpha = cutout.getchannel("A")
    depth = dice.real(0.0, 0.45)
    coarse = (max(1, cutout.width // _SHADOW_COARSENESS), max(1, cutout.height // _SHADOW_COARSENESS))
    shadow = alpha.resize(coarse, Image.Resampling.BOX).resize(cutout.size, Image.Resampling.BILINEAR)
    shift = (round(dice.real(-0.06, 0.06) * cutout.width), round(dice.real(0.0, 0.08) * cutout.height))
    canvas.paste((12, 12, 16), (left + shift[0], top + shift[1]), shadow.point(_gain_table([depth], 0.0)))
    canvas.paste(cutout, (left, top), alpha)
    inside = alpha.point([0] * MASK_THRESHOLD + [255] * (256 - MASK_THRESHOLD))
    mask.paste(value, (left, top), inside)


def compose(
    store: AssetStore,
    split: Split,
    dice: Dice,
    size: tuple[int, int],
    style: Style,
    *,
    backdrop: Image.Image | None = None,
    numbers: Mapping[str, int] | None = None,
) -> tuple[Pixels, npt.NDArray[np.integer]]:
    """One scene and its mask.

    Args:
        store: What to draw from.
        split: Which side of the split.
        dice: The scene's random choices.
        size: Height and width in pixels.
        style: Layout.
        backdrop: RGB picture of that size to use instead of one of the split's photographs.
        numbers: What to write into the mask for each cut-out's file, instead of its class id.

    Returns:
        (H, W, 3) uint8 RGB and (H, W) uint8 class ids (int32 with `numbers`), 0 the background; a pixel belongs to
        the topmost object whose alpha is at least 128.
    """
    canvas = photograph(store, split, dice, size) if backdrop is None else backdrop.copy()
    mask = Image.new("L" if numbers is None else "I", canvas.size, 0)
    filled = [(number, entries) for number, entries in enumerate(store.classes(split), start=1) if entries]
    for _ in range(dice.whole(*style.objects)):
        class_id, entries = filled[dice.whole(0, len(filled) - 1)]
        entry = entries[dice.whole(0, len(entries) - 1)]
        value = class_id if numbers is None else numbers[entry.file]
        _paste(canvas, mask, _cutout(store, entry, dice, style), value, dice)
    image = np.asarray(canvas)
    if amplitude := dice.whole(0, style.noise):
        noisy = image + dice.noise(image.shape, amplitude)
        image = np.clip(noisy, 0, 255).astype(np.uint8)
    return image, np.asarray(mask)


class SceneDataset:
    """The scenes of one set, composed on demand; the same bytes each time.

    Args:
        store: Its assets.
        scenes: Its description.
    """

    def __init__(self, store: AssetStore, scenes: SceneSet) -> None:
        self.store = store
        self.scenes = scenes
        self.name = scenes.name
        self.labels: tuple[str, ...] | None = store.manifest.labels
        self.order = _take_turns(scenes.parts)
        self._fingerprints = {part.name: part_fingerprint(store.manifest, scenes, part) for part in scenes.parts}

    def __len__(self) -> int:
        return len(self.order)

    def load(self, index: int) -> tuple[Pixels, npt.NDArray[np.integer]]:
        """Image (H, W, 3) uint8 RGB and mask (H, W) uint8 class ids of scene `index`."""
        part, within = self.order[index]
        return compose(self.store, part.split, Dice(part.seed, within), self.scenes.size, self.scenes.style)

    def content_hash(self, index: int) -> str:
        """Hash of everything that decides scene `index`; nothing is composed for it."""
        part, within = self.order[index]
        return hashlib.sha256(f"{self._fingerprints[part.name]}:{within}".encode()).hexdigest()

    def target_hash(self, index: int) -> str:
        """What decides the picture decides its mask."""
        del index
        return ""

    def part_of(self, index: int) -> str:
        """Name of the part that scene `index` belongs to."""
        return self.order[index][0].name


def _take_turns(parts: tuple[Part, ...]) -> list[tuple[Part, int]]:
    longest = max(part.scenes for part in parts)
    return [(part, within) for within in range(longest) for part in parts if within < part.scenes]


def open_scenes(path: Path) -> SceneDataset:
    """The scene set described by the TOML file at `path`.

    Raises:
        UserError: The file or its assets cannot be read, or a part has no cut-outs or backgrounds to draw from.
    """
    scenes = read_scene_set(path)
    store = AssetStore.read(path.parent / scenes.assets)
    for part in scenes.parts:
        if not any(store.classes(part.split)) or not store.backgrounds(part.split):
            raise UserError(f"'{path}': part '{part.name}' has no cut-outs or backgrounds of split '{part.split}'")
    return SceneDataset(store, scenes)
