"""Random weights under which a model behaves like a trained one, for tests and timing.

Freshly initialised models are poor stand-ins: their BatchNorm layers are almost the identity, so an export
that folds them wrongly goes unseen, and activations grow with depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

CALIBRATION_SHAPE = (4, 3, 128, 128)
VARIANCE_FLOOR = 0.25
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Draw every weight of `model` anew and give its BatchNorm layers statistics to match; returns `model`.

    Weights come from N(0, 1/fan_in), norm scales from U(0.5, 1.5), biases from N(0, 0.2). The statistics are
    those of one batch of noise, then jittered (means by a fifth of a deviation, variances by up to a
    quarter), so that every norm differs from the identity and activations keep their scale. The same seed
    gives the same model; it stays in the mode (training or eval) it was in.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            _draw(layer, generator)
        norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
        _measure(model, norms, generator)
        for norm in norms:
            _jitter(norm, generator)
    return model


def _draw(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        fan_in = layer.weight[0].numel()
        layer.weight.normal_(0.0, fan_in**-0.5, generator=generator)
    elif isinstance(layer, NORMS):
        layer.weight.uniform_(0.5, 1.5, generator=generator)
    else:
        return
    if layer.bias is not None:
        layer.bias.normal_(0.0, 0.2, generator=generator)


def _measure(model: nn.Module, norms: Iterable[nn.BatchNorm1d | nn.BatchNorm2d], generator: torch.Generator) -> None:
    """Set the statistics of `norms` to those of one batch of noise."""
    was_training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = 1.0, True
    model(torch.randn(CALIBRATION_SHAPE, generator=generator))
    for norm in norms:
        norm.momentum = 0.1
    model.train(was_training)


def _jitter(norm: nn.BatchNorm1d | nn.BatchNorm2d, generator: torch.Generator) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    mean.add_(torch.randn(mean.shape, generator=generator) * variance.sqrt() * 0.2)
    # A channel that was nearly constant on the noise would be blown up on any other picture.
    variance.clamp_(min=VARIANCE_FLOOR * float(variance.mean()))
    variance.mul_(torch.empty(variance.shape).uniform_(0.8, 1.25, generator=generator))
