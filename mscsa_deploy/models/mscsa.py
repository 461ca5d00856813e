"""Multi-Stage Cross-Scale Attention: one module that mixes the feature maps of all backbone stages.

All tensors are (N, C, H, W). The maps are pooled to one size, optionally squeezed, concatenated over channels
and passed through blocks of four pre-norm residual parts: CSA, Intra-FFN, CSA, FFN. Every projection is a 1x1
convolution and every norm a BatchNorm.

Source: MSCSA paper, sections 3.2 to 3.4 and appendix D; what it leaves open follows HRViT, LeViT and
TopFormer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mscsa_deploy.models.layers import BN_EPS, DropPath, MatMul, adaptive_pool, conv_bn, spatial_size
from mscsa_deploy.models.spec import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "gelu": nn.GELU, "hardswish": nn.Hardswish}
DROP_PATH_RATE = 0.1


@dataclass(frozen=True)
class MscsaConfig:
    """Widths of one MSCSA module (Table 7 of the paper).

    Args:
        stage_channels: Channels of the backbone's four maps, finest first.
        channels: Channels of each stage inside MSCSA; equal to `stage_channels` where nothing is squeezed.
        depth: Number of blocks.
        heads: Attention heads.
        key_dim: Width of a query and key head; a value head is twice as wide.
        mlp_ratio: Expansion of FFN and Intra-FFN.
        pool_stride: The common map is the last stage's size divided by this, rounded up: 1 or 2.
        options: The switches that change the computation.
    """

    stage_channels: tuple[int, ...]
    channels: tuple[int, ...]
    depth: int
    heads: int
    key_dim: int
    mlp_ratio: int
    pool_stride: int = 1
    options: ModelOptions = field(default_factory=ModelOptions)


class ScaledDown(nn.Module):
    """The coarser copies of a map that keys and values are also taken from.

    Args:
        channels: Channels of the map.
        options: `downsampling`, `multi_scale` and `dw_kernels` decide how many copies and how they are made.
    """

    def __init__(self, channels: int, options: ModelOptions) -> None:
        super().__init__()
        self.mode = options.downsampling
        self.kernels = options.dw_kernels
        first, second = options.dw_kernels
        shapes = {
            "parallel": ((first, 2), (second, 3)),
            "cascade": ((first, 2), (3, 2)),
            "single": ((first, 2),),
            "avgpool": (),
        }[self.mode]
        self.scales = 0 if not options.multi_scale else 1 if self.mode == "single" else 2
        self.convs = nn.ModuleList(
            conv_bn(channels, channels, kernel, stride=stride, groups=channels)
            for kernel, stride in shapes[: self.scales]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The copies at about 1/2 and 1/3 (cascade: 1/4) of the size of (N, C, H, W)."""
        if self.scales == 0:
            return []
        if self.mode == "avgpool":
            return [
                F.avg_pool2d(x, kernel, stride, kernel // 2, count_include_pad=False)
                for kernel, stride in zip(self.kernels, (2, 3), strict=True)
            ]
        copies: list[Tensor] = []
        for conv in self.convs:
            copies.append(conv(copies[-1] if copies and self.mode == "cascade" else x))
        return copies


class CrossScaleAttention(nn.Module):
    """CSA: queries at full size attend to keys and values of up to three scales (paper, section 3.2).

    Args:
        channels: Channels of the input and output.
        config: Heads, key width and switches.
    """

    def __init__(self, channels: int, config: MscsaConfig) -> None:
        super().__init__()
        self.heads, self.key_dim = config.heads, config.key_dim
        self.scale = config.key_dim**-0.5
        keys = config.heads * config.key_dim
        values = 2 * keys
        self.norm = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.down = ScaledDown(channels, config.options)
        scales = 1 + self.down.scales
        self.q = conv_bn(channels, keys)
        self.k = nn.ModuleList(conv_bn(channels, keys) for _ in range(scales))
        self.v = nn.ModuleList(conv_bn(channels, values) for _ in range(scales))
        self.scores, self.mix = MatMul(), MatMul()
        self.pcp: nn.Module | None = None
        if config.options.parallel_conv:
            dwconv = nn.Conv2d(values, values, 3, padding=1, groups=values)
            self.pcp = nn.Sequential(nn.Hardswish(), dwconv)
        self.norm_out = nn.BatchNorm2d(values, eps=BN_EPS)
        self.act = nn.Hardswish()
        self.proj = nn.Conv2d(values, channels, 1)

    def _tokens(self, maps: Sequence[Tensor], width: int) -> Tensor:
        """(N, heads, width, tokens of all maps), finest map first."""
        parts = []
        for each in maps:
            height, columns = spatial_size(each)
            parts.append(each.reshape(-1, self.heads, width, height * columns))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)

    def forward(self, x: Tensor) -> Tensor:
        """The branch's contribution to (N, channels, h, w)."""
        height, width = spatial_size(x)
        y = self.norm(x)
        scales = [y, *self.down(y)]
        q = self.q(y).reshape(-1, self.heads, self.key_dim, height * width) * self.scale
        values = [project(each) for project, each in zip(self.v, scales, strict=True)]
        k = self._tokens([project(each) for project, each in zip(self.k, scales, strict=True)], self.key_dim)
        v = self._tokens(values, 2 * self.key_dim)
        weights = self.scores(q.transpose(2, 3), k).softmax(dim=-1)
        mixed = self.mix(weights, v.transpose(2, 3)).transpose(2, 3)
        out = mixed.reshape(-1, 2 * self.heads * self.key_dim, height, width)
        if self.pcp is not None:
            out = out + self.pcp(values[0])
        projected: Tensor = self.proj(self.act(self.norm_out(out)))
        return projected


class FeedForward(nn.Module):
    """BatchNorm, 1x1 convolution, BatchNorm, 3x3 depthwise convolution, activation, 1x1 convolution.

    Args:
        channels: Channels of the input and output.
        ratio: The hidden width over `channels`.
        act: One of `ACTIVATIONS`.
    """

    def __init__(self, channels: int, ratio: int, act: str) -> None:
        super().__init__()
        hidden = channels * ratio
        self.norm = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.bn = nn.BatchNorm2d(hidden, eps=BN_EPS)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = ACTIVATIONS[act]()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The branch's contribution to (N, channels, h, w)."""
        out: Tensor = self.fc2(self.act(self.dwconv(self.bn(self.fc1(self.norm(x))))))
        return out


class IntraFeedForward(nn.Module):
    """One `FeedForward` per stage, each on its own channels (paper, section 3.3).

    Args:
        channels: Channels of each stage.
        ratio: The hidden width over a stage's channels.
        act: One of `ACTIVATIONS`.
    """

    def __init__(self, channels: tuple[int, ...], ratio: int, act: str) -> None:
        super().__init__()
        self.channels = list(channels)
        self.stages = nn.ModuleList(FeedForward(each, ratio, act) for each in channels)

    def forward(self, x: Tensor) -> Tensor:
        """The branch's contribution to (N, sum of channels, h, w)."""
        parts = x.split_with_sizes(self.channels, dim=1)
        return torch.cat([stage(part) for stage, part in zip(self.stages, parts, strict=True)], dim=1)


class MscsaBlock(nn.Module):
    """CSA, Intra-FFN, CSA, FFN, each added to its input.

    Args:
        config: Widths and switches.
        drop_path: Rates of the first two and of the last two parts.
    """

    def __init__(self, config: MscsaConfig, drop_path: tuple[float, float]) -> None:
        super().__init__()
        total, act = sum(config.channels), config.options.ffn_act
        self.csa1 = CrossScaleAttention(total, config)
        self.intra_ffn: nn.Module = (
            IntraFeedForward(config.channels, config.mlp_ratio, act)
            if config.options.intra_ffn
            else FeedForward(total, config.mlp_ratio, act)
        )
        self.csa2 = CrossScaleAttention(total, config)
        self.ffn = FeedForward(total, config.mlp_ratio, act)
        self.drop1, self.drop2 = (DropPath(rate) for rate in drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        x = x + self.drop1(self.csa1(x))
        x = x + self.drop1(self.intra_ffn(x))
        x = x + self.drop2(self.csa2(x))
        out: Tensor = x + self.drop2(self.ffn(x))
        return out


class Mscsa(nn.Module):
    """Pools, squeezes and concatenates the stages, runs the blocks, and normalizes the result.

    Args:
        config: Widths and switches.
    """

    def __init__(self, config: MscsaConfig) -> None:
        super().__init__()
        self.channels = list(config.channels)
        self.pool_stride = config.pool_stride
        self.squeeze = nn.ModuleList(
            nn.Identity() if inner == outer else nn.Conv2d(outer, inner, 1)
            for outer, inner in zip(config.stage_channels, config.channels, strict=True)
        )
        rates = torch.linspace(0, DROP_PATH_RATE, 2 * config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            MscsaBlock(config, (rates[2 * index], rates[2 * index + 1])) for index in range(config.depth)
        )
        self.norm = nn.BatchNorm2d(sum(config.channels), eps=BN_EPS)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (N, c_i, H_i, W_i), finest first, to one (N, C, h, w); channels stay ordered by stage."""
        height, width = spatial_size(maps[-1])
        size = (-(-height // self.pool_stride), -(-width // self.pool_stride))
        pooled = [squeeze(adaptive_pool(each, size)) for squeeze, each in zip(self.squeeze, maps, strict=True)]
        x = torch.cat(pooled, dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def split(self, mixed: Tensor) -> tuple[Tensor, ...]:
        """The output (N, C, h, w) cut back into one map per stage."""
        return tuple(mixed.split_with_sizes(self.channels, dim=1))
