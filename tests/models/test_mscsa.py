"""MSCSA and its fusion against a second derivation from the formulas, in NumPy and float64, written for clarity."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from mscsa_deploy.models.injection import Injection
from mscsa_deploy.models.mscsa import CrossScaleAttention, FeedForward, Mscsa, MscsaConfig
from mscsa_deploy.models.spec import ModelOptions

# float32 against float64 through two blocks.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}


def shake(module, seed=5):
    """Random weights, biases and statistics, so that no layer is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point():
                value.normal_(0.0, 0.4, generator=generator)
    return module.eval()


class Weights:
    """A state dict as float64 arrays below a prefix."""

    def __init__(self, values, prefix=""):
        self.values, self.prefix = values, prefix

    @classmethod
    def of(cls, module):
        return cls({name: value.double().numpy() for name, value in module.state_dict().items()})

    def at(self, name):
        return Weights(self.values, f"{self.prefix}{name}.")

    def get(self, name):
        return self.values.get(f"{self.prefix}{name}")


def conv(x, weights, stride=1):
    """Cross-correlation of (C, H, W), padded by half the kernel; depthwise if the weight has one input channel."""
    kernel, bias = weights.get("weight"), weights.get("bias")
    outputs, inputs, size, _ = kernel.shape
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height, width = ((side + 2 * pad - size) // stride + 1 for side in x.shape[1:])
    out = np.zeros((outputs, height, width))
    for row in range(height):
        for column in range(width):
            window = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
            if inputs == 1 and x.shape[0] == outputs:
                out[:, row, column] = (window * kernel[:, 0]).sum(axis=(1, 2))
            else:
                out[:, row, column] = np.tensordot(kernel, window, axes=3)
    return out if bias is None else out + bias[:, None, None]


def norm(x, weights):
    mean, variance = weights.get("running_mean"), weights.get("running_var")
    scale = weights.get("weight") / np.sqrt(variance + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + weights.get("bias")[:, None, None]


def conv_norm(x, weights, stride=1):
    return norm(conv(x, weights.at("conv"), stride), weights.at("bn"))


def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def average(x, kernel, stride):
    """Windows of side `kernel` every `stride`, centered, averaging only what lies inside the map."""
    pad, (_, height, width) = kernel // 2, x.shape
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    out = np.zeros((x.shape[0], rows, columns))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride - pad, column * stride - pad
            window = x[:, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            out[:, row, column] = window.mean(axis=(1, 2))
    return out


def scales(y, weights, options):
    if not options.multi_scale:
        return [y]
    if options.downsampling == "avgpool":
        return [y, average(y, options.dw_kernels[0], 2), average(y, options.dw_kernels[1], 3)]
    first = conv_norm(y, weights.at("down.convs.0"), 2)
    if options.downsampling == "single":
        return [y, first]
    if options.downsampling == "cascade":
        return [y, first, conv_norm(first, weights.at("down.convs.1"), 2)]
    return [y, first, conv_norm(y, weights.at("down.convs.1"), 3)]


def attention(x, weights, config):
    """One head and one query at a time."""
    options, d = config.options, config.key_dim
    y = norm(x, weights.at("norm"))
    sources = scales(y, weights, options)
    q = conv_norm(y, weights.at("q"))
    keys = [conv_norm(each, weights.at(f"k.{i}")) for i, each in enumerate(sources)]
    values = [conv_norm(each, weights.at(f"v.{i}")) for i, each in enumerate(sources)]
    mixed = np.zeros((2 * config.heads * d, *x.shape[1:]))
    for head in range(config.heads):
        k = np.concatenate([each[head * d : (head + 1) * d].reshape(d, -1) for each in keys], axis=1)
        v = np.concatenate([each[2 * head * d : 2 * (head + 1) * d].reshape(2 * d, -1) for each in values], axis=1)
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                query = q[head * d : (head + 1) * d, row, column]
                mixed[2 * head * d : 2 * (head + 1) * d, row, column] = v @ softmax(query @ k / math.sqrt(d))
    if options.parallel_conv:
        mixed = mixed + conv(hardswish(values[0]), weights.at("pcp.1"))
    return conv(hardswish(norm(mixed, weights.at("norm_out"))), weights.at("proj"))


def activation(x, kind):
    if kind == "gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return hardswish(x) if kind == "hardswish" else np.clip(x, 0, 6)


def feed_forward(x, weights, kind):
    hidden = norm(conv(norm(x, weights.at("norm")), weights.at("fc1")), weights.at("bn"))
    return conv(activation(conv(hidden, weights.at("dwconv")), kind), weights.at("fc2"))


def block(x, weights, config):
    options = config.options
    x = x + attention(x, weights.at("csa1"), config)
    if options.intra_ffn:
        bounds = np.cumsum((0, *config.channels))
        parts = [
            feed_forward(x[start:stop], weights.at(f"intra_ffn.stages.{i}"), options.ffn_act)
            for i, (start, stop) in enumerate(pairwise(bounds))
        ]
        x = x + np.concatenate(parts)
    else:
        x = x + feed_forward(x, weights.at("intra_ffn"), options.ffn_act)
    x = x + attention(x, weights.at("csa2"), config)
    return x + feed_forward(x, weights.at("ffn"), options.ffn_act)


def pool(x, size):
    """Adaptive average pooling, window by window."""
    out = np.zeros((x.shape[0], *size))
    for row in range(size[0]):
        for column in range(size[1]):
            top, bottom = row * x.shape[1] // size[0], math.ceil((row + 1) * x.shape[1] / size[0])
            left, right = column * x.shape[2] // size[1], math.ceil((column + 1) * x.shape[2] / size[1])
            out[:, row, column] = x[:, top:bottom, left:right].mean(axis=(1, 2))
    return out


def reference(maps, weights, config):
    size = tuple(math.ceil(side / config.pool_stride) for side in maps[-1].shape[1:])
    parts = []
    for i, each in enumerate(maps):
        pooled = pool(each, size)
        squeezed = weights.at(f"squeeze.{i}")
        parts.append(pooled if squeezed.get("weight") is None else conv(pooled, squeezed))
    x = np.concatenate(parts)
    for i in range(config.depth):
        x = block(x, weights.at(f"blocks.{i}"), config)
    return norm(x, weights.at("norm"))


def config_of(options=None, *, channels=(2, 3, 4, 5), pool_stride=1, depth=1):
    stages = (4, 6, 8, 10)
    return MscsaConfig(
        stage_channels=stages,
        channels=channels or stages,
        depth=depth,
        heads=2,
        key_dim=3,
        mlp_ratio=2,
        pool_stride=pool_stride,
        options=options or ModelOptions(),
    )


def maps_of(height, width, channels=(4, 6, 8, 10)):
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(1, count, height * 2 ** (3 - i), width * 2 ** (3 - i), generator=generator)
        for i, count in enumerate(channels)
    ]


@pytest.mark.parametrize(
    ("config", "size"),
    [
        pytest.param(config_of(), (3, 2), id="squeezed"),
        pytest.param(config_of(channels=None, depth=2), (2, 4), id="two-blocks"),
        pytest.param(config_of(pool_stride=2), (5, 3), id="pooled-to-1/64-odd"),
        pytest.param(config_of(), (1, 1), id="one-cell"),
        pytest.param(config_of(ModelOptions(ffn_act="gelu")), (2, 3), id="gelu"),
        pytest.param(config_of(ModelOptions(ffn_act="hardswish")), (2, 3), id="hardswish"),
        pytest.param(config_of(ModelOptions(dw_kernels=(5, 3))), (4, 3), id="kernels"),
        pytest.param(config_of(ModelOptions(downsampling="avgpool")), (5, 4), id="average-pooling"),
        pytest.param(config_of(ModelOptions(downsampling="cascade")), (5, 4), id="cascade"),
        pytest.param(config_of(ModelOptions(downsampling="single")), (5, 4), id="single"),
        pytest.param(config_of(ModelOptions(multi_scale=False)), (3, 3), id="one-scale"),
        pytest.param(config_of(ModelOptions(intra_ffn=False)), (3, 2), id="plain-ffn"),
        pytest.param(config_of(ModelOptions(parallel_conv=False)), (3, 2), id="no-pcp"),
    ],
)
def test_module_equals_the_formulas(config, size):
    module = shake(Mscsa(config))
    maps = maps_of(*size)
    with torch.no_grad():
        got = module(maps)[0].numpy()
    want = reference([each[0].double().numpy() for each in maps], Weights.of(module), config)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, **TOLERANCE)


@pytest.mark.parametrize(("side", "tokens"), [(7, 74), (8, 89), (16, 356)])
def test_token_counts_are_those_of_the_paper(side, tokens):
    module = CrossScaleAttention(8, config_of()).eval()
    shapes = []
    module.scores.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    module(torch.randn(1, 8, side, side))
    assert shapes == [(1, 2, side * side, tokens)]


def test_token_counts_of_an_oblong_map():
    module = CrossScaleAttention(8, config_of()).eval()
    scales_made = module.down(torch.randn(1, 8, 25, 40))
    assert [tuple(each.shape[2:]) for each in scales_made] == [(13, 20), (9, 14)]


def test_stages_do_not_mix_inside_the_intra_ffn():
    module = shake(Mscsa(config_of())).blocks[0].intra_ffn
    x = torch.randn(1, 14, 3, 3)
    changed = x.clone()
    changed[:, 2:5] += 1.0
    with torch.no_grad():
        moved = (module(x) - module(changed)).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.tolist() == [False] * 2 + [True] * 3 + [False] * 9


def test_split_undoes_the_concatenation():
    module = Mscsa(config_of())
    assert [part.shape[1] for part in module.split(torch.randn(1, 14, 2, 2))] == [2, 3, 4, 5]


def test_residuals_pass_when_branches_are_silenced():
    module = shake(Mscsa(config_of(depth=2)))
    with torch.no_grad():
        for name, value in module.named_parameters():
            if ".proj." in name or ".fc2." in name:
                value.zero_()
        maps = maps_of(3, 3)
        pooled = torch.cat(
            [s(nn.functional.adaptive_avg_pool2d(m, (3, 3))) for s, m in zip(module.squeeze, maps, strict=True)], 1
        )
        torch.testing.assert_close(module(maps), module.norm(pooled))


def upsample(x, size):
    """Bilinear with half-pixel centers, one output cell at a time."""
    out = np.zeros((x.shape[0], *size))
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * x.shape[1] / size[0] - 0.5, 0), x.shape[1] - 1)
            z = min(max((column + 0.5) * x.shape[2] / size[1] - 0.5, 0), x.shape[2] - 1)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, x.shape[1] - 1), min(z0 + 1, x.shape[2] - 1)
            a, b = y - y0, z - z0
            top = (1 - b) * x[:, y0, z0] + b * x[:, y0, z1]
            bottom = (1 - b) * x[:, y1, z0] + b * x[:, y1, z1]
            out[:, row, column] = (1 - a) * top + a * bottom
    return out


@pytest.mark.parametrize("gate_at", ["low", "high"])
@pytest.mark.parametrize("embed", [True, False])
def test_injection_equals_the_formulas(gate_at, embed):
    module = shake(Injection(4, 3, 6 if embed else 4, embed_local=embed, gate_at=gate_at))
    with torch.no_grad():
        module.global_act.bn.weight.mul_(8)  # so that the gate clips on both sides
    fine, coarse = torch.randn(1, 4, 6, 10), torch.randn(1, 3, 3, 2)
    with torch.no_grad():
        got = module(fine, coarse)[0].numpy()
    weights, size = Weights.of(module), (6, 10)
    f, g = fine[0].double().numpy(), coarse[0].double().numpy()
    local = conv_norm(f, weights.at("local_embedding")) if embed else f
    gate = conv_norm(g, weights.at("global_act"))
    gate = (
        upsample(np.clip(gate + 3, 0, 6) / 6, size) if gate_at == "low" else np.clip(upsample(gate, size) + 3, 0, 6) / 6
    )
    want = local * gate + upsample(conv_norm(g, weights.at("global_embedding")), size)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_gate_places_agree_where_nothing_clips_and_differ_where_it_does():
    low, high = (shake(Injection(4, 3, 4, gate_at=where)) for where in ("low", "high"))
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(low(fine, coarse), high(fine, coarse), rtol=1e-4, atol=1e-5)
        for module in (low, high):
            module.global_act.bn.weight.mul_(20)
        assert float((low(fine, coarse) - high(fine, coarse)).abs().max()) > 1e-2


def test_feed_forward_widths():
    module = FeedForward(5, 3, "relu6")
    assert module.fc1.out_channels == module.dwconv.groups == 15
