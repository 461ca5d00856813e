"""Semantic FPN: a feature pyramid and a head that brings every level to stride 4 and sums them.

Parameter names are those that mmsegmentation writes below ``neck.`` and ``decode_head.``.

Source: Panoptic Feature Pyramid Networks (CVPR 2019), with BatchNorm in the head.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from mscsa_deploy.models.layers import conv_bn, resize_bilinear, spatial_size

if TYPE_CHECKING:
    from collections.abc import Sequence

PYRAMID_CHANNELS, HEAD_CHANNELS, LEVELS = 256, 128, 4


def _named_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Sequential(OrderedDict(conv=conv))


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, nearest-neighbor top-down sums, 3x3 convolutions.

    Args:
        channels: Channels of the incoming maps, finest first.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_named_conv(each, PYRAMID_CHANNELS, 1) for each in channels)
        self.fpn_convs = nn.ModuleList(_named_conv(PYRAMID_CHANNELS, PYRAMID_CHANNELS, 3) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, c_i, H_i, W_i) to (N, 256, H_i, W_i)."""
        levels = [conv(each) for conv, each in zip(self.lateral_convs, maps, strict=True)]
        for index in range(len(levels) - 1, 0, -1):
            size = spatial_size(levels[index - 1])
            levels[index - 1] = levels[index - 1] + F.interpolate(levels[index], size=size, mode="nearest")
        return [conv(each) for conv, each in zip(self.fpn_convs, levels, strict=True)]


class Double(nn.Module):
    """Twice the height and width, bilinear."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2H, 2W)."""
        height, width = spatial_size(x)
        return resize_bilinear(x, (2 * height, 2 * width))


class FpnHead(nn.Module):
    """Per level, convolutions and doublings up to stride 4; their sum is classified.

    Args:
        classes: Channels of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList()
        for level in range(LEVELS):
            layers: list[nn.Module] = []
            for step in range(max(1, level)):
                inputs = PYRAMID_CHANNELS if step == 0 else HEAD_CHANNELS
                layers.append(conv_bn(inputs, HEAD_CHANNELS, 3, act=nn.ReLU()))
                if level > 0:
                    layers.append(Double())
            self.scale_heads.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(HEAD_CHANNELS, classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (N, 256, H_i, W_i) to logits (N, classes, H_0, W_0)."""
        total = self.scale_heads[0](levels[0])
        for head, level in zip(self.scale_heads[1:], levels[1:], strict=True):
            total = total + head(level)
        out: Tensor = self.conv_seg(self.dropout(total))
        return out
