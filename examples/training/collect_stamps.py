"""Make a second, photographic set of scenes out of Tux Paint's stamps, for local use.

The stamps are GPL-2, so neither they nor weights trained on them come with this project.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb tux
    python examples/training/collect_stamps.py --stamps tux/usr/share/tuxpaint/stamps --output stamps
    python examples/training/train.py --recipe examples/training/stamps.toml --assets stamps/assets.toml \
        --start distill-run/state.pt --work stamps/run
    python examples/training/publish.py --recipe examples/training/stamps.toml --assets stamps/assets.toml \
        --work stamps/run --output stamps/w.safetensors
    python examples/training/evaluate.py stamps/w.safetensors --scenes stamps/evaluation.toml
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import tomllib
from pathlib import Path

from collect import SPLIT_SEED, Row, copy_class, group_of, held_out, write_manifest
from PIL import Image

SHIPPED = Path(__file__).parents[2] / "calibration" / "scenes"
CLASSES: dict[str, tuple[str, ...]] = {
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "fish": ("animals/fish", "animals/shellfish"),
    "insect_reptile": ("animals/insects", "animals/amphibians", "animals/lizards"),
    "fruit_vegetable": ("food/fruit", "food/nuts", "food/vegetables"),
    "flower": ("plants/flowers",),
    "tree_mushroom": ("plants/trees", "plants/mushrooms"),
    "household": ("household",),
    "music": ("hobbies/music",),
    "coin": ("symbols/money",),
    "sign": ("town/roadsigns",),
    "vehicle": ("vehicles",),
}


def stamps_of(root: Path, folders: tuple[str, ...]) -> dict[str, Path]:
    """Photographic stamps with an alpha channel below `folders`, by name; drawings (``cartoon``) are left out."""
    found = {}
    for folder in folders:
        for path in sorted((root / folder).rglob("*.png")):
            drawn = "cartoon" in path.parts or path.stem.endswith(("_mirror", "_flip"))
            if not drawn and Image.open(path).mode in {"RGBA", "LA", "P"}:
                found["-".join(path.relative_to(root).with_suffix("").parts)] = path
    return found


def family_names(paths: list[Path]) -> list[int | None]:
    """Stamps whose file names begin with the same word (gnu-stand, gnu-sitting; wrench_adjustable) are one family."""
    words = [re.split(r"[-_\d]", path.stem.lower())[0] for path in paths]
    return [words.index(word) for word in words]


def copy_backgrounds(output: Path) -> list[Row]:
    """The shipped photographs, with their side of the split."""
    shutil.copytree(SHIPPED / "backgrounds", output / "backgrounds", dirs_exist_ok=True)
    rows: list[Row] = tomllib.loads((SHIPPED / "assets.toml").read_text())["backgrounds"]
    return rows


def main() -> None:
    """Write the cut-outs, assets.toml and evaluation.toml."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    dice = random.Random(SPLIT_SEED)  # noqa: S311 - a reproducible split, not a secret
    cutouts: list[Row] = []
    for label, folders in CLASSES.items():
        named = stamps_of(arguments.stamps, folders)
        groups = group_of(list(named.values()), family_names(list(named.values())))
        cutouts += copy_class(label, named, groups, held_out(groups, dice), arguments.output)
    backgrounds = copy_backgrounds(arguments.output)
    source = "examples/training/collect_stamps.py"
    write_manifest(arguments.output / "assets.toml", list(CLASSES), cutouts, backgrounds, source)
    shutil.copyfile(SHIPPED / "evaluation.toml", arguments.output / "evaluation.toml")


if __name__ == "__main__":
    main()
