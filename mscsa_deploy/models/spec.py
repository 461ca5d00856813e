"""The zoo: which models exist, what each accepts, and how one is built.

Nothing heavy is imported here; `build_model` imports torch when it is called.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from mscsa_deploy.core.vocabulary import TASKS, Task, task_named
from mscsa_deploy.errors import SpecError, UserError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

FfnAct = Literal["relu6", "gelu", "hardswish"]
GateAt = Literal["low", "high"]
ClsHead = Literal["mscsa", "concat"]
Downsampling = Literal["parallel", "avgpool", "cascade", "single"]

DEFAULT_CLASSES: dict[Task, int] = {"cls": 1000, "seg": 150}
DEFAULT_SIZES: dict[Task, tuple[int, int]] = {"cls": (224, 224), "seg": (512, 512)}
SIZE_STEP, SIZE_MIN, SIZE_MAX = 32, 64, 2048
SOURCE = "MSCSA paper (multi-stage cross-scale attention)"
TOPFORMER_SOURCE = "TopFormer, CVPR 2022; hustvl/TopFormer @cc0f436"
PVT_SOURCE = "PVT v2, CVMJ 2022; whai362/PVT @57e2dfa"


@dataclass(frozen=True)
class ModelOptions:
    """What a model may be told beyond its name.

    Only `num_classes` applies to models without MSCSA.

    Args:
        num_classes: Classes of the head; None for the task's usual count (1000 cls, 150 seg).
        ffn_act: Activation between the depthwise and the last convolution of FFN and Intra-FFN.
        gate_at: Whether the fusion gate's hard sigmoid stands before (``"low"``) or after upsampling.
        cls_head: What PVTv2's classifier reads: the MSCSA output, or that and the last stage (``"concat"``).
        dw_kernels: Odd kernel sizes of the two depthwise convolutions that make the coarser keys and values.
        downsampling: How the coarser scales are made (Table 5 of the paper).
        multi_scale: Keys and values of three scales; false for one scale (Table 4, MSP).
        intra_ffn: Every second FFN works per stage; false for plain FFNs (Table 4).
        parallel_conv: The depthwise path beside attention (Table 4, PCP).
        key_dim: Width of a query or key head; None for the paper's (Table 4 tunes it per row).
        mlp_ratio: Expansion of FFN and Intra-FFN; None for the paper's.
    """

    num_classes: int | None = None
    ffn_act: FfnAct = "relu6"
    gate_at: GateAt = "low"
    cls_head: ClsHead = "mscsa"
    dw_kernels: tuple[int, int] = (3, 5)
    downsampling: Downsampling = "parallel"
    multi_scale: bool = True
    intra_ffn: bool = True
    parallel_conv: bool = True
    key_dim: int | None = None
    mlp_ratio: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise unknown_name(name, str(getattr(self, name)), allowed)
        kernels = self.dw_kernels
        if len(kernels) != 2 or any(not isinstance(k, int) or k < 1 or k % 2 == 0 or k > 15 for k in kernels):
            raise UserError(f"dw_kernels is {list(kernels)}, expected two odd numbers from 1 to 15")
        for name in ("num_classes", "key_dim", "mlp_ratio"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")


_CHOICES: dict[str, tuple[str, ...]] = {
    "ffn_act": get_args(FfnAct),
    "gate_at": get_args(GateAt),
    "cls_head": get_args(ClsHead),
    "downsampling": get_args(Downsampling),
}


@dataclass(frozen=True)
class ModelSpec:
    """One model for one task.

    Args:
        name: E.g. ``"topformer_t_mscsa"``.
        family: ``"topformer"`` or ``"pvt_v2"``.
        task: ``"cls"`` or ``"seg"``.
        input_size: Reference (height, width) in pixels.
        num_classes: Classes of the reference head.
        output_stride: Input pixels per output cell of the segmentation logits; 0 for classification.
        build: ``"module:function"`` called as ``function(spec, options)``.
        source: Where the architecture comes from.
        paper_flops: FLOPs printed in the paper, rounded there; None where it prints none.
    """

    name: str
    family: str
    task: Task
    input_size: tuple[int, int]
    num_classes: int
    output_stride: int
    build: str
    source: str
    paper_flops: int | None

    @property
    def mscsa(self) -> bool:
        """Whether the model has the MSCSA module."""
        return self.name.endswith("_mscsa")

    @property
    def variant(self) -> str:
        """The name without the MSCSA suffix, e.g. ``"pvt_v2_b1"``."""
        return self.name.removesuffix("_mscsa")


# FLOPs (cls, seg) in millions, as the paper prints them in Tables 3 and 4 and its appendix.
_PAPER_MFLOPS: dict[str, tuple[int | None, int | None]] = {
    "topformer_t": (129, 550),
    "topformer_t_mscsa": (132, 550),
    "topformer_b": (380, 1_800),
    "topformer_b_mscsa": (380, 1_800),
    "pvt_v2_b0": (570, 25_000),
    "pvt_v2_b0_mscsa": (650, 26_000),
    "pvt_v2_b1": (2_100, 34_000),
    "pvt_v2_b1_mscsa": (2_300, 36_000),
    "pvt_v2_b2": (None, 46_000),
    "pvt_v2_b2_mscsa": (None, 49_000),
}

MODEL_NAMES: tuple[str, ...] = tuple(_PAPER_MFLOPS)


def model_spec(name: str, task: str) -> ModelSpec:
    """The entry of the zoo called `name` for `task`.

    Raises:
        UserError: No such model or task; the nearest name is offered.
    """
    if name not in _PAPER_MFLOPS:
        raise unknown_name("model", name, MODEL_NAMES)
    known = task_named(task)
    family = "topformer" if name.startswith("topformer") else "pvt_v2"
    source = TOPFORMER_SOURCE if family == "topformer" else PVT_SOURCE
    stride = 0 if known == "cls" else 8 if family == "topformer" else 4
    mflops = _PAPER_MFLOPS[name][TASKS.index(known)]
    return ModelSpec(
        name=name,
        family=family,
        task=known,
        input_size=DEFAULT_SIZES[known],
        num_classes=DEFAULT_CLASSES[known],
        output_stride=stride,
        build=f"mscsa_deploy.models.{family}:build",
        source=f"{source}; {SOURCE}" if name.endswith("_mscsa") else source,
        paper_flops=None if mflops is None else mflops * 1_000_000,
    )


def check_options(spec: ModelSpec, options: ModelOptions) -> None:
    """Raise `UserError` if an option is set that this model does not have."""
    default = ModelOptions(num_classes=options.num_classes)
    changed = [f.name for f in dataclasses.fields(options) if getattr(options, f.name) != getattr(default, f.name)]
    if changed and not spec.mscsa:
        raise UserError(f"{spec.name} has no MSCSA module, so {', '.join(changed)} cannot be set for it")
    if options.cls_head == "concat" and (spec.family, spec.task) != ("pvt_v2", "cls"):
        raise UserError(
            f"cls_head='concat' does not apply to {spec.name} for {spec.task}",
            hint="it is a choice of the PVTv2 classifiers with MSCSA",
        )
    if options.gate_at != "low" and spec.task != "seg":
        raise UserError(f"gate_at does not apply to {spec.name} for {spec.task}: a classifier has no fusion gate")


def build_model(name: str, task: Task, options: ModelOptions | None = None) -> nn.Module:
    """A freshly initialized model in training mode.

    Takes (N, 3, H, W) float32, normalized RGB; returns logits, (N, classes) or (N, classes, H/s, W/s) with
    s the spec's `output_stride`. H and W are multiples of 32 from 64 to 2048.

    Raises:
        UserError: Unknown model or task, or an option that the model does not have.
    """
    spec = model_spec(name, task)
    options = options or ModelOptions()
    check_options(spec, options)
    module, function = spec.build.split(":")
    made: nn.Module = getattr(import_module(module), function)(spec, options)
    return made


def check_size(size: tuple[int, int]) -> None:
    """Raise `SpecError` unless `size` (height, width) is one the models take, naming the nearest that is."""
    nearest = tuple(_nearest_size(pixels) for pixels in size)
    if nearest != tuple(size):
        raise SpecError(
            f"input size {size[0]}x{size[1]} does not fit: height and width must be multiples of {SIZE_STEP} "
            f"from {SIZE_MIN} to {SIZE_MAX}",
            hint=f"the nearest size is {nearest[0]}x{nearest[1]}",
        )


def _nearest_size(pixels: int) -> int:
    return min(max((pixels + SIZE_STEP // 2) // SIZE_STEP * SIZE_STEP, SIZE_MIN), SIZE_MAX)


def options_to_json(options: ModelOptions) -> str:
    """The options as compact JSON with sorted keys."""
    return json.dumps(dataclasses.asdict(options), sort_keys=True, separators=(",", ":"))


def options_from(values: Mapping[str, Any], *, source: str = "options") -> ModelOptions:
    """Options from a table of a recipe or from JSON.

    Raises:
        UserError: An unknown key or a value of the wrong kind; `source` is named.
    """
    known = {field.name for field in dataclasses.fields(ModelOptions)}
    for key in values:
        if key not in known:
            error = unknown_name("model option", key, known)
            raise UserError(f"'{source}': {error.message}", hint=error.hint)
    import msgspec

    try:
        return msgspec.convert(dict(values), ModelOptions)
    except msgspec.ValidationError as error:
        raise UserError(f"'{source}': {error}") from error
