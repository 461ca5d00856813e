"""Random weights: what keeps activations at the scale of a trained network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mscsa_deploy.models.randomize import randomize


class Half(nn.Module):
    """A convolution whose first channels are silenced before they are normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x) * (torch.arange(8) >= 4).view(8, 1, 1))


def test_a_channel_that_was_constant_is_not_blown_up() -> None:
    variance = randomize(Half(), 0, (64, 64)).norm.running_var
    # The floor is a quarter of the mean; jitter takes at most a fifth off it, and adds at most a quarter to the others.
    assert variance.min() > 0.1 * variance.mean()


def test_it_stays_in_its_mode_and_learns_at_the_usual_pace() -> None:
    for training in (True, False):
        model = randomize(Half().train(training), 0, (64, 64))
        assert [each.training for each in model.modules()] == [training] * 3
        assert model.norm.momentum == 0.1
