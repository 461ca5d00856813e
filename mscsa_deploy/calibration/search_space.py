"""Which recipes a search walks: pure changes of a base recipe, in a fixed order.

The order is part of the result: where two candidates cannot be told apart by measurement, the earlier one wins.
So safe choices come first and unusual ones last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mscsa_deploy.calibration.recipe import CalibrationRecipe, FloatRule, defaults_of_others
from mscsa_deploy.core.config import to_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

Rest = Literal["fp32", "fp16", "bf16"]
CHAIN = ("Conv", "Add", "Concat", "AveragePool", "Relu", "Clip", "Split", "Resize", "Reshape", "Transpose")
WEIGHTS = ("Conv", "Gemm", "MatMul")
ATTENTION = FloatRule(reason="attention between two activations stays float", op_types=("MatMul",), weightless=True)
INJECTION = FloatRule(
    reason="what follows the upsampling stays float",
    downstream_of=("Resize",),
    op_types=("Add", "Mul", "Relu", "Resize"),
)
# MSCSA: from the pooled maps of the stages to the upsampling of its answers.
CONTEXT = FloatRule(
    reason="the blocks between pooling and upsampling stay float",
    downstream_of=("AveragePool",),
    upstream_of=("Resize",),
)
# What an OpenVINO recipe changes to be written by the other engine.
QDQ: dict[str, Any] = {
    **defaults_of_others("onnxruntime"),
    "engine": "onnxruntime", "bias_correction": "none", "activations": "int8", "symmetric_activations": True,
}  # fmt: skip
NNCF: dict[str, Any] = {
    **defaults_of_others("nncf"),
    "engine": "nncf", "bias_correction": "fast", "observer": "minmax", "keep_float": (),
}  # fmt: skip
# How many of the most sensitive blocks a repair leaves float, step by step.
REPAIRS = (1, 2, 4, 8)
# How many pictures a file is made from that is only timed.
DRAFT_SAMPLES = 8
# Histograms cost about half a second a picture of 512x512, and settle with fewer pictures than extremes do.
HISTOGRAM_SAMPLES = 64


def placements(base: CalibrationRecipe, *, rests: Sequence[Rest] = ()) -> tuple[CalibrationRecipe, ...]:
    """The base recipe, then others that differ in what is quantized; accuracy and speed both change.

    Args:
        base: What to start from.
        rests: Further types in which the device can compute what is not quantized; each placement is tried in each.
    """
    found = _placements(base)
    others = (recipe.changed(f"{recipe.name}+{rest}", rest=rest) for rest in rests for recipe in found)
    return (*found, *(recipe for recipe in others if recipe.rest != base.rest))


def _placements(base: CalibrationRecipe) -> tuple[CalibrationRecipe, ...]:
    changes: list[tuple[str, dict[str, Any]]] = [("", {})]
    if base.engine == "nncf":
        changes += [
            ("performance", {"preset": "performance", "model_type": "none"}),
            ("transformer", {"preset": "performance", "model_type": "transformer"}),
            ("mixed", {"preset": "mixed", "model_type": "none"}),
            ("injection", {"keep_float": (*base.keep_float, INJECTION)}),
            ("context", {"keep_float": (*base.keep_float, INJECTION, CONTEXT)}),
            ("stem1", {"keep_float": (*base.keep_float, _stem(1))}),
            ("stem3", {"keep_float": (*base.keep_float, _stem(3))}),
            ("context-stem1", {"keep_float": (*base.keep_float, INJECTION, CONTEXT, _stem(1))}),
            ("qdq-chain", {**QDQ, "op_types": (*CHAIN, "Gemm", "MatMul"), "keep_float": (ATTENTION,)}),
            ("qdq-injection", {**QDQ, "op_types": (*CHAIN, "Gemm", "MatMul"), "keep_float": (ATTENTION, INJECTION)}),
            ("qdq-weights", {**QDQ, "op_types": WEIGHTS, "keep_float": (ATTENTION,)}),
        ]
    elif base.runtime == "tensorrt":
        changes += [("chain", {"op_types": CHAIN, "keep_float": ()})]
    else:
        changes += _qdq_changes(base)
    if base.runtime == "openvino" and base.engine == "onnxruntime":
        changes.append(("nncf", NNCF))
    return _distinct(base, [(suffix, _with_shapes(base, change)) for suffix, change in changes])


def _with_shapes(base: CalibrationRecipe, change: dict[str, Any]) -> dict[str, Any]:
    """`change` with the base's rules about shapes: they say what the runtime gets wrong, wherever pairs sit."""
    if "keep_float" not in change:
        return change
    shapes = (rule for rule in base.keep_float if rule.min_kernel)
    return {**change, "keep_float": tuple(dict.fromkeys((*shapes, *change["keep_float"])))}


def _qdq_changes(base: CalibrationRecipe) -> list[tuple[str, dict[str, Any]]]:
    changes: list[tuple[str, dict[str, Any]]] = []
    for op_types, name, rules in (
        (CHAIN, "chain", ()),
        (WEIGHTS, "weights", (ATTENTION,)),
        ((*CHAIN, "Gemm", "MatMul"), "chain-linear", (ATTENTION,)),
        ((), "all", ()),
    ):
        for convs in (3, 1, 0):
            kept = (*rules, *((_stem(convs),) if convs else ()))
            changes.append((f"{name}-stem{convs}", {"op_types": op_types, "keep_float": kept}))
    if base.runtime == "openvino":
        changes.append(("injection", {"keep_float": (*base.keep_float, INJECTION)}))
    gates = {"op_types": (*CHAIN, "Gemm", "Mul"), "force_unquantized_inputs": True}
    changes.append(("gates", {**gates, "keep_float": (_stem(3),)}))
    changes.append(("pools", {"pools_as_convs": not base.pools_as_convs}))
    changes.append(("force", {"force_unquantized_inputs": not base.force_unquantized_inputs}))
    changes.append(("per-tensor", {"per_channel": False}))
    return changes


def _stem(convs: int) -> FloatRule:
    return FloatRule(reason="the first convolutions work on few channels", first_convs=convs)


def drafted(recipe: CalibrationRecipe) -> CalibrationRecipe:
    """The same placement with ranges from a few pictures: enough to time it, not to judge its answers."""
    return recipe.changed(
        recipe.name, samples=min(recipe.samples, DRAFT_SAMPLES), observer="minmax", equalize=False,
        bias_correction="none",
    )  # fmt: skip


def observers(base: CalibrationRecipe) -> tuple[CalibrationRecipe, ...]:
    """The base recipe, then others with the same placement and another way to choose ranges; only accuracy changes."""
    changes: list[tuple[str, dict[str, Any]]] = [("", {})]
    few = min(base.samples, HISTOGRAM_SAMPLES)
    changes += [
        ("minmax", {"observer": "minmax"}),
        ("p99.99", {"observer": "percentile", "percentile": 99.99, "samples": few}),
        ("average", {"observer": "moving_average"}),
    ]
    if base.engine == "onnxruntime":
        changes += [
            ("mse", {"observer": "mse", "samples": few}),
            ("entropy", {"observer": "entropy", "samples": few}),
            ("bias", {"bias_correction": "analytic"}),
            ("equalize", {"equalize": True}),
        ]
    else:
        changes.append(("bias", {"bias_correction": "fast"}))
        if base.model_type == "transformer":
            changes.append(("smooth", {"smooth_quant": 0.95}))
    return _distinct(base, changes)


def repairs(base: CalibrationRecipe, ranking: Sequence[Sequence[str]]) -> tuple[CalibrationRecipe, ...]:
    """The base recipe with its 1, 2, 4 and 8 most damaging blocks left float.

    Args:
        base: What is out of budget.
        ranking: Node names of each block, the most damaging block first.
    """
    changes: list[tuple[str, dict[str, Any]]] = []
    for count in REPAIRS:
        if count > len(ranking):
            break
        names = tuple(f"^{_escaped(name)}$" for block in ranking[:count] for name in block)
        rule = FloatRule(reason=f"among the {count} most sensitive blocks on calibration pictures", nodes=names)
        changes.append((f"repair{count}", {"keep_float": (*base.keep_float, rule)}))
    return _distinct(base, changes)


def _escaped(name: str) -> str:
    return "".join(f"\\{letter}" if letter in r".^$*+?()[]{}|\\" else letter for letter in name)


def _distinct(base: CalibrationRecipe, changes: list[tuple[str, dict[str, Any]]]) -> tuple[CalibrationRecipe, ...]:
    """The changed recipes in order, without those that change nothing or repeat an earlier one."""
    seen = set()
    recipes = []
    for suffix, change in changes:
        recipe = base.changed(f"{base.name}+{suffix}" if suffix else base.name, **change)
        rules = [{**to_plain(rule), "reason": ""} for rule in recipe.keep_float]
        facts = repr({**recipe.plain(), "name": "", "summary": "", "keep_float": rules})
        if facts not in seen:
            seen.add(facts)
            recipes.append(recipe)
    return tuple(recipes)
