"""Train a classifier of the zoo on Fashion-MNIST, for INT8 figures of a trained classification model; CPU, 15 minutes.

The pictures are MIT-licensed and come with Debian; neither they nor the weights come with this project.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    python examples/training/classify.py --fashion fashion --model topformer_t_mscsa --output fashion-run
    mscsa-deploy deploy fashion-run/topformer_t_mscsa.toml --calibration fashion-run/calibration \
        --validation fashion-run/validation --evaluation fashion-run/evaluation -o fashion-out
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from prepare import MEAN, STD
from torch import nn
from torch.nn import functional

from mscsa_deploy.models.checkpoint import model_metadata, save_checkpoint
from mscsa_deploy.models.spec import ModelOptions, build_model

LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
HELD_BACK = 500
SIZE = 224
SEED = 5
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Stage:
    """Training at one input size; the learning rate falls as a cosine from `rate` to nothing."""

    size: int
    batch: int
    steps: int
    rate: float


# The first 224 stage is a slow start after the change of size; the second does the work.
STAGES = (Stage(64, 128, 800, 2e-3), Stage(SIZE, 64, 80, 4e-4), Stage(SIZE, 32, 260, 1.2e-3))


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) and labels (N,), uint8, of ``"train"`` or ``"t10k"``."""
    (images,) = folder.rglob(f"{split}-images-idx3-ubyte.gz")
    (labels,) = folder.rglob(f"{split}-labels-idx1-ubyte.gz")
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 28, 28), np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)


def write_folder(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """One folder per class id with its pictures."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        target = folder / str(label) / f"{number:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)


def as_input(images: torch.Tensor, size: int) -> torch.Tensor:
    """(N, 28, 28) uint8 as the float32 input (N, 3, size, size) of the model."""
    scale = torch.from_numpy(1 / (255 * STD)).view(1, 3, 1, 1)
    shift = torch.from_numpy(-MEAN / STD).view(1, 3, 1, 1)
    grown = functional.interpolate(images[:, None].float(), size=(size, size), mode="bilinear", align_corners=False)
    return (grown * scale + shift).contiguous(memory_format=torch.channels_last)


def batches(
    images: torch.Tensor, labels: torch.Tensor, batch: int, dice: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled batches, half of them mirrored and each shifted by up to two pixels."""
    while True:
        for places in torch.randperm(len(images), generator=dice).split(batch)[:-1]:
            flip, right, down = (int(torch.randint(high, (), generator=dice)) for high in (2, 5, 5))
            chosen = torch.roll(images[places], (down - 2, right - 2), (1, 2))
            yield (chosen.flip(2) if flip else chosen), labels[places].long()


def train(model: nn.Module, stage: Stage, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Run one stage."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    stream = batches(images, labels, stage.batch, torch.Generator().manual_seed(SEED + stage.size))
    start, running = time.monotonic(), 0.0
    for step in range(1, stage.steps + 1):
        rate = stage.rate * min(1, step / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / (stage.steps + 1)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pictures, target = next(stream)
        loss = functional.cross_entropy(model(as_input(pictures, stage.size)), target, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        running += float(loss.detach())
        if step % 50 == 0:
            minutes = (time.monotonic() - start) / 60
            print(f"size {stage.size} step {step}/{stage.steps} loss {running / 50:.3f} {minutes:.1f} min", flush=True)
            running = 0.0


def export_recipe(model: str) -> str:
    """What `mscsa-deploy` needs to know of the model; the pictures are square, so a short side of 224 cuts nothing."""
    return f"""\
model = "{model}"
task = "cls"
weights = "{model}.safetensors"
size = [{SIZE}, {SIZE}]
labels = {json.dumps(LABELS)}

[preprocess]
short_side = {SIZE}
interpolation = "bilinear"
"""


def main() -> None:
    """Write the three image sets and the trained weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fashion", type=Path, required=True, help="the unpacked Debian package")
    parser.add_argument("--model", default="topformer_t_mscsa")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    images, labels = read_split(arguments.fashion, "train")
    write_folder(arguments.output / "calibration", images[:HELD_BACK], labels[:HELD_BACK])
    second = slice(HELD_BACK, 2 * HELD_BACK)
    write_folder(arguments.output / "validation", images[second], labels[second])
    write_folder(arguments.output / "evaluation", *read_split(arguments.fashion, "t10k"))
    rest = slice(2 * HELD_BACK, None)
    options = ModelOptions(num_classes=len(LABELS))
    model = build_model(arguments.model, "cls", options).train().to(memory_format=torch.channels_last)
    for stage in STAGES:
        train(model, stage, torch.from_numpy(images[rest].copy()), torch.from_numpy(labels[rest].copy()))
    save_checkpoint(
        arguments.output / f"{arguments.model}.safetensors",
        model,
        model_metadata(arguments.model, "cls", options),
        half=True,
        force=True,
    )
    (arguments.output / f"{arguments.model}.toml").write_text(export_recipe(arguments.model))


if __name__ == "__main__":
    main()
