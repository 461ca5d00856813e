"""Make calibration/scenes from the packages that carry its pictures.

The result is committed; run this only to change the choice of pictures.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz
    apt-get download lomiri-wallpapers-16.04 && dpkg-deb -x lomiri-wallpapers-16.04_*.deb lomiri
    pip download --no-deps scikit-image==0.26.0 && unzip scikit_image-0.26.0-*.whl 'skimage/data/*'
    python examples/training/collect.py --emoji package/assets \
        --photographs lomiri/usr/share/backgrounds skimage/data --output calibration/scenes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import numpy.typing as npt
from catalogue import BACKGROUNDS, CLASSES, FAMILIES, NEW_NAMES
from PIL import Image

Row = dict[str, str]
SPLIT_SEED = 20160
HELD_OUT_SHARE = 0.25
# Cosine of the centered 16x16 RGBA thumbnails of two cut-outs (or one mirrored) from which they count as variants.
SAME_GROUP = 0.90
PHOTO_LONG_SIDE = 1024


def slug(emoji: str) -> str:
    """A file name out of the Unicode names of `emoji`, joiners and presentation selectors left out."""
    names = [NEW_NAMES.get(sign) or unicodedata.name(sign) for sign in emoji if sign not in "\u200d\ufe0f"]
    return "-".join(names).lower().replace(" ", "_")


def source_file(folder: Path, emoji: str) -> Path:
    """The file of `emoji`; the package writes its code points with and without the presentation selector."""
    key = "-".join(f"{ord(sign):04x}" for sign in emoji if sign != "\ufe0f")
    for path in folder.glob(f"{ord(emoji[0]):04x}*.webp"):
        if path.stem.replace("-fe0f", "") == key:
            return path
    raise SystemExit(f"no picture of {emoji} ({key}) in {folder}")


def thumbnail(path: Path) -> npt.NDArray[np.float64]:
    """The visible part of a cut-out as a centered unit vector of 16x16 premultiplied RGBA."""
    image = Image.open(path).convert("RGBA")
    pixels = np.asarray(image.crop(image.getbbox()).resize((16, 16)), np.float64)
    pixels[..., :3] *= pixels[..., 3:] / 255
    vector = pixels - pixels.mean(axis=(0, 1))
    return vector / np.linalg.norm(vector)


def family_of(emoji: str) -> int | None:
    """Number of the family of variants that `emoji` belongs to, if any."""
    return next((number for number, signs in enumerate(FAMILIES) if emoji in signs.split()), None)


def group_of(paths: list[Path], families: list[int | None]) -> list[int]:
    """For each picture the index of one that it is a variant of, by name or by looks (its own if of none)."""
    thumbs = [thumbnail(path) for path in paths]
    groups = list(range(len(paths)))
    for later, one in enumerate(thumbs):
        for earlier, other in enumerate(thumbs[:later]):
            alike = max(np.sum(one * other), np.sum(one * other[:, ::-1])) >= SAME_GROUP
            named = families[later] is not None and families[later] == families[earlier]
            if alike or named:
                old, new = groups[later], groups[earlier]
                groups = [new if group == old else group for group in groups]
    return groups


def held_out(groups: list[int], dice: random.Random) -> set[int]:
    """Groups to hold out, whole ones, at most a quarter of the pictures."""
    order = sorted(set(groups))
    dice.shuffle(order)
    chosen: set[int] = set()
    for group in order:
        if sum(g in chosen for g in groups) + groups.count(group) <= round(HELD_OUT_SHARE * len(groups)):
            chosen.add(group)
    return chosen


def copy_class(label: str, named: dict[str, Path], groups: list[int], chosen: set[int], output: Path) -> list[Row]:
    """Copy the cut-outs of one class, byte for byte, and return their manifest rows."""
    (output / "cutouts" / label).mkdir(parents=True, exist_ok=True)
    names = list(named)
    rows = []
    for (name, path), group in zip(named.items(), groups, strict=True):
        target = output / "cutouts" / label / f"{name}{path.suffix}"
        shutil.copyfile(path, target)
        rows.append(
            {
                "file": str(target.relative_to(output)),
                "label": label,
                "split": "held_out" if group in chosen else "seen",
                "group": f"{label}/{names[group]}",
                "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
            }
        )
    return rows


def copy_cutouts(emoji: Path, output: Path) -> list[Row]:
    """Copy the chosen emoji and return their manifest rows."""
    dice = random.Random(SPLIT_SEED)  # noqa: S311 - a reproducible split, not a secret
    rows = []
    for label, signs in CLASSES.items():
        named = {slug(sign): source_file(emoji, sign) for sign in signs.split()}
        groups = group_of(list(named.values()), families=[family_of(sign) for sign in signs.split()])
        rows += copy_class(label, named, groups, held_out(groups, dice), output)
    return rows


def copy_backgrounds(folders: list[Path], output: Path) -> list[Row]:
    """Shrink the chosen photographs to JPEG and return their manifest rows."""
    (output / "backgrounds").mkdir(parents=True, exist_ok=True)
    rows = []
    for photo in BACKGROUNDS:
        path = next(folder / photo.file for folder in folders if (folder / photo.file).exists())
        image = Image.open(path).convert("RGB")
        image.thumbnail((PHOTO_LONG_SIDE, PHOTO_LONG_SIDE), Image.Resampling.LANCZOS)
        target = output / "backgrounds" / f"{path.stem.lower()}.jpg"
        image.save(target, quality=88, subsampling=0)
        rows.append(
            {
                "file": str(target.relative_to(output)),
                "split": photo.split,
                "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
                "title": photo.title,
                "author": photo.author,
                "license": photo.license,
                "origin": photo.origin,
            }
        )
    return rows


def inline_tables(name: str, rows: list[Row]) -> list[str]:
    """`rows` as a TOML array of inline tables, one a line."""
    lines = ["  {" + ", ".join(f"{key} = {json.dumps(row[key])}" for key in row) + "}," for row in rows]
    return [f"{name} = [", *lines, "]"]


def write_manifest(path: Path, labels: list[str], cutouts: list[Row], backgrounds: list[Row], source: str) -> None:
    """Write the asset manifest and say how the classes are split."""
    lines = [
        f"# Written by {source}; sources and terms are in the README beside this file.",
        f"labels = {json.dumps(['background', *labels])}",
        "",
        *inline_tables("cutouts", cutouts),
        "",
        *inline_tables("backgrounds", backgrounds),
    ]
    path.write_text("\n".join(lines) + "\n")
    for label in labels:
        mine = [row for row in cutouts if row["label"] == label]
        held = sum(row["split"] == "held_out" for row in mine)
        print(f"{label}: {len(mine)} cut-outs, {held} held out, {len({row['group'] for row in mine})} groups")


def main() -> None:
    """Write the pictures and assets.toml."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=Path, required=True, help="the package's assets folder")
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, help="folders that hold the photographs")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    cutouts = copy_cutouts(arguments.emoji, arguments.output)
    backgrounds = copy_backgrounds(arguments.photographs, arguments.output)
    source = "examples/training/collect.py"
    write_manifest(arguments.output / "assets.toml", list(CLASSES), cutouts, backgrounds, source)


if __name__ == "__main__":
    main()
