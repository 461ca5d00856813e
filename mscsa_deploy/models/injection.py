"""Putting the mixed, coarse map of a stage back into that stage's own map: semantic injection.

Source: TopFormer's injection module; the MSCSA models use it with the widths of the paper's dense variants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mscsa_deploy.models.layers import conv_bn, resize_bilinear, spatial_size

if TYPE_CHECKING:
    from mscsa_deploy.models.spec import GateAt


class Injection(nn.Module):
    """``local * upsampled(gate) + upsampled(bias)``, gate and bias computed from the coarse map.

    Args:
        local: Channels of the fine map.
        coarse: Channels of the coarse map.
        out: Channels of the result.
        embed_local: Whether the fine map passes a 1x1 convolution with BatchNorm; false needs local == out.
        gate_at: ``"low"`` clips the gate before upsampling it, ``"high"`` after.
    """

    def __init__(self, local: int, coarse: int, out: int, *, embed_local: bool = True, gate_at: GateAt = "low") -> None:
        super().__init__()
        self.local_embedding: nn.Module = conv_bn(local, out) if embed_local else nn.Identity()
        self.global_embedding = conv_bn(coarse, out)
        self.global_act = conv_bn(coarse, out)
        self.act = nn.Hardsigmoid()
        self.gate_at = gate_at

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fine (N, local, H, W) and coarse (N, coarse, h, w) to (N, out, H, W)."""
        size = spatial_size(fine)
        gate = self.global_act(coarse)
        low = self.gate_at == "low"
        gate = resize_bilinear(self.act(gate), size) if low else self.act(resize_bilinear(gate, size))
        out: Tensor = self.local_embedding(fine) * gate + resize_bilinear(self.global_embedding(coarse), size)
        return out
