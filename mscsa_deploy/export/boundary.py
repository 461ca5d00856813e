"""Where the exported graph ends: thin modules around a model that add upsampling, argmax or softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from mscsa_deploy.core.vocabulary import Output

OUTPUT_NAMES: dict[str, str] = {
    "logits": "logits",
    "logits-full": "logits",
    "classmap": "classmap",
    "probs": "probs",
}
# The largest class count whose ids fit uint8.
UINT8_CLASSES = 256
# What the wrapper's child is called; the exporter takes it out of the names of the graph.
CHILD = "wrapped"


class Tail(nn.Module):
    """What follows the logits.

    Args:
        output: ``"logits-full"``: bilinear to the input size with half-pixel centers; ``"classmap"``: the
            largest class of that; ``"probs"``: its softmax over the classes, for classification of the
            logits as they are.
    """

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits to (N, classes, H, W), (N, H, W) uint8 or uint16, or (N, classes); (H, W) is `size`."""
        if logits.dim() == 4:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        if self.output == "probs":
            return logits.softmax(dim=1)
        if self.output == "classmap":
            kind = torch.uint8 if logits.shape[1] <= UINT8_CLASSES else torch.uint16
            return logits.argmax(dim=1).to(kind)
        return logits


class Bounded(nn.Module):
    """A model followed by a `Tail`.

    Args:
        model: Gives logits, (N, classes) or (N, classes, H/s, W/s).
        output: Where the graph ends; plain logits need no wrapper.
        size: Input (height, width) in pixels.
    """

    def __init__(self, model: nn.Module, output: Output, size: tuple[int, int]) -> None:
        super().__init__()
        self.add_module(CHILD, model)
        self.boundary = Tail(output)
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to what the tail makes of the logits."""
        out: Tensor = self.boundary(self.get_submodule(CHILD)(image), self.size)
        return out


def bounded(model: nn.Module, output: Output, size: tuple[int, int]) -> nn.Module:
    """`model` itself for plain logits, else followed by what the `output` boundary asks for."""
    return model if output == "logits" else Bounded(model, output, size)
