"""PyTorch's own answer at an output boundary, as NumPy: what an exported file is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.export.boundary import bounded

if TYPE_CHECKING:
    from torch import nn

    from mscsa_deploy.export.recipe import Output


def answerer(model: nn.Module, output: Output, size: tuple[int, int]) -> Callable[[Array], Array]:
    """A function from images (N, 3, H, W) float32 to what `model` answers at the boundary `output`.

    Args:
        model: Gives logits; put into eval mode.
        output: Where the answer is taken.
        size: Input (height, width) in pixels.
    """
    module = bounded(model, output, size).eval()

    def answer(image: Array) -> Array:
        with torch.inference_mode():
            array: Array = module(torch.from_numpy(image)).numpy()
        return array

    return answer
