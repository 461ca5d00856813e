"""What the student learns from the teacher: its soft answers and its features.

python examples/training/train.py --recipe examples/training/distill.toml --start training-run/state.pt \
        --teacher teacher-run/state.pt --work distill-run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from teacher import HEAD_CHANNELS, STAGES, TAPS, Teacher
from torch import Tensor, nn
from torch.nn import functional

TEACHER_STRIDE = 8


@dataclass(frozen=True)
class Weights:
    """How much each part of the loss counts; `background` is a background pixel's weight, an object's being 1."""

    classes: float
    instances: float
    features: float
    temperature: float
    background: float


def soft_cross_entropy(student: Tensor, teacher: Tensor, pixels: Tensor, temperature: float) -> Tensor:
    """Hinton's loss: the divergence of the softened answers, (N, C, h, w) both, weighted by pixel (N, 1, h, w)."""
    target = (teacher / temperature).log_softmax(dim=1)
    answer = (student / temperature).log_softmax(dim=1)
    divergence = (target.exp() * (target - answer)).sum(dim=1, keepdim=True)
    return (divergence * pixels).sum() / pixels.sum() * temperature**2


def feature_distance(student: Tensor, teacher: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared difference to the teacher's features, each channel of them scaled to mean 0 and deviation 1."""
    target = functional.batch_norm(teacher, None, None, training=True)
    difference = (student - target).square().mean(dim=1, keepdim=True)
    return (difference * pixels).sum() / pixels.sum()


class Distillation(nn.Module):
    """The frozen teacher and the 1x1 adapters from the student's features to its; thrown away after training.

    Args:
        student: A TopFormer segmenter; its injected maps and its fused map are read while it runs.
        state: The teacher's run.
        classes: Of the class map.
        weights: Of the parts of the loss.
    """

    def __init__(self, student: nn.Module, state: Path, classes: int, weights: Weights) -> None:
        super().__init__()
        saved = torch.load(state, weights_only=True)
        self.weights = weights
        teacher = Teacher(classes, frozen=len(STAGES))
        teacher.load_state_dict(saved["average"])
        self.teacher = teacher.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
        self.namer = nn.Conv2d(HEAD_CHANNELS, len(saved["instances"]["layer.bias"]), 1).requires_grad_(False)
        self.namer.load_state_dict({key.removeprefix("layer."): v for key, v in saved["instances"].items()})
        head = student.get_submodule("decode_head")
        fuse = head.get_submodule("linear_fuse")
        channels = fuse.get_submodule("conv").out_channels
        targets = [*(STAGES[tap][3] for tap in TAPS), HEAD_CHANNELS]
        self.adapters = nn.ModuleList(nn.Conv2d(int(channels), target, 1) for target in targets)
        self.injected: list[Tensor] = []
        self.fused = torch.empty(0)
        head.register_forward_pre_hook(self._keep_injected)
        fuse.register_forward_hook(self._keep_fused)

    def _keep_injected(self, module: nn.Module, inputs: tuple[list[Tensor]]) -> None:
        del module
        self.injected = list(inputs[0])

    def _keep_fused(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module, inputs
        self.fused = output

    def train(self, mode: bool = True) -> Distillation:
        """The teacher stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def ask(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The teacher's four feature maps, its class logits and its instance logits, float32."""
        with torch.autocast("cpu", torch.bfloat16):
            maps, fused = self.teacher.features(images)
        fused = fused.float()
        return [*(each.float() for each in maps), fused], self.teacher.classifier(fused), self.namer(fused)

    def forward(self, images: Tensor, masks: Tensor, logits: Tensor, names: Tensor) -> Tensor:
        """The loss of the student's pass over `images` just made.

        Args:
            images: (N, 3, H, W), normalized as for the student.
            masks: (N, H, W), 0 the background.
            logits: (N, classes, H / 8, W / 8), the student's.
            names: (N, instances, H / 8, W / 8), the student's.
        """
        features, teacher_logits, teacher_names = self.ask(images)
        half = TEACHER_STRIDE // 2
        objects = (masks[:, None, half::TEACHER_STRIDE, half::TEACHER_STRIDE] > 0).float()
        pixels = objects + (1 - objects) * self.weights.background
        temperature = self.weights.temperature
        loss = self.weights.classes * soft_cross_entropy(logits, teacher_logits, pixels, temperature)
        loss = loss + self.weights.instances * soft_cross_entropy(names, teacher_names, pixels, temperature)
        for own, target, adapter in zip([*self.injected, self.fused], features, self.adapters, strict=True):
            each = functional.adaptive_avg_pool2d(pixels, target.shape[2:])
            loss = loss + self.weights.features / len(features) * feature_distance(adapter(own), target, each)
        return loss
