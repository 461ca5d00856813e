"""TopFormer-T and -B: a token pyramid of inverted residuals, then its own transformer or MSCSA.

Parameter names are those of the public TopFormer code, below ``backbone.`` and ``decode_head.`` as
mmsegmentation writes them, so that public checkpoints load; the MSCSA models share all of them except those
of the transformer.

Source: TopFormer (CVPR 2022), hustvl/TopFormer; MSCSA paper, section 3.4 and Table 7.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mscsa_deploy.models.injection import Injection
from mscsa_deploy.models.layers import (
    BN_EPS,
    DropPath,
    MatMul,
    adaptive_pool,
    conv_bn,
    initialize,
    resize_bilinear,
    spatial_size,
)
from mscsa_deploy.models.mscsa import Mscsa, MscsaConfig
from mscsa_deploy.models.token_pyramid import TokenPyramid, TopFormerConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.models.spec import ModelOptions, ModelSpec

DROP_PATH_RATE = 0.1
STAGES_INJECTED = (1, 2, 3)


CONFIGS = {
    "topformer_t": TopFormerConfig(
        rows=(
            (3, 1, 16, 1), (3, 4, 16, 2), (3, 3, 16, 1), (5, 3, 32, 2), (5, 3, 32, 1),
            (3, 3, 64, 2), (3, 3, 64, 1), (5, 6, 96, 2), (5, 6, 96, 1),
        ),
        taps=(2, 4, 6, 8), channels=(16, 32, 64, 96), heads=4, key_dim=14,
        head_channels=128, depthwise_head=True,
    ),
    "topformer_b": TopFormerConfig(
        rows=(
            (3, 1, 16, 1), (3, 4, 32, 2), (3, 3, 32, 1), (5, 3, 64, 2), (5, 3, 64, 1),
            (3, 3, 128, 2), (3, 3, 128, 1), (5, 6, 160, 2), (5, 6, 160, 1), (3, 6, 160, 1),
        ),
        taps=(2, 4, 6, 9), channels=(32, 64, 128, 160), heads=8, key_dim=12,
        head_channels=256, depthwise_head=False,
    ),
}  # fmt: skip
MSCSA_DEPTH, MSCSA_RATIO = 2, 3
TRANSFORMER_DEPTH, TRANSFORMER_KEY_DIM = 4, 16


class Attention(nn.Module):
    """TopFormer's attention: no pre-norm, scores unscaled, value heads twice as wide as key heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        keys, values = TRANSFORMER_KEY_DIM * heads, 2 * TRANSFORMER_KEY_DIM * heads
        self.to_q = conv_bn(channels, keys, name="c")
        self.to_k = conv_bn(channels, keys, name="c")
        self.to_v = conv_bn(channels, values, name="c")
        self.proj = nn.Sequential(nn.ReLU6(), conv_bn(values, channels, name="c"))
        self.scores, self.mix = MatMul(), MatMul()

    def forward(self, x: Tensor) -> Tensor:
        """The branch's contribution to (N, channels, h, w)."""
        height, width = spatial_size(x)
        tokens, key_dim = height * width, TRANSFORMER_KEY_DIM
        q = self.to_q(x).reshape(-1, self.heads, key_dim, tokens)
        k = self.to_k(x).reshape(-1, self.heads, key_dim, tokens)
        v = self.to_v(x).reshape(-1, self.heads, 2 * key_dim, tokens)
        weights = self.scores(q.transpose(2, 3), k).softmax(dim=-1)
        mixed = self.mix(weights, v.transpose(2, 3)).transpose(2, 3)
        out: Tensor = self.proj(mixed.reshape(-1, 2 * key_dim * self.heads, height, width))
        return out


class Mlp(nn.Module):
    """1x1 convolution, 3x3 depthwise convolution, ReLU6, 1x1 convolution; hidden width twice the input's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.fc1 = conv_bn(channels, hidden, name="c")
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.ReLU6()
        self.fc2 = conv_bn(hidden, channels, name="c")

    def forward(self, x: Tensor) -> Tensor:
        """The branch's contribution to (N, channels, h, w)."""
        out: Tensor = self.fc2(self.act(self.dwconv(self.fc1(x))))
        return out


class TransformerBlock(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.attn = Attention(channels, heads)
        self.mlp = Mlp(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to the same shape."""
        x = x + self.drop_path(self.attn(x))
        out: Tensor = x + self.drop_path(self.mlp(x))
        return out


class Transformer(nn.Module):
    """TopFormer's scale-aware semantics extractor on the pooled, concatenated stages."""

    def __init__(self, config: TopFormerConfig, pool_stride: int) -> None:
        super().__init__()
        self.channels, self.pool_stride = list(config.channels), pool_stride
        rates = torch.linspace(0, DROP_PATH_RATE, TRANSFORMER_DEPTH, device="cpu").tolist()
        total = sum(config.channels)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(total, config.heads, rate) for rate in rates)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps (N, c_i, H_i, W_i) to one (N, sum c_i, h, w)."""
        height, width = spatial_size(maps[-1])
        size = (-(-height // self.pool_stride), -(-width // self.pool_stride))
        x = torch.cat([adaptive_pool(each, size) for each in maps], dim=1)
        for block in self.transformer_blocks:
            x = block(x)
        return x

    def split(self, mixed: Tensor) -> tuple[Tensor, ...]:
        """The output cut back into one map per stage."""
        return tuple(mixed.split_with_sizes(self.channels, dim=1))


class Backbone(nn.Module):
    """Token pyramid, extractor (``trans`` or ``mscsa``) and, for segmentation, the injections (``SIM``)."""

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        config = CONFIGS[spec.variant]
        pool_stride = 2 if spec.task == "seg" else 1
        self.tpm = TokenPyramid(config)
        self.extractor_name = "mscsa" if spec.mscsa else "trans"
        extractor: Mscsa | Transformer
        if spec.mscsa:
            extractor = Mscsa(mscsa_config(config, pool_stride, options))
        else:
            extractor = Transformer(config, pool_stride)
        self.add_module(self.extractor_name, extractor)
        self.SIM = nn.ModuleList()
        if spec.task == "seg":
            for stage, channels in enumerate(config.channels):
                injected = Injection(channels, channels, config.head_channels, gate_at=options.gate_at)
                self.SIM.append(injected if stage in STAGES_INJECTED else nn.Identity())

    @property
    def extractor(self) -> Mscsa | Transformer:
        """The module that mixes the stages."""
        found = self.get_submodule(self.extractor_name)
        assert isinstance(found, Mscsa | Transformer)
        return found

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to the mixed map alone, or to the injected maps at strides 8, 16 and 32."""
        maps = self.tpm(image)
        extractor = self.extractor
        mixed = extractor(maps)
        if len(self.SIM) == 0:
            return [mixed]
        parts = extractor.split(mixed)
        return [self.SIM[stage](maps[stage], parts[stage]) for stage in STAGES_INJECTED]


def mscsa_config(config: TopFormerConfig, pool_stride: int, options: ModelOptions) -> MscsaConfig:
    """Table 7's MSCSA for a TopFormer, with the ablation widths of `options` where given."""
    return MscsaConfig(
        stage_channels=config.channels,
        channels=config.channels,
        depth=MSCSA_DEPTH,
        heads=config.heads,
        key_dim=options.key_dim or config.key_dim,
        mlp_ratio=options.mlp_ratio or MSCSA_RATIO,
        pool_stride=pool_stride,
        options=options,
    )


class SimpleHead(nn.Module):
    """Sums the injected maps at stride 8 and classifies each cell."""

    def __init__(self, channels: int, classes: int, *, depthwise: bool) -> None:
        super().__init__()
        groups = channels if depthwise else 1
        self.linear_fuse = conv_bn(channels, channels, groups=groups, act=nn.ReLU())
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, channels, H_i, W_i), finest first, to logits (N, classes, H_0, W_0)."""
        size = spatial_size(maps[0])
        total = maps[0]
        for each in maps[1:]:
            total = total + resize_bilinear(each, size)
        out: Tensor = self.conv_seg(self.dropout(self.linear_fuse(total)))
        return out


class Classifier(nn.Module):
    """TopFormer for classification: the mixed map, averaged, normalized, classified."""

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        self.backbone = Backbone(spec, options)
        channels = sum(CONFIGS[spec.variant].channels)
        linear = nn.Linear(channels, options.num_classes or spec.num_classes)
        self.head = nn.Sequential(OrderedDict(bn=nn.BatchNorm1d(channels, eps=BN_EPS), l=linear))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes)."""
        out: Tensor = self.head(self.backbone(image)[0].mean(dim=(2, 3)))
        return out


class Segmenter(nn.Module):
    """TopFormer for segmentation."""

    def __init__(self, spec: ModelSpec, options: ModelOptions) -> None:
        super().__init__()
        config = CONFIGS[spec.variant]
        self.backbone = Backbone(spec, options)
        classes = options.num_classes or spec.num_classes
        self.decode_head = SimpleHead(config.head_channels, classes, depthwise=config.depthwise_head)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes, H / 8, W / 8)."""
        out: Tensor = self.decode_head(self.backbone(image))
        return out


def build(spec: ModelSpec, options: ModelOptions) -> nn.Module:
    """The TopFormer that `spec` names, freshly initialized."""
    model = Classifier(spec, options) if spec.task == "cls" else Segmenter(spec, options)
    initialize(model)
    return model
