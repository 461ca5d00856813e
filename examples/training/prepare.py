"""Training scenes: composed on the fly from the seen side of the shipped split, never one of the shipped sets' scenes.

python examples/training/prepare.py --preview preview.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from mscsa_deploy.imaging.manifest import AssetManifest, CutOut, Style
from mscsa_deploy.imaging.scenes import AssetStore, Dice, compose, photograph

ASSETS = Path(__file__).parents[2] / "calibration" / "scenes" / "assets.toml"
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# Objects keep the size in pixels that they have in the 512x512 sets, within what a smaller scene can hold.
FINAL_SIZE = 512
SMALL_WINDOW = 128


def seen_cutouts(assets: AssetManifest) -> list[CutOut]:
    """The cut-outs that training may draw, in the order of the manifest."""
    return [entry for entry in assets.cutouts if entry.split == "seen"]


def class_table(assets: AssetManifest) -> torch.Tensor:
    """The class id of each number in a training mask, (1 + seen cut-outs,) int64."""
    return torch.tensor([0, *(assets.labels.index(entry.label) for entry in seen_cutouts(assets))])


def style_for(size: int) -> Style:
    """The layout of square training scenes of `size` pixels: fewer objects in smaller windows of the same world."""
    if size >= FINAL_SIZE:
        return Style(turn_degrees=40.0, noise=10)
    longest = min(290, round(size * 0.95))
    shortest = 70 if size > SMALL_WINDOW else 48
    objects = (1, 3) if size > SMALL_WINDOW else (1, 2)
    return Style(objects=objects, long_side=(shortest, longest), turn_degrees=40.0, noise=10)


def backdrop(store: AssetStore, dice: Dice, size: int) -> Image.Image:
    """A photograph, two mixed photographs, or a smooth random field: more variety than nine photographs have."""
    kind = dice.real(0, 1)
    if kind < 0.65:
        return photograph(store, "seen", dice, (size, size))
    if kind < 0.85:
        first, second = (photograph(store, "seen", dice, (size, size)) for _ in range(2))
        return Image.blend(first, second, dice.real(0.2, 0.8))
    cells = dice.whole(2, 24)
    field = dice.noise((cells, cells, 3), 127).astype(np.float32) * dice.real(0.2, 1.0)
    tint = np.array([dice.real(40, 215) for _ in range(3)], np.float32)
    colors = np.clip(tint + field, 0, 255).astype(np.uint8)
    return Image.fromarray(colors).resize((size, size), Image.Resampling.BICUBIC)


class TrainingScenes(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """An endless stream of (image, mask) batches.

    Args:
        size: Height and width of the scenes in pixels.
        batch: Scenes a batch.
        seed: Of the stream.
        first: Scene index to start from, to go on where an earlier stream stopped.
        assets: The manifest to draw from.
    """

    def __init__(self, size: int, batch: int, seed: int, *, first: int = 0, assets: Path = ASSETS) -> None:
        self.size, self.batch, self.seed, self.first, self.assets = size, batch, seed, first, assets

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images (N, 3, size, size) uint8 channels last, masks (N, size, size) int16, 1 + the seen cut-out's number."""
        store = AssetStore.read(self.assets)
        numbers = {entry.file: 1 + place for place, entry in enumerate(seen_cutouts(store.manifest))}
        style = style_for(self.size)
        index = self.first
        while True:
            pairs = []
            for _ in range(self.batch):
                dice = Dice(self.seed, index)
                pairs.append(
                    compose(
                        store,
                        "seen",
                        dice,
                        (self.size, self.size),
                        style,
                        backdrop=backdrop(store, dice, self.size),
                        numbers=numbers,
                    )
                )
                index += 1
            images = np.stack([image for image, _ in pairs])
            masks = np.stack([mask for _, mask in pairs]).astype(np.int16)
            yield torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 RGB as the float32 input of the model (ImageNet mean and deviation)."""
    scale = torch.from_numpy(1 / (255 * STD)).view(1, 3, 1, 1)
    shift = torch.from_numpy(-MEAN / STD).view(1, 3, 1, 1)
    return images.float().mul_(scale).add_(shift).contiguous(memory_format=torch.channels_last)


def main() -> None:
    """Write a sheet of training scenes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preview", type=Path, required=True, help="where to write the picture")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    images, masks = next(iter(TrainingScenes(arguments.size, 8, seed=1)))
    top = np.concatenate(list(images.permute(0, 2, 3, 1).numpy()), axis=1)
    bottom = np.concatenate(list((masks.numpy() * 37 % 256).astype(np.uint8)), axis=1)
    Image.fromarray(np.concatenate([top, np.repeat(bottom[..., None], 3, axis=2)])).save(arguments.preview)


if __name__ == "__main__":
    main()
