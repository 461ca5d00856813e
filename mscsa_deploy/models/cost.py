"""What a model costs: parameters, multiply-accumulates, and FLOPs as the MSCSA paper counts them.

The paper's convention, found by matching its tables: convolution MACs and biases, linear MACs without bias,
attention products, two operations per BatchNorm element and one per ReLU or ReLU6 element; everything else
is free. Its segmentation models use synchronized BatchNorm, which its counting tool did not know: there the
norms are free as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mscsa_deploy.core.vocabulary import Task
from mscsa_deploy.models.layers import MatMul
from mscsa_deploy.models.spec import ModelOptions, build_model, model_spec

if TYPE_CHECKING:
    from collections.abc import Callable

EXTRACTORS = ("backbone.mscsa", "backbone.trans")


@dataclass(frozen=True)
class Cost:
    """Counts for one image; plain numbers, not millions.

    Args:
        params: Learned parameters.
        macs: Multiply-accumulates of convolutions, linear layers and attention products.
        paper_flops: In the paper's convention (module docstring).
        parts: MACs of the module that mixes the stages and of each of its parts, by module name; the
            parts of one kind are listed one by one.
    """

    params: int
    macs: int
    paper_flops: int
    parts: dict[str, int]


def _conv(layer: nn.Conv2d, out: Tensor) -> tuple[int, int]:
    weights = layer.weight.numel() // layer.out_channels
    macs = out.numel() * weights
    return macs, macs + (out.numel() if layer.bias is not None else 0)


def _layer_cost(layer: nn.Module, inputs: tuple[Any, ...], out: Tensor, *, norms: bool) -> tuple[int, int]:
    """(MACs, paper FLOPs) of one call of one leaf module."""
    if isinstance(layer, nn.Conv2d):
        return _conv(layer, out)
    if isinstance(layer, nn.Linear):
        macs = out.numel() * layer.in_features
    elif isinstance(layer, MatMul):
        macs = out.numel() * int(inputs[0].shape[-1])
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return 0, 2 * out.numel() if norms else 0
    elif isinstance(layer, nn.ReLU | nn.ReLU6):
        return 0, out.numel()
    else:
        return 0, 0
    return macs, macs


def count(model: nn.Module, input_size: tuple[int, int]) -> Cost:
    """The cost of `model` on one image of `input_size` (height, width).

    The model is run once in eval mode on whatever device its parameters are on; the meta device does no
    arithmetic. Whether norms count (module docstring) follows from the rank of the output.
    """
    params = next(iter(model.parameters()))
    image = torch.empty(1, 3, *input_size, device=params.device, dtype=params.dtype)
    calls: list[tuple[str, nn.Module, tuple[Any, ...], Tensor]] = []

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda layer, inputs, out: calls.append((name, layer, inputs, out))

    leaves = [(name, layer) for name, layer in model.named_modules() if not any(layer.children())]
    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in leaves]
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(image)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    macs, flops, parts = 0, 0, dict.fromkeys(_part_names(model), 0)
    for name, layer, inputs, out in calls:
        layer_macs, layer_flops = _layer_cost(layer, inputs, out, norms=logits.ndim == 2)
        macs, flops = macs + layer_macs, flops + layer_flops
        for part in parts:
            if name.startswith(f"{part}."):
                parts[part] += layer_macs
    total = sum(parameter.numel() for parameter in model.parameters())
    return Cost(total, macs, flops, parts)


def _part_names(model: nn.Module) -> list[str]:
    """Names of the mixing module and of its parts, in the model's order."""
    wanted = ("csa1", "csa2", "intra_ffn", "ffn", "squeeze", "fusion", "SIM")
    names = [name for name, _ in model.named_modules()]
    return [name for name in names if name in EXTRACTORS or name.rsplit(".", 1)[-1] in wanted]


def model_cost(
    name: str, task: Task, *, input_size: tuple[int, int] | None = None, options: ModelOptions | None = None
) -> Cost:
    """The cost of a model of the zoo at its reference size or at `input_size`; no weights are allocated."""
    with torch.device("meta"):
        model = build_model(name, task, options)
    return count(model, input_size or model_spec(name, task).input_size)
