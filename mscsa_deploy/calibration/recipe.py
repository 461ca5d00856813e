"""What a quantizer is told, read from `calibration/*.toml`: the only place of these settings."""

from __future__ import annotations

import fnmatch
import itertools
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mscsa_deploy.core.config import Config, read_toml, to_plain
from mscsa_deploy.core.environment import has_isa
from mscsa_deploy.core.shipped import shipped_file, shipped_folder, shipped_names
from mscsa_deploy.errors import UserError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Collection

Observer = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
_NAMING = ("name", "engine", "runtime")
HISTOGRAM_OBSERVERS: tuple[Observer, ...] = ("percentile", "entropy", "mse")

# Keys that one engine alone does something with.
ENGINE_KEYS: dict[str, tuple[str, ...]] = {
    "onnxruntime": (
        "activations", "weights", "symmetric_activations", "averaging", "op_types", "quantize_bias", "pair_on_weights",
        "dedicated_pairs", "force_unquantized_inputs", "float_elementwise", "pools_as_convs", "equalize",
    ),
    "nncf": ("preset", "model_type", "smooth_quant"),
}  # fmt: skip


class FloatRule(Config, frozen=True, kw_only=True):
    """Which nodes stay float, and why. A node matches when every condition that is given holds.

    Args:
        reason: Told with every node that this rule leaves float.
        nodes: Regular expressions, one of which must match the whole node name.
        op_types: One of these operators.
        first_convs: The first N convolutions of the graph and whatever elementwise nodes only they feed.
        last_convs: The last N convolutions of the graph.
        min_kernel: Convolutions whose kernel has at least so many columns.
        channels: Convolutions that sum over so many input channels (a depthwise one: 1); lowest and highest.
        downstream_of: Nodes that some path from one of these operators reaches.
        upstream_of: Nodes from which some path reaches one of these operators.
        weightless: Only nodes without weights (a MatMul of two activations, an Add of two branches).
    """

    reason: str
    nodes: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    first_convs: int = 0
    last_convs: int = 0
    min_kernel: int = 0
    channels: tuple[int, int] | None = None
    downstream_of: tuple[str, ...] = ()
    upstream_of: tuple[str, ...] = ()
    weightless: bool = False

    def __post_init__(self) -> None:
        place = (self.first_convs, self.last_convs, self.downstream_of, self.upstream_of)
        if not any((self.nodes, self.op_types, self.min_kernel, self.channels, *place)):
            raise ValueError(
                "a keep_float rule needs nodes, op_types, first_convs, last_convs, min_kernel, channels, "
                "downstream_of or upstream_of"
            )
        if not self.reason.strip():
            raise ValueError("a keep_float rule needs a reason")
        for pattern in self.nodes:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from error


class CalibrationRecipe(Config, frozen=True, kw_only=True):
    """How one float model becomes one INT8 file for one runtime.

    Args:
        name: Equal to the file's name; told in the artefact.
        summary: One sentence for people: what this recipe is for.
        engine: Which tool writes the file: ``onnxruntime`` (a QDQ ONNX file) or ``nncf`` (OpenVINO IR).
        runtime: Which runtime is to run it.
        architectures: ``platform.machine()`` values the recipe is meant for; empty means any.
        requires: Instruction-set flags without which results differ, e.g. ``vnni``.
        models: Shell patterns of the models, as ``NAME.TASK``, for which this recipe is the default choice.
        priority: Among recipes that fit equally, the highest is the default.
        samples: How many calibration pictures are used (fewer when the set holds fewer).
        activations: Integer type of activations.
        weights: Integer type of weights.
        symmetric_activations: Zero point fixed in the middle of the range.
        per_channel: One weight scale per output channel.
        reduce_range: Weights in 7 bits, so that 16-bit accumulation without VNNI cannot saturate.
        observer: How a range is chosen from what the samples showed.
        percentile: For ``percentile``: share of values inside the range, in percent.
        averaging: For ``moving_average``: weight of each new sample's extremes, 0..1. NNCF weighs all alike.
        op_types: Operators to quantize; empty means every one the engine can.
        keep_float: Rules for what stays float.
        quantize_bias: Biases as int32 (TensorRT's parser refuses these).
        pair_on_weights: Weights stay float behind a Q/DQ pair (TensorRT) instead of being stored as int8.
        dedicated_pairs: One Q/DQ pair per consumer (TensorRT) instead of one shared pair.
        force_unquantized_inputs: Also quantize movers (Resize, Transpose...) whose input is not quantized.
        float_elementwise: Additions and products of quantized tensors in float, written so that ONNX Runtime does not
            fuse them: its integer kernels for these round differently on x86 and on ARM.
        pools_as_convs: Average pools as depthwise convolutions of constant weights, which have faster integer kernels.
        equalize: Cross-layer equalization of Conv-Relu-Conv chains before ranges are taken.
        bias_correction: ``analytic`` shifts each bias by the mean error that weight rounding causes;
            ``fast`` is NNCF's; ``none``.
        preset: NNCF: ``performance`` (symmetric) or ``mixed`` (asymmetric activations).
        model_type: NNCF: ``transformer`` keeps what attention needs in float.
        smooth_quant: NNCF's alpha, moves outliers of activations into weights; negative is off.
        rest: Type of what is not quantized: ``fp32``; ``fp16`` is written into the file; ``bf16`` is asked
            of the runtime when it runs.
    """

    name: str
    engine: Literal["onnxruntime", "nncf"]
    runtime: Literal["onnxruntime", "openvino", "tensorrt"]
    summary: str = ""
    architectures: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    models: tuple[str, ...] = ("*",)
    priority: int = 0
    samples: int = 300
    activations: Literal["uint8", "int8"] = "uint8"
    weights: Literal["int8", "uint8"] = "int8"
    symmetric_activations: bool = False
    per_channel: bool = True
    reduce_range: bool = False
    observer: Observer = "minmax"
    percentile: float = 99.999
    averaging: float = 0.05
    op_types: tuple[str, ...] = ()
    keep_float: tuple[FloatRule, ...] = ()
    quantize_bias: bool = True
    pair_on_weights: bool = False
    dedicated_pairs: bool = False
    force_unquantized_inputs: bool = False
    float_elementwise: bool = False
    pools_as_convs: bool = False
    equalize: bool = False
    bias_correction: Literal["none", "analytic", "fast"] = "none"
    preset: Literal["performance", "mixed"] = "performance"
    model_type: Literal["none", "transformer"] = "none"
    smooth_quant: float = -1.0
    rest: Literal["fp32", "fp16", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")
        if self.activations == "int8" and self.weights == "uint8":
            raise ValueError("int8 activations with uint8 weights exist in no engine")
        if not 50 < self.percentile <= 100:
            raise ValueError("percentile is in percent, above 50 and at most 100")
        if not 0 < self.averaging <= 1:
            raise ValueError("averaging lies between 0 and 1")
        idle = [key for key, value in defaults_of_others(self.engine).items() if getattr(self, key) != value]
        if idle:
            raise ValueError(f"engine {self.engine} does nothing with {', '.join(idle)}; leave them out")
        if self.engine == "nncf":
            self._check_nncf()
        elif self.bias_correction == "fast":
            raise ValueError("bias_correction = 'fast' belongs to engine nncf")

    def of_the_file(self) -> CalibrationRecipe:
        """What decides the file's content: a BF16 rest is asked of the runtime, so the file is that of FP32."""
        return self.changed(self.name_alone, rest="fp32") if self.rest == "bf16" else self

    @property
    def name_alone(self) -> str:
        """The name without the mark of a BF16 rest that candidates of a search and rows of a report have."""
        return self.name.replace("+bf16", "")

    def _check_nncf(self) -> None:
        if self.runtime != "openvino":
            raise ValueError("engine nncf writes OpenVINO IR: runtime must be openvino")
        if self.observer in ("entropy", "mse"):
            raise ValueError(f"NNCF has no observer '{self.observer}'")
        if self.bias_correction == "analytic":
            raise ValueError("bias_correction = 'analytic' belongs to engine onnxruntime")
        if self.rest == "fp16":
            raise ValueError("rest = 'fp16' belongs to engine onnxruntime")

    @classmethod
    def read(cls, path: Path) -> CalibrationRecipe:
        """The recipe in the TOML file at `path`.

        Raises:
            UserError: The file is missing, not TOML, has an unknown key or a value that makes no sense.
        """
        recipe = read_toml(path, cls)
        if recipe.name != path.stem:
            raise UserError(f"'{path}': name is '{recipe.name}', expected '{path.stem}' like the file")
        return recipe

    def plain(self) -> dict[str, Any]:
        """The settings as plain containers, ready for JSON and for cache keys."""
        plain = msgspec.json.decode(msgspec.json.encode(self))
        assert isinstance(plain, dict)
        return plain

    def toml(self) -> str:
        """The text of a recipe file: what differs from the defaults."""
        import tomli_w

        default = CalibrationRecipe(name=self.name, engine=self.engine, runtime=self.runtime).plain()
        kept = {key: value for key, value in self.plain().items() if value != default[key] or key in _NAMING}
        if self.keep_float:
            kept["keep_float"] = [{key: value for key, value in rule.items() if value} for rule in kept["keep_float"]]
        return tomli_w.dumps(kept)

    def changed(self, name: str, **changes: Any) -> CalibrationRecipe:
        """The same recipe under another name with some settings replaced.

        Raises:
            UserError: The changed settings make no sense together.
        """
        try:
            return msgspec.convert({**self.plain(), **to_plain(changes), "name": name}, CalibrationRecipe)
        except msgspec.ValidationError as error:
            raise UserError(f"recipe '{name}': {error}") from error


@cache
def defaults_of_others(engine: str) -> dict[str, Any]:
    """Default values of the keys that only engines other than `engine` do something with."""
    known = {field.name: field.default for field in msgspec.structs.fields(CalibrationRecipe)}
    return {key: known[key] for other, keys in ENGINE_KEYS.items() if other != engine for key in keys}


def read_recipe(name: str) -> CalibrationRecipe:
    """The shipped recipe called `name`, or the one in the file `name` when it ends in ``.toml``.

    Raises:
        UserError: There is none; the nearest shipped name is offered. Or the file names an operator that is none.
    """
    if name.endswith(".toml") and Path(name).is_file():
        recipe = CalibrationRecipe.read(Path(name))
        _check_operators(recipe, name)
        return recipe
    return CalibrationRecipe.read(shipped_file("calibration", name))


def _check_operators(recipe: CalibrationRecipe, place: str) -> None:
    """Raise `UserError` for a misspelled operator: it would match no node, in silence.

    Names that end like an operator of ONNX, or are like none, may be those of another domain.
    """
    from onnx.defs import get_all_schemas

    rules = ((rule.op_types, rule.downstream_of, rule.upstream_of) for rule in recipe.keep_float)
    known = {schema.name for schema in get_all_schemas() if schema.domain == ""}
    for name in itertools.chain(recipe.op_types, *itertools.chain(*rules)):
        if name in known or name.endswith(tuple(known)):
            continue
        error = unknown_name("ONNX operator", name, known)
        folded = {each.casefold(): each for each in known}.get(name.casefold())
        hint = f"did you mean '{folded}'?" if folded else error.hint
        if hint.startswith("did"):
            raise UserError(f"'{place}': {error.message}", hint=hint)


def shipped_recipes() -> tuple[CalibrationRecipe, ...]:
    """Every recipe that comes with the project, sorted by name."""
    folder = shipped_folder("calibration")
    return tuple(CalibrationRecipe.read(folder / f"{name}.toml") for name in shipped_names("calibration"))


def default_recipe(runtime: str, *, model: str, architecture: str, isa: Collection[str]) -> CalibrationRecipe:
    """The recipe to start from for `model` on a device.

    Args:
        runtime: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        model: ``NAME.TASK`` with a zoo name or the stem of a foreign file; compared with each recipe's patterns.
        architecture: ``platform.machine()`` of the device, e.g. ``x86_64`` or ``aarch64``.
        isa: Instruction-set flags of the device (``avx512_vnni`` and ``avx_vnni`` count as ``vnni``).

    Returns:
        Among the recipes whose architecture and required flags fit: the one whose model pattern is most
        specific, then the one of highest priority, then the first by name.

    Raises:
        UserError: No shipped recipe fits.
    """
    for recipe in _fitting(runtime, model, architecture, isa):
        if recipe.rest != "bf16":
            return recipe
    raise UserError(
        f"no calibration recipe fits {runtime} on {architecture} for '{model}'",
        hint="pass one with --recipe FILE; calibration/README.md lists the keys",
    )


def bf16_recipe(runtime: str, *, model: str, architecture: str, isa: Collection[str]) -> CalibrationRecipe | None:
    """The recipe for a device that computes in BF16 what is not quantized; None where `default_recipe` does, too.

    Takes what `default_recipe` takes.
    """
    return next((each for each in _fitting(runtime, model, architecture, isa) if each.rest == "bf16"), None)


def _fitting(runtime: str, model: str, architecture: str, isa: Collection[str]) -> list[CalibrationRecipe]:
    """The recipes for this runtime, model and device, the most suitable first."""
    flags = {flag.lower() for flag in isa}
    found = []
    for recipe in shipped_recipes():
        patterns = [pattern for pattern in recipe.models if fnmatch.fnmatch(model, pattern)]
        suits = not recipe.architectures or architecture in recipe.architectures
        able = all(has_isa(wanted, flags) for wanted in recipe.requires)
        if recipe.runtime == runtime and suits and patterns and able:
            specific = max(len(pattern.rstrip("*")) for pattern in patterns)
            found.append((-specific, -recipe.priority, recipe.name, recipe))
    return [entry[3] for entry in sorted(found, key=lambda entry: entry[:3])]
