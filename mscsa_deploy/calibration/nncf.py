"""INT8 as OpenVINO IR, quantized by NNCF: ranges, placement and bias correction in one call."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from mscsa_deploy.calibration.checks import FiniteWatch, check_listens
from mscsa_deploy.calibration.feeding import quiet
from mscsa_deploy.calibration.placement import excluded
from mscsa_deploy.calibration.provenance import describe, made_by, merged
from mscsa_deploy.calibration.quantizer import LeftFloat, Quantized
from mscsa_deploy.calibration.samples import check_samples
from mscsa_deploy.calibration.source import open_source
from mscsa_deploy.core.artifact import Artifact
from mscsa_deploy.core.files import refuse_existing
from mscsa_deploy.core.progress import silent
from mscsa_deploy.core.telemetry import without_telemetry
from mscsa_deploy.errors import StageError, UnsupportedError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mscsa_deploy.calibration.recipe import CalibrationRecipe
    from mscsa_deploy.calibration.samples import Samples
    from mscsa_deploy.calibration.source import Source
    from mscsa_deploy.core.progress import Progress
    from mscsa_deploy.core.tensors import Feed

log = logging.getLogger(__name__)

# Operators that carry no arithmetic of their own in an IR graph.
BOOKKEEPING = frozenset(
    {"Parameter", "Result", "Constant", "FakeQuantize", "Convert", "ShapeOf", "Broadcast", "Range", "Squeeze",
     "Unsqueeze", "ReadValue", "Assign"}
)  # fmt: skip
# A quantized value passes these unchanged.
MOVERS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "VariadicSplit", "Slice", "StridedSlice"})
WEIGHTED = frozenset({"Convolution", "GroupConvolution", "MatMul"})
FUSED = frozenset(
    {"Add", "BatchNormInference", "Clamp", "Divide", "Gelu", "HSwish", "Maximum", "Minimum", "Multiply", "PRelu",
     "Relu", "Sigmoid", "Subtract"}
)  # fmt: skip
# What the CPU plugin has integer kernels for; whatever else reads INT8 is float inside. A test holds this against the
# kernels that it runs.
INTEGER = frozenset(
    {"AvgPool", "Concat", "Convolution", "ConvolutionBackpropData", "DepthToSpace", "GroupConvolution",
     "GroupConvolutionBackpropData", "MatMul", "MaxPool", "ReduceMax", "ReduceMean"}
)  # fmt: skip
# A quantized value keeps its scale in these.
KEEPERS = MOVERS | {"Concat", "DepthToSpace", "MaxPool", "ReduceMax"}


class NncfQuantizer:
    """Drives `nncf.quantize` on the OpenVINO model read from the ONNX file."""

    def quantize(
        self, model: Path, samples: Samples, recipe: CalibrationRecipe, out: Path, progress: Progress = silent
    ) -> Quantized:
        """Write the IR at `out` (.xml, its .bin beside it); see `Quantizer.quantize`."""
        if out.suffix != ".xml":
            raise UserError(f"an OpenVINO model is written as .xml, got '{out.name}'")
        refuse_existing(out, force=False)
        source = open_source(model)
        used = samples.take(recipe.samples)
        check_samples(used, source.inputs)
        check_listens(source, used.feed(used.indices[0]), used.feed(used.indices[-1]))
        openvino, nncf = load_vendors()
        rules = excluded(source.model, recipe)
        graph = _read(openvino, source)
        names = _friendly_names(graph, source, rules)
        quantized = _run(nncf, graph, _Feeds(source, used, progress), recipe, sorted(names))
        _settle_names(quantized, source)
        left, integer = _left_float(quantized, names)
        if integer == 0:
            raise StageError("quantize", source.title, f"recipe '{recipe.name}' leaves every operator float")
        for key, value in merged(source.metadata, describe(recipe, used, source.sha256)).items():
            quantized.set_rt_info(value, ["mscsa_deploy", key])
        _save(openvino, quantized, out)
        artifact = Artifact.of(
            out,
            kind="openvino",
            precision="int8",
            inputs=source.inputs,
            outputs=source.outputs,
            made_by=made_by(recipe, source.sha256, "openvino", "nncf"),
        )
        log.info("quantized %s: %d operators on integers, %d float", out.name, integer, len(left))
        return Quantized(artifact, left, integer, None, len(used), source.notes)


def load_vendors() -> tuple[Any, Any]:
    """OpenVINO and NNCF, silent and without telemetry.

    Raises:
        UnsupportedError: One of them is not installed.
    """
    try:
        with without_telemetry(), quiet():
            import nncf
            import openvino
    except ImportError as error:
        raise UnsupportedError(
            f"quantizing for OpenVINO needs openvino and nncf: {error}",
            hint="pip install 'mscsa-deploy[quantize]'",
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return openvino, nncf


class _Feeds:
    """What NNCF iterates over: the samples, reported as they are used, read again on every pass.

    NNCF takes NaN and infinity for ranges like any other, so each sample is looked at when it is first used.
    """

    def __init__(self, source: Source, samples: Samples, progress: Progress) -> None:
        self.samples = samples
        self.watch: FiniteWatch | None = FiniteWatch(source)
        self.seen = 0
        self.progress = progress
        # NNCF iterates while its printing is caught; progress may go to the real standard output.
        self.stdout = sys.stdout

    def __iter__(self) -> Iterator[Feed]:
        for index, feed in enumerate(self.samples):
            if self.watch is not None and index == self.seen:
                self.watch.check(feed, f"sample {index + 1} of '{self.samples.name}'")
                self.seen += 1
            yield feed
            with contextlib.redirect_stdout(self.stdout):
                self.progress(index + 1, len(self.samples), "calibrate")
        self.watch = None  # Its session holds every activation.

    def __len__(self) -> int:
        return len(self.samples)


def _read(openvino: Any, source: Source) -> Any:
    from openvino.passes import ConstantFolding, Manager

    with tempfile.TemporaryDirectory(prefix="mscsa-nncf-") as folder:
        path = Path(folder) / "float.onnx"
        onnx.save(source.model, str(path))
        try:
            graph = openvino.Core().read_model(str(path))
        except RuntimeError as error:
            raise StageError("quantize", source.title, f"OpenVINO cannot read it: {error}") from error
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(graph)
    return graph


def _friendly_names(graph: Any, source: Source, rules: dict[str, str]) -> dict[str, str]:
    """The rules' nodes under OpenVINO's names: name to reason.

    OpenVINO names an operator after the ONNX node, or after its output tensor where one node became several.
    """
    reasons = dict(rules)
    for node in source.model.graph.node:
        if node.name in rules:
            reasons.update(dict.fromkeys(node.output, rules[node.name]))
    found = {}
    for operator in graph.get_ops():
        name = operator.get_friendly_name()
        origin = name.removesuffix("/WithoutBiases")
        if origin in reasons and operator.get_type_name() not in BOOKKEEPING:
            found[name] = reasons[origin]
    return found


def _settle_names(graph: Any, source: Source) -> None:
    """Number the names that OpenVINO counts up per process, so that equal inputs give equal bytes."""
    known = {name for node in source.model.graph.node for name in (node.name, *node.output)}
    for index, operator in enumerate(graph.get_ordered_ops()):
        kind, name = operator.get_type_name(), operator.get_friendly_name()
        if kind in {"Constant", "Convert"} or (name not in known and re.fullmatch(rf"{kind}_\d+", name)):
            operator.set_friendly_name(f"{kind}_{index}")


def _run(nncf: Any, graph: Any, feeds: _Feeds, recipe: CalibrationRecipe, ignored: Sequence[str]) -> Any:
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
        QuantizationParameters,
    )

    smooth = AdvancedSmoothQuantParameters(convolution=-1.0, matmul=recipe.smooth_quant)
    advanced = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE if recipe.reduce_range else OverflowFix.DISABLE,
        disable_bias_correction=recipe.bias_correction == "none",
        smooth_quant_alphas=smooth,
        weights_quantization_params=QuantizationParameters(per_channel=None if recipe.per_channel else False),
        activations_range_estimator_params=_estimator(recipe),
    )
    try:
        with quiet():
            return nncf.quantize(
                graph,
                nncf.Dataset(feeds, dict),
                preset=nncf.QuantizationPreset(recipe.preset),
                model_type=nncf.ModelType.TRANSFORMER if recipe.model_type == "transformer" else None,
                subset_size=len(feeds),
                ignored_scope=nncf.IgnoredScope(names=list(ignored)) if ignored else None,
                advanced_parameters=advanced,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise StageError("quantize", f"recipe '{recipe.name}'", f"NNCF: {error}") from error


def _estimator(recipe: CalibrationRecipe) -> Any:
    """NNCF's range estimator for the recipe's observer."""
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    def collector(kind: Any, how: Any) -> Any:
        outlier = 1.0 - recipe.percentile / 100.0
        return StatisticsCollectorParameters(kind, how, quantile_outlier_prob=outlier)

    quantile = recipe.observer == "percentile"
    low, high = AggregatorType.MIN, AggregatorType.MAX
    if recipe.observer == "moving_average":
        low = high = AggregatorType.MEAN
    return RangeEstimatorParameters(
        min=collector(StatisticsType.QUANTILE if quantile else StatisticsType.MIN, low),
        max=collector(StatisticsType.QUANTILE if quantile else StatisticsType.MAX, high),
    )


def _left_float(graph: Any, rules: dict[str, str]) -> tuple[tuple[LeftFloat, ...], int]:
    """What the IR computes in float, and how many operators it computes on integers."""
    left = []
    integer = 0
    kernels: set[str] = set()
    for operator in graph.get_ordered_ops():
        kind, name = operator.get_type_name(), operator.get_friendly_name()
        sources = [value.get_source_output().get_node() for value in operator.inputs()]
        live = [node for node in sources if not _constant(node)]
        if kind in BOOKKEEPING or kind in MOVERS or not live:
            continue
        # The CPU plugin computes what follows a convolution element by element inside its kernel.
        if kind in FUSED and len(live) == 1 and live[0].get_name() in kernels:
            kernels.add(operator.get_name())
        elif not all(_quantized(node) for node in live):
            left.append(LeftFloat(name, kind, rules.get(name, f"NNCF puts no quantizer before this {kind}")))
        elif kind not in INTEGER:
            left.append(LeftFloat(name, kind, rules.get(name, f"OpenVINO has no integer kernel for {kind}")))
        else:
            integer += 1
            if kind in WEIGHTED:
                kernels.add(operator.get_name())
    return tuple(left), integer


def _constant(node: Any) -> bool:
    """Whether a value comes from weights alone."""
    if node.get_type_name() == "Constant":
        return True
    inputs = node.inputs()
    if node.get_type_name() == "Parameter" or not inputs:
        return False
    return all(_constant(value.get_source_output().get_node()) for value in inputs)


def _quantized(node: Any) -> bool:
    """Whether a value was quantized, possibly moved around since."""
    kind = node.get_type_name()
    if kind == "FakeQuantize":
        return True
    sources = node.inputs() if kind == "Concat" else node.inputs()[:1]
    return kind in KEEPERS and all(_quantized(value.get_source_output().get_node()) for value in sources)


def _save(openvino: Any, graph: Any, out: Path) -> None:
    """Write .xml and .bin: both or none."""
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = out.with_suffix(".bin")
    try:
        with tempfile.TemporaryDirectory(prefix=".mscsa-nncf-", dir=out.parent) as folder:
            work = Path(folder) / out.name
            openvino.save_model(graph, str(work), compress_to_fp16=False)
            # The .xml last: who finds it finds its weights too.
            work.with_suffix(".bin").replace(weights)
            work.replace(out)
    except (OSError, RuntimeError) as error:
        weights.unlink(missing_ok=True)
        raise StageError("write", str(out), str(error), hint="free some space and rerun") from error
