"""Random weights under which a model behaves like a trained one, for tests and timing.

Freshly initialized models are poor stand-ins: their BatchNorm layers are almost the identity, so an export
that folds them wrongly goes unseen, and activations grow with depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mscsa_deploy.models.layers import resize_bilinear

if TYPE_CHECKING:
    from collections.abc import Iterable

CALIBRATION_PIXELS, CALIBRATION_BATCH = 1 << 18, (4, 32)
VARIANCE_FLOOR = 0.25
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def randomize(model: nn.Module, seed: int, input_size: tuple[int, int] = (256, 256)) -> nn.Module:
    """Draw every weight of `model` anew and give its BatchNorm layers statistics to match; returns `model`.

    Weights come from N(0, 1/fan_in), norm scales from U(0.25, 0.75), biases from N(0, 0.1). The statistics are
    those of one batch of coarse and fine noise, then jittered (means by a fifth of a deviation, variances by up to a
    quarter), so that every norm differs from the identity and activations keep their scale. The same seed
    gives the same model; it stays in the mode (training or eval) it was in.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            _draw(layer, generator)
        norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
        _measure(model, norms, _pictures(input_size, generator))
        for norm in norms:
            _jitter(norm, generator)
    return model


def _draw(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        fan_in = layer.weight[0].numel()
        layer.weight.normal_(0.0, fan_in**-0.5, generator=generator)
    elif isinstance(layer, NORMS):
        layer.weight.uniform_(0.25, 0.75, generator=generator)
    else:
        return
    if layer.bias is not None:
        layer.bias.normal_(0.0, 0.1, generator=generator)


def _measure(model: nn.Module, norms: Iterable[nn.BatchNorm1d | nn.BatchNorm2d], pictures: Tensor) -> None:
    """Set the statistics of `norms` to those of one batch (N, 3, H, W)."""
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = 1.0, True
    model(pictures)
    for norm in norms:
        norm.momentum = 0.1
    model.train(was_training)


def _pictures(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(N, 3, *size) noise of mixed grain, contrast and brightness.

    Under white noise alone every pooled feature would be nearly constant, and any other picture an outlier.
    """
    height, width = size
    fewest, most = CALIBRATION_BATCH
    batch = min(max(CALIBRATION_PIXELS // (height * width), fewest), most)
    total = torch.randn(batch, 3, 1, 1, generator=generator).expand(batch, 3, height, width) * 0.3
    for cell in (1, 8, 32):
        grain = torch.randn(batch, 3, height // cell, width // cell, generator=generator)
        contrast = torch.empty(batch, 1, 1, 1).uniform_(0.0, 1.5, generator=generator)
        total = total + contrast * resize_bilinear(grain, (height, width))
    return total


def _jitter(norm: nn.BatchNorm1d | nn.BatchNorm2d, generator: torch.Generator) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    mean.add_(torch.randn(mean.shape, generator=generator) * variance.sqrt() * 0.2)
    # A channel that was nearly constant on the noise would be blown up on any other picture.
    variance.clamp_(min=VARIANCE_FLOOR * float(variance.mean()))
    variance.mul_(torch.empty(variance.shape).uniform_(0.8, 1.25, generator=generator))
