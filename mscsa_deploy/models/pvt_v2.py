"""PVTv2-B0, -B1 and -B2, alone or with MSCSA beside them, for classification and with Semantic FPN.

Parameter names are those of the public PVT code, below ``backbone.``; ``head`` is the classifier.

Source: PVT v2 (CVMJ 2022), whai362/PVT; MSCSA paper, section 3.4, appendix and Table 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mscsa_deploy.models.injection import Injection
from mscsa_deploy.models.layers import DropPath, MatMul, initialize, spatial_size
from mscsa_deploy.models.mscsa import Mscsa, MscsaConfig
from mscsa_deploy.models.semantic_fpn import FeaturePyramid, FpnHead

if TYPE_CHECKING:
    from mscsa_deploy.models.spec import ModelOptions, ModelSpec

DROP_PATH_RATE = 0.1
BLOCK_EPS, INNER_EPS = 1e-6, 1e-5
HEADS, RATIOS, REDUCTIONS = (1, 2, 5, 8), (8, 8, 4, 4), (8, 4, 2, 1)
MSCSA_DEPTH, MSCSA_HEADS, MSCSA_RATIO = 1, 8, 2


@dataclass(frozen=True)
class PvtConfig:
    """Widths of one PVTv2.

    Args:
        channels: Channels of the four stages.
        depths: Transformer blocks of each stage.
        squeezed: Channels of each stage inside MSCSA and after fusion.
        key_dim: Width of an MSCSA query head.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    squeezed: tuple[int, ...]
    key_dim: int


CONFIGS = {
    "pvt_v2_b0": PvtConfig((32, 64, 160, 256), (2, 2, 2, 2), (24, 48, 120, 192), 15),
    "pvt_v2_b1": PvtConfig((64, 128, 320, 512), (2, 2, 2, 2), (40, 80, 200, 320), 24),
    "pvt_v2_b2": PvtConfig((64, 128, 320, 512), (3, 4, 6, 3), (64, 128, 320, 512), 35),
}


def to_map(tokens: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """(N, H*W, C) tokens as a map (N, C, H, W)."""
    return tokens.transpose(1, 2).reshape(-1, channels, *size)


def to_tokens(x: Tensor, channels: int) -> Tensor:
    """A map (N, C, H, W) as (N, H*W, C) tokens."""
    height, width = spatial_size(x)
    return x.reshape(-1, channels, height * width).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution and a LayerNorm."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(outputs, eps=INNER_EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(N, inputs, H, W) to tokens (N, h*w, outputs) and the size (h, w)."""
        x = self.proj(x)
        return self.norm(to_tokens(x, self.proj.out_channels)), spatial_size(x)


class Attention(nn.Module):
    """Self-attention whose keys and values come from a spatially reduced map.

    Args:
        channels: Width of a token.
        heads: Attention heads.
        reduction: Keys and values are taken every `reduction` cells in both axes.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.channels, self.heads, self.width = channels, heads, channels // heads
        self.scale = self.width**-0.5
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels, eps=INNER_EPS)
        self.scores, self.mix = MatMul(), MatMul()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The branch's contribution to tokens (N, H*W, C) of a map of `size`."""
        count, shape = size[0] * size[1], (self.heads, self.width)
        source = x
        if self.reduction > 1:
            reduced = self.sr(to_map(x, self.channels, size))
            height, width = spatial_size(reduced)
            count = height * width
            source = self.norm(to_tokens(reduced, self.channels))
        q = (self.q(x) * self.scale).reshape(-1, size[0] * size[1], *shape).transpose(1, 2)
        k, v = self.kv(source).split_with_sizes([self.channels, self.channels], dim=2)
        k = k.reshape(-1, count, *shape).permute(0, 2, 3, 1)
        v = v.reshape(-1, count, *shape).transpose(1, 2)
        mixed = self.mix(self.scores(q, k).softmax(dim=-1), v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, size[0] * size[1], self.channels))
        return out


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution on tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H*W, C) tokens of a map of `size` to the same shape."""
        channels = self.dwconv.out_channels
        return to_tokens(self.dwconv(to_map(x, channels, size)), channels)


class Mlp(nn.Module):
    """Linear, depthwise convolution, GELU, linear."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels * ratio)
        self.dwconv = DepthwiseConv(channels * ratio)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(channels * ratio, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The branch's contribution to tokens (N, H*W, C) of a map of `size`."""
        out: Tensor = self.fc2(self.act(self.dwconv(self.fc1(x), size)))
        return out


class Block(nn.Module):
    """Attention and MLP, pre-normalized, each added to its input."""

    def __init__(self, channels: int, stage: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=BLOCK_EPS)
        self.attn = Attention(channels, HEADS[stage], REDUCTIONS[stage])
        self.norm2 = nn.LayerNorm(channels, eps=BLOCK_EPS)
        self.mlp = Mlp(channels, RATIOS[stage])
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H*W, C) tokens of a map of `size` to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x), size))
        return out


class Backbone(nn.Module):
    """The four stages and, where the model has them, ``mscsa`` and the per-stage ``fusion``."""

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        config = CONFIGS[spec.variant]
        self.channels = config.channels
        rates = iter(torch.linspace(0, DROP_PATH_RATE, sum(config.depths), device="cpu").tolist())
        inputs = 3
        for stage, channels in enumerate(config.channels):
            kernel, stride = (7, 4) if stage == 0 else (3, 2)
            embed = PatchEmbed(inputs, channels, kernel=kernel, stride=stride)
            blocks = nn.ModuleList(Block(channels, stage, next(rates)) for _ in range(config.depths[stage]))
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(channels, eps=BLOCK_EPS))
            inputs = channels
        self.mscsa = Mscsa(mscsa_config(config, options)) if spec.mscsa else None
        self.fusion: nn.ModuleList | None = None
        if spec.mscsa and spec.task == "seg":
            self.fusion = nn.ModuleList(
                Injection(outer, inner, inner, embed_local=outer != inner, gate_at=options.gate_at)
                for outer, inner in zip(config.channels, config.squeezed, strict=True)
            )

    def stages(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to the four maps (N, c_i, H / 2**(i + 2), W / 2**(i + 2)) after the stage norms."""
        maps, x = [], image
        for stage, channels in enumerate(self.channels):
            tokens, size = self.get_submodule(f"patch_embed{stage + 1}")(x)
            for block in self.get_submodule(f"block{stage + 1}").children():
                tokens = block(tokens, size)
            x = to_map(self.get_submodule(f"norm{stage + 1}")(tokens), channels, size)
            maps.append(x)
        return maps

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """(N, 3, H, W) to the four maps (fused with MSCSA for segmentation) and MSCSA's own output."""
        maps = self.stages(image)
        if self.mscsa is None:
            return maps, None
        mixed = self.mscsa(maps)
        if self.fusion is not None:
            parts = self.mscsa.split(mixed)
            maps = [fuse(fine, part) for fuse, fine, part in zip(self.fusion, maps, parts, strict=True)]
        return maps, mixed


def mscsa_config(config: PvtConfig, options: ModelOptions) -> MscsaConfig:
    """Table 7's MSCSA for a PVTv2, with the ablation widths of `options` where given."""
    return MscsaConfig(
        stage_channels=config.channels,
        channels=config.squeezed,
        depth=MSCSA_DEPTH,
        heads=MSCSA_HEADS,
        key_dim=options.key_dim or config.key_dim,
        mlp_ratio=options.mlp_ratio or MSCSA_RATIO,
        options=options,
    )


class Classifier(nn.Module):
    """PVTv2 for classification; with MSCSA, `cls_head` decides what the linear layer reads."""

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        config = CONFIGS[spec.variant]
        self.backbone = Backbone(spec, options)
        self.concat = spec.mscsa and options.cls_head == "concat"
        channels = sum(config.squeezed) if spec.mscsa else config.channels[-1]
        channels += config.channels[-1] if self.concat else 0
        self.head = nn.Linear(channels, options.num_classes or spec.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes)."""
        maps, mixed = self.backbone(image)
        last: Tensor = maps[-1] if mixed is None else mixed
        features = last.mean(dim=(2, 3))
        if self.concat:
            features = torch.cat([maps[-1].mean(dim=(2, 3)), features], dim=1)
        out: Tensor = self.head(features)
        return out


class Segmenter(nn.Module):
    """PVTv2 with Semantic FPN."""

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        config = CONFIGS[spec.variant]
        self.backbone = Backbone(spec, options)
        self.neck = FeaturePyramid(config.squeezed if spec.mscsa else config.channels)
        self.decode_head = FpnHead(options.num_classes or spec.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes, H / 4, W / 4)."""
        maps, _ = self.backbone(image)
        out: Tensor = self.decode_head(self.neck(maps))
        return out


def build(spec: ModelSpec, options: ModelOptions) -> nn.Module:
    """The PVTv2 that `spec` names, freshly initialized."""
    model = Classifier(spec, options) if spec.task == "cls" else Segmenter(spec, options)
    initialize(model)
    return model
