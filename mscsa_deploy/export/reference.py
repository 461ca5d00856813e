"""What PyTorch itself answers at an output boundary: the truth that exported files are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from mscsa_deploy.export.boundary import bounded
from mscsa_deploy.export.trace import evaluation

if TYPE_CHECKING:
    from torch import nn

    from mscsa_deploy.core.tensors import Array
    from mscsa_deploy.core.vocabulary import Output


class Answer(Protocol):
    """Gives the model's answer to one input."""

    def __call__(self, image: Array) -> Array:
        """(N, 3, H, W) float32, normalized RGB, to the output at the boundary asked for."""


def answerer(model: nn.Module, output: Output, size: tuple[int, int]) -> Answer:
    """A callable that gives what `model` in evaluation mode answers at the boundary `output`.

    Args:
        model: Gives logits; its mode is left as it was.
        output: Where the exported graph ends.
        size: Input (height, width) in pixels.
    """
    module = bounded(model, output, size)

    def answer(image: Array) -> Array:
        with evaluation(module), torch.no_grad():
            result: Array = module(torch.from_numpy(image)).numpy()
        return result

    return answer
