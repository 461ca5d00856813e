"""What a composed scene is made of, as written in TOML: cut-outs, backgrounds, and the sets drawn from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from mscsa_deploy.core.config import Config, read_toml, to_json
from mscsa_deploy.errors import UserError

Split = Literal["seen", "held_out"]


class CutOut(Config, frozen=True, kw_only=True):
    """One object with an alpha channel.

    Args:
        file: Path beside the manifest.
        label: Class name.
        split: ``"seen"`` in training, or ``"held_out"`` from it.
        group: Near-duplicates and variants share a group, and a group lies on one side of the split.
        sha256: Of the file.
    """

    file: str
    label: str
    split: Split
    group: str
    sha256: str


class Background(Config, frozen=True, kw_only=True):
    """One photograph that objects are put on, with its terms and attribution."""

    file: str
    split: Split
    sha256: str
    title: str
    author: str
    license: str
    origin: str


class AssetManifest(Config, frozen=True, kw_only=True):
    """Everything scenes are composed from; class id 0 is the background, `labels[0]`."""

    labels: tuple[str, ...]
    cutouts: tuple[CutOut, ...]
    backgrounds: tuple[Background, ...]


class Style(Config, frozen=True, kw_only=True):
    """How a scene is laid out; lengths are pixels of the finished scene.

    Args:
        objects: Fewest and most objects.
        long_side: Shortest and longest long side of an object.
        turn_degrees: Objects are turned by at most this, either way.
        noise: Largest amplitude of the sensor noise, in gray levels.
    """

    objects: tuple[int, int] = (1, 5)
    long_side: tuple[int, int] = (90, 290)
    turn_degrees: float = 35.0
    noise: int = 8


class Part(Config, frozen=True, kw_only=True):
    """`scenes` scenes drawn from one side of the split, from one seed."""

    name: str
    split: Split
    scenes: int
    seed: int


class SceneSet(Config, frozen=True, kw_only=True):
    """A set of scenes: the assets it draws from, its size in pixels (height, width), its parts.

    Scenes of the parts take turns, so that the first N of a set are balanced too.
    """

    format: Literal["scenes-1"]
    name: str
    assets: str
    size: tuple[int, int]
    parts: tuple[Part, ...]
    style: Style = Style()


def read_assets(path: Path) -> AssetManifest:
    """The asset manifest at `path`.

    Raises:
        UserError: It cannot be read, names an unknown class, or a group lies on both sides of the split.
    """
    assets = read_toml(path, AssetManifest)
    unknown = sorted({entry.label for entry in assets.cutouts} - set(assets.labels[1:]))
    if unknown:
        raise UserError(f"'{path}': cut-outs of classes {unknown}, which 'labels' does not list")
    groups: dict[str, Split] = {}
    for entry in assets.cutouts:
        if groups.setdefault(entry.group, entry.split) != entry.split:
            raise UserError(f"'{path}': group '{entry.group}' lies on both sides of the split")
    return assets


def read_scene_set(path: Path) -> SceneSet:
    """The scene set at `path`.

    Raises:
        UserError: It cannot be read, is empty, or asks for an impossible layout.
    """
    scenes = read_toml(path, SceneSet)
    if sum(part.scenes for part in scenes.parts) < 1:
        raise UserError(f"'{path}': the set has no scenes")
    low, high = scenes.style.objects
    if not 0 <= low <= high or not 1 <= scenes.style.long_side[0] <= scenes.style.long_side[1]:
        raise UserError(f"'{path}': ranges of 'style' must be [smallest, largest]")
    return scenes


def fingerprint(assets: AssetManifest, scenes: SceneSet, part: Part) -> str:
    """Hash of all that decides what the scenes of `part` look like, except their index."""
    cutouts = [entry.sha256 for entry in assets.cutouts if entry.split == part.split]
    backgrounds = [entry.sha256 for entry in assets.backgrounds if entry.split == part.split]
    facts = (assets.labels, cutouts, backgrounds, scenes.size, scenes.style, part.split, part.seed)
    return hashlib.sha256(to_json(facts)).hexdigest()
