"""Train a classifier of the zoo on Fashion-MNIST, for INT8 figures of a trained classification model; CPU, one core.

The pictures are MIT-licensed and come with Debian; neither they nor the weights come with this project.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000
    python examples/training/classify.py --fashion fashion --model topformer_t_mscsa --output fashion-run \
        --start export/weights/topformer_t_mscsa.seg.safetensors
    mscsa-deploy deploy fashion-run/topformer_t_mscsa.toml --calibration fashion-run/calibration \
        --validation fashion-run/validation --evaluation fashion-run/evaluation -o fashion-out

With `--overlaid` a picture of another class shines through each, and the answer is the class of the stronger one. That
is harder, and what an INT8 recipe gets wrong shows sooner. With `--low-contrast` all pictures keep an eighth of their
contrast, as in fog: who calibrates INT8 on anything else than such pictures gets ranges that are far too wide.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from prepare import MEAN, STD
from torch import nn
from torch.nn import functional
from train import update_average

from mscsa_deploy.models.checkpoint import model_metadata, save_checkpoint
from mscsa_deploy.models.checkpoint_read import read_tensors
from mscsa_deploy.models.layers import DropPath
from mscsa_deploy.models.spec import ModelOptions, build_model

LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
HELD_BACK = 500
SIZE = 224
SEED = 5
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
SMOOTHING = 0.02
AVERAGE_DECAY = 0.98
OWN_SHARE = (0.55, 0.75)  # of an overlaid picture, the rest is the other one
CONTRAST = 1 / 8  # what is left of it in a picture of low contrast
GRAY = 116  # what the contrast is lowered around; close to the mean color, which is what zero padding stands for


@dataclass(frozen=True)
class Stage:
    """Training at one input size."""

    size: int
    batch: int
    steps: int

    @property
    def work(self) -> int:
        """Pixels seen, to which the time of a step is about proportional."""
        return self.size**2 * self.batch * self.steps

    def shortened(self, part: float) -> Stage:
        """The stage with that part of its steps, one at least."""
        return replace(self, steps=max(1, round(part * self.steps)))


@dataclass(frozen=True)
class Plan:
    """How one model is trained.

    A picture costs 12 times as much at 224 as at 64 pixels, and a model that knows 64 needs little more; the sizes
    grow in steps of about 1.5, for what a larger jump breaks takes longer to mend than the steps between.

    Args:
        rate: Peak learning rate; it falls as one cosine over the work of all stages.
        stages: In their order.
        bfloat16: Autocast all but depthwise convolutions, whose gradients are slow in bfloat16.
    """

    rate: float
    stages: tuple[Stage, ...]
    bfloat16: bool


PLANS = {
    "topformer_t_mscsa": Plan(
        1.5e-3, (Stage(64, 128, 800), Stage(96, 64, 250), Stage(144, 48, 200), Stage(SIZE, 32, 220)), bfloat16=False
    ),
    "pvt_v2_b0_mscsa": Plan(
        1.5e-3, (Stage(64, 128, 600), Stage(96, 64, 150), Stage(144, 32, 100), Stage(SIZE, 32, 90)), bfloat16=True
    ),
}


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 28, 28) and labels (N,), uint8, of ``"train"`` or ``"t10k"``."""
    (images,) = folder.rglob(f"{split}-images-idx3-ubyte.gz")
    (labels,) = folder.rglob(f"{split}-labels-idx1-ubyte.gz")
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 28, 28), np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)


def read_sets(
    folder: Path, *, overlay: bool, low_contrast: bool = False
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pictures (N, 28, 28) and labels (N,) of the four sets, uint8.

    Args:
        folder: The unpacked Debian package.
        overlay: Overlay all but the training set; a picture and what shines through it are of one set.
        low_contrast: Lower the contrast of all four.
    """
    images, labels = (torch.from_numpy(values.copy()) for values in read_split(folder, "train"))
    tested, answers = (torch.from_numpy(values.copy()) for values in read_split(folder, "t10k"))
    first, second, rest = slice(HELD_BACK), slice(HELD_BACK, 2 * HELD_BACK), slice(2 * HELD_BACK, None)
    held = {
        "calibration": (images[first], labels[first]),
        "validation": (images[second], labels[second]),
        "evaluation": (tested, answers),
    }
    if overlay:
        dice = torch.Generator().manual_seed(SEED)
        held = {name: (overlaid(*pair, dice), pair[1]) for name, pair in held.items()}
    sets = {**held, "training": (images[rest], labels[rest])}
    return {name: (faded(pair[0]), pair[1]) for name, pair in sets.items()} if low_contrast else sets


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


def overlaid(images: torch.Tensor, labels: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Each picture with another one of a different class shining through; the answer remains its own class.

    Args:
        images: (N, 28, 28) uint8.
        labels: (N,), of two classes at least.
        dice: Draws the other picture and the share of each.
    """
    other = torch.randperm(len(images), generator=dice)
    while len(same := (labels[other] == labels).nonzero()[:, 0]):
        other[same] = torch.randint(len(images), (len(same),), generator=dice)
    low, high = OWN_SHARE
    share = low + (high - low) * torch.rand((len(images), 1, 1), generator=dice)
    return torch.lerp(images[other].float(), images.float(), share).round().to(torch.uint8)


def faded(images: torch.Tensor) -> torch.Tensor:
    """Pictures, uint8, with `CONTRAST` of their contrast left around `GRAY`."""
    return (GRAY + (images.float() - GRAY) * CONTRAST).round().to(torch.uint8)


@torch.no_grad()
def amplify(model: nn.Module) -> None:
    """Make a model of plain pictures answer to faded ones as it did to those.

    The first convolution does it: with x = g + (x' - g) / c its W x + b is (W / c) x' + W g (1 - 1 / c) + b. Only what
    rounding lost, and the border, where zeros stand for a color that is not quite g, is left to training.

    Args:
        model: Its first convolution has a bias; changed in place.
    """
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    if first.bias is None:
        raise SystemExit("--low-contrast needs a model whose first convolution has a bias, e.g. pvt_v2_b0_mscsa")
    gray = torch.from_numpy((GRAY / 255 - MEAN) / STD).view(1, 3, 1, 1)
    first.bias += (first.weight * gray).sum((1, 2, 3)) * (1 - 1 / CONTRAST)
    first.weight /= CONTRAST


def batches(
    images: torch.Tensor, labels: torch.Tensor, batch: int, dice: torch.Generator, *, overlay: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled batches; half of the pictures mirrored, each batch shifted by up to one pixel, then overlaid."""
    while True:
        for places in torch.randperm(len(images), generator=dice).split(batch)[:-1]:
            right, down = (int(torch.randint(3, (), generator=dice)) - 1 for _ in range(2))
            chosen = torch.roll(images[places], (down, right), (1, 2))
            mirrored = torch.rand(len(chosen), generator=dice) < 0.5
            turned = torch.where(mirrored[:, None, None], chosen.flip(2), chosen)
            answers = labels[places].long()
            yield overlaid(turned, answers, dice) if overlay else turned, answers


def keep_float(layer: nn.Module) -> None:
    """Let a layer compute in float32 under autocast."""
    compute = layer.forward

    def forward(value: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return compute(value.float())

    layer.forward = forward  # type: ignore[method-assign]


def start_from(model: nn.Module, path: Path) -> int:
    """Take from a checkpoint of the same architecture what fits, e.g. all but the head of another task's.

    Returns:
        How many tensors were taken.
    """
    stored = read_tensors(path)[0]
    own = model.state_dict()
    fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; weight decay for matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups)


def learning_rate(plan: Plan, stage: int, step: int) -> float:
    """Linear warm-up, then the cosine; smaller batches get a rate smaller by the square root."""
    total = sum(each.work for each in plan.stages)
    done = sum(each.work for each in plan.stages[:stage]) + plan.stages[stage].work * step / plan.stages[stage].steps
    peak = plan.rate * math.sqrt(plan.stages[stage].batch / plan.stages[0].batch)
    warm = min(1.0, (step + 1) / WARMUP_STEPS) if stage == 0 else 1.0
    return peak * warm * 0.5 * (1 + math.cos(math.pi * done / total))


def train(
    model: nn.Module, plan: Plan, images: torch.Tensor, labels: torch.Tensor, *, overlay: bool = False
) -> nn.Module:
    """Run all stages; the averaged weights and statistics.

    Args:
        model: Trained in place.
        plan: Sizes, steps and rates.
        images: (N, 28, 28) uint8.
        labels: (N,) uint8.
        overlay: Train on overlaid pictures, each batch drawn anew.
    """
    for layer in model.modules():
        if isinstance(layer, DropPath):
            layer.rate = 0.0  # so few epochs leave nothing to regularize
    average = copy.deepcopy(model).eval()
    if plan.bfloat16:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                keep_float(layer)
    optimizer = make_optimizer(model)
    start, running = time.monotonic(), 0.0
    for number, stage in enumerate(plan.stages):
        dice = torch.Generator().manual_seed(SEED + stage.size)
        stream = batches(images, labels, stage.batch, dice, overlay=overlay)
        for step, (pictures, target) in zip(range(stage.steps), stream, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(plan, number, step)
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
                logits = model(as_input(pictures, stage.size))
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            update_average(average, model, AVERAGE_DECAY)
            running += float(loss.detach())
            if (step + 1) % 50 == 0:
                minutes = (time.monotonic() - start) / 60
                print(f"size {stage.size} step {step + 1} loss {running / 50:.3f} {minutes:.1f} min", flush=True)
                running = 0.0
        running = 0.0
    return average


@torch.no_grad()
def top1(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Percentage of right answers at the final size."""
    model.eval()
    right = sum(
        int((model(as_input(pictures, SIZE)).argmax(1) == answers).sum())
        for pictures, answers in zip(images.split(50), labels.split(50), strict=True)
    )
    return 100 * right / len(images)


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
    parser.add_argument("--model", choices=sorted(PLANS), default="topformer_t_mscsa")
    parser.add_argument("--start", type=Path, help="checkpoint of the same architecture to start from")
    parser.add_argument("--overlaid", action="store_true", help="another class shines through each picture")
    parser.add_argument(
        "--low-contrast", action="store_true", help="an eighth of the contrast; --start is of plain pictures"
    )
    parser.add_argument("--part", type=float, default=1.0, help="of the plan's steps, less than 1 e.g. to fine-tune")
    parser.add_argument("--smallest", type=int, default=0, metavar="PIXELS", help="skip the plan's sizes below")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    sets = read_sets(arguments.fashion, overlay=arguments.overlaid, low_contrast=arguments.low_contrast)
    for name in ("calibration", "validation", "evaluation"):
        write_folder(arguments.output / name, *(values.numpy() for values in sets[name]))
    options = ModelOptions(num_classes=len(LABELS))
    model = build_model(arguments.model, "cls", options).train().to(memory_format=torch.channels_last)
    if arguments.start is not None:
        print(f"{start_from(model, arguments.start)} of {len(model.state_dict())} tensors from {arguments.start}")
    if arguments.low_contrast:
        amplify(model)
    full = PLANS[arguments.model]
    kept = [stage for stage in full.stages if stage.size >= arguments.smallest]
    plan = replace(full, stages=tuple(stage.shortened(arguments.part) for stage in kept))
    model = train(model, plan, *sets["training"], overlay=arguments.overlaid)
    print(f"validation top-1 {top1(model, *sets['validation']):.1f} %", flush=True)
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
