"""TopFormer's token pyramid: a small convolutional backbone of inverted residuals.

Parameter names are those of the public TopFormer code.

Source: TopFormer (CVPR 2022), hustvl/TopFormer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mscsa_deploy.models.layers import conv_bn

STEM_CHANNELS = 16


@dataclass(frozen=True)
class TopFormerConfig:
    """Widths of one TopFormer.

    Args:
        rows: Kernel, expansion, output channels and stride of each inverted residual.
        taps: Indices into `rows` whose outputs are the four stages.
        channels: Channels of the four stages.
        heads: Attention heads of the transformer and of MSCSA.
        key_dim: Width of an MSCSA query head.
        head_channels: Channels of the injected maps and of the segmentation head.
        depthwise_head: Whether the segmentation head's fusing convolution is depthwise.
    """

    rows: tuple[tuple[int, int, int, int], ...]
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    heads: int
    key_dim: int
    head_channels: int
    depthwise_head: bool


class InvertedResidual(nn.Module):
    """1x1 expansion (if any), depthwise convolution, 1x1 projection, with a skip where the shapes allow.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Kernel of the depthwise convolution.
        stride: Its step.
        expansion: Hidden channels over `inputs`; 1 has no expanding convolution.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [] if expansion == 1 else [conv_bn(inputs, hidden, name="c"), nn.ReLU()]
        layers += [
            conv_bn(hidden, hidden, kernel, stride=stride, groups=hidden, name="c"),
            nn.ReLU(),
            conv_bn(hidden, outputs, name="c"),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.skip else out


class TokenPyramid(nn.Module):
    """The convolutional backbone; returns the maps at strides 4, 8, 16 and 32."""

    def __init__(self, config: TopFormerConfig) -> None:
        super().__init__()
        self.taps = config.taps
        self.stem = nn.Sequential(conv_bn(3, STEM_CHANNELS, 3, stride=2, name="c"), nn.ReLU())
        channels = STEM_CHANNELS
        self.names: list[str] = []
        for number, (kernel, expansion, outputs, stride) in enumerate(config.rows, start=1):
            layer = InvertedResidual(channels, outputs, kernel=kernel, stride=stride, expansion=expansion)
            self.add_module(f"layer{number}", layer)
            self.names.append(f"layer{number}")
            channels = outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to four maps (N, c_i, H / 2**(i + 2), W / 2**(i + 2))."""
        x = self.stem(x)
        maps = []
        for index, name in enumerate(self.names):
            x = self.get_submodule(name)(x)
            if index in self.taps:
                maps.append(x)
        return maps
