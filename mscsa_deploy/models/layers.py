"""Small parts that the networks share, written so that a trace of them holds only standard ONNX operators."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

BN_EPS = 1e-5


class MatMul(nn.Module):
    """A matrix product as a module, so that hooks can count it."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(..., n, k) times (..., k, m)."""
        return left @ right


class DropPath(nn.Module):
    """Drops a residual branch per sample while training (stochastic depth); identity in eval mode.

    Args:
        rate: Probability of dropping, 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The branch, zeroed for some samples and scaled to keep its mean."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.3f}"


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    name: str = "conv",
    act: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution without bias, padded by half its kernel, then BatchNorm, then `act` if given.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Odd kernel size.
        stride: Step in both axes.
        groups: Channel groups.
        name: The convolution's name in the state dict; the norm is ``bn``.
        act: Activation, stored as ``activate``.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts: list[tuple[str, nn.Module]] = [(name, conv), ("bn", nn.BatchNorm2d(outputs, eps=BN_EPS))]
    if act is not None:
        parts.append(("activate", act))
    return nn.Sequential(OrderedDict(parts))


@contextmanager
def _constants_meant() -> Iterator[None]:
    """While tracing, silence the warnings about values that become constants: here they shall."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call] # torch leaves it untyped
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python")
        warnings.filterwarnings("ignore", message="torch.tensor results are registered as constants")
        yield


def spatial_size(x: Tensor) -> tuple[int, int]:
    """Height and width of (N, C, H, W) as plain integers, also while tracing (shapes are static there)."""
    with _constants_meant():
        return int(x.shape[2]), int(x.shape[3])


def pool_matrix(source: int, target: int) -> Tensor:
    """(target, source) rows that average the window of each adaptive-pooling cell.

    Cell i covers floor(i * source / target) up to, not including, ceil((i + 1) * source / target).
    """
    rows = []
    for cell in range(target):
        start, stop = cell * source // target, -(-(cell + 1) * source // target)
        rows.append([1.0 / (stop - start) if start <= column < stop else 0.0 for column in range(source)])
    # Made from plain numbers, so that a trace holds one constant.
    with _constants_meant():
        return torch.tensor(rows)


def adaptive_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average of (N, C, H, W) down (or up) to `size`, equal to adaptive average pooling.

    Traces to one AveragePool where H and W are multiples of `size`, else to a product with a constant
    matrix per axis.
    """
    height, width = spatial_size(x)
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        window = (height // size[0], width // size[1])
        return F.avg_pool2d(x, window, window)
    if height != size[0]:
        x = pool_matrix(height, size[0]).to(x) @ x
    if width != size[1]:
        x = x @ pool_matrix(width, size[1]).to(x).transpose(0, 1)
    return x


def resize_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) at `size` by bilinear interpolation with half-pixel centers; unchanged if that size."""
    if spatial_size(x) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def initialize(model: nn.Module) -> None:
    """Fresh weights for every layer of `model`.

    Convolutions draw from N(0, sqrt(2 / fan_out)), linear layers from a normal of 0.02 truncated at 2,
    norms start at (1, 0), biases at 0: what the public training code of TopFormer and PVTv2 uses.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            nn.init.ones_(layer.weight)
        else:
            continue
        bias = cast("nn.Parameter | None", layer.bias)
        if bias is not None:
            nn.init.zeros_(bias)
