"""OpenVINO on the CPU and whatever other devices it lists.

Its CPU default is bf16 wherever the processor has it, so the precision is always pinned and read back.

Options (`SessionSettings.options`):
    float_precision: What the float remainder of an int8 file runs in: ``"fp32"`` (default), ``"bf16"``
        or ``"fp16"``.
    Any of `PROPERTIES`: passed to ``compile_model`` as they are.
"""

from __future__ import annotations

import functools
import importlib.util
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mscsa_deploy.core.environment import package_version
from mscsa_deploy.core.telemetry import without_telemetry
from mscsa_deploy.core.tensors import Array, Feed, TensorSpec, check_feed
from mscsa_deploy.errors import DeployError, StageError, UnsupportedError, UserError
from mscsa_deploy.runtimes.profiling import PRECISION_OF, executed_precisions
from mscsa_deploy.runtimes.protocol import Capabilities, OpProfile, OpRow, SessionSettings
from mscsa_deploy.runtimes.session import (
    CheckedRuntime,
    CheckedSession,
    VendorErrors,
    join_precisions,
    vendor_errors,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PROPERTIES = (
    "CPU_DENORMALS_OPTIMIZATION",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "ENABLE_CPU_PINNING",
    "ENABLE_HYPER_THREADING",
    "EXECUTION_MODE_HINT",
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
    "SCHEDULING_CORE_TYPE",
)
"""Compile properties that a profile or caller may set; precision and threads are settings of their own."""

HINTS = MappingProxyType({"fp32": "f32", "bf16": "bf16", "fp16": "f16"})
WARMUP_RUNS = 3

ERRORS: MappingProxyType[str, type[DeployError]] = MappingProxyType(
    {
        "NotImplementedFailure": UnsupportedError,
        "OpConversionFailure": UnsupportedError,
        "InitializationFailure": StageError,
        "GeneralFailure": UserError,
        "OpValidationFailure": UserError,
    }
)
"""Our error for each exception class of the vendor, by name; a test walks the vendor's module."""


def _vendor() -> Any:
    """The vendor's module, imported so that it reports no usage."""
    with without_telemetry():
        import openvino
    return openvino


@functools.cache
def shared_core() -> Any:
    """The vendor's core, one for as long as the process lives.

    On processors with AMX its CPU plugin gives the thread that loads it a signal stack, and frees that memory with
    the last core, on whatever thread that happens: the first thread would crash at its next signal.
    """
    return _vendor().Core()


def seam(subject: str, doing: str, *, otherwise: type[DeployError] = StageError) -> VendorErrors:
    """Map OpenVINO's errors raised inside the block to ours.

    Most failures are plain `RuntimeError`, so what they mean depends on what was being done: `otherwise`.
    """
    _vendor()
    import openvino._pyopenvino as vendor

    table: dict[type[BaseException], type[DeployError]] = dict.fromkeys(
        (RuntimeError, ValueError, TypeError, MemoryError), otherwise
    )
    table.update({getattr(vendor, name): ours for name, ours in ERRORS.items() if hasattr(vendor, name)})
    return vendor_errors(table, runtime="openvino", subject=subject, doing=doing)


class OpenVino(CheckedRuntime):
    """OpenVINO: loads ``.onnx`` files and its own ``.xml`` with the ``.bin`` beside it."""

    name = "openvino"
    accepts = ("openvino", "onnx")
    options = ("float_precision", *PROPERTIES)
    how_to_install: ClassVar[str] = "pip install 'mscsa-deploy[openvino]'"

    def probe(self) -> Capabilities:
        """Version, devices, and what the CPU plugin says it can execute."""
        version = package_version("openvino")
        if importlib.util.find_spec("openvino") is None:
            return Capabilities(False, "openvino is not installed", self.how_to_install, "", (), ())
        try:
            core = shared_core()
            devices = tuple(device.lower() for device in core.available_devices)
            can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except (ImportError, RuntimeError) as error:
            return Capabilities(False, f"it does not start: {error}", self.how_to_install, version, (), ())
        found = {"BF16": "bf16", "FP16": "fp16", "FP32": "fp32", "INT8": "int8"}
        precisions = tuple(name for key, name in found.items() if key in can)
        return Capabilities(True, "", self.how_to_install, version, devices, precisions)

    def load(self, path: Path, settings: SessionSettings) -> OpenVinoSession:
        """A compiled model with its precision pinned; see `Runtime.load` for the errors."""
        self._check_all(path, settings)
        return OpenVinoSession(path, settings)

    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """Time by kernel from OpenVINO's performance counters, after warm-up; microsecond resolution."""
        can = self._check_all(path, settings)
        with OpenVinoSession(path, settings, count_time=True) as session:
            check_feed(session.inputs, feed)
            rows = session.timed_rows(feed, runs)
        return OpProfile(self.name, can.version, join_precisions(executed_precisions(rows)), runs, rows)

    def _check_all(self, path: Path, settings: SessionSettings) -> Capabilities:
        can = self.check(path, settings)
        remainder = settings.options.get("float_precision")
        if remainder is None:
            return can
        if settings.precision != "int8" or remainder not in HINTS:
            raise UserError(
                f"openvino option float_precision = {remainder!r} with precision {settings.precision}",
                hint=f"it goes with precision int8 and is one of {', '.join(HINTS)}",
            )
        if remainder not in can.precisions:
            raise UnsupportedError(
                f"openvino cannot execute {remainder} on this machine",
                hint=f"it can execute: {', '.join(can.precisions)}",
            )
        return can


class OpenVinoSession(CheckedSession):
    """A compiled model; made by `OpenVino.load`."""

    def __init__(self, path: Path, settings: SessionSettings, *, count_time: bool = False) -> None:
        self._path = path
        self._compiled = _compile(path, settings, count_time=count_time)
        self._request = self._compiled.create_infer_request()
        super().__init__(
            tuple(_spec(port) for port in self._compiled.inputs),
            tuple(_spec(port) for port in self._compiled.outputs),
            threads=int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            seam=lambda doing: seam(path.name, doing),
        )
        self._names = [spec.name for spec in self.outputs]

    def _run(self, feed: Feed) -> dict[str, Array]:
        # Inputs may be shared because the call blocks; outputs are copied, since the next run reuses them.
        answers = self._request.infer(dict(feed), share_inputs=True, share_outputs=False)
        return dict(zip(self._names, answers.to_tuple(), strict=True))

    def _close(self) -> None:
        self._request = self._compiled = None

    def _read_precision(self) -> Iterable[str]:
        return executed_precisions(self._kernels().values())

    def timed_rows(self, feed: Feed, runs: int) -> tuple[OpRow, ...]:
        """One row per executed kernel, the slowest first; the session must have been made to count time."""
        sums: dict[str, float] = {}
        with seam(self._path.name, "profiling"):
            for turn in range(WARMUP_RUNS + runs):
                self._request.infer(dict(feed), share_inputs=True)
                for node in self._request.get_profiling_info() if turn >= WARMUP_RUNS else ():
                    if node.status == node.Status.EXECUTED:
                        sums[node.node_name] = sums.get(node.node_name, 0.0) + node.real_time.total_seconds()
            kernels = self._kernels()
        rows = [_timed(kernels, name, seconds * 1000 / runs) for name, seconds in sums.items()]
        return tuple(sorted(rows, key=lambda row: -row.ms))

    def _kernels(self) -> dict[str, OpRow]:
        """Each kernel of the executed graph by name, with no time yet."""
        rows = {}
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            told = {key: _text(node.rt_info[key]) for key in node.rt_info}
            # The kernel's own suffix is what it computes in: a convolution with int8 weights and float
            # activations says "i8" as its runtime precision and runs "brgconv_avx512_f32".
            kernel = told.get("primitiveType", "")
            precision = kernel.rpartition("_")[2].lower()
            if precision not in PRECISION_OF:
                precision = told.get("runtimePrecision", "")
            if told.get("layerType") == "Subgraph" and PRECISION_OF.get(precision) == "int8":
                # Fused elementwise operators compute in float whatever they read, e.g. pixels.
                precision = "f32"
            name = node.get_friendly_name()
            rows[name] = OpRow(
                node=name,
                op=told.get("layerType", ""),
                precision=PRECISION_OF.get(precision, precision),
                kernel=kernel,
                layout=told.get("outputLayouts", ""),
                ms=0.0,
                count=1,
                sources=tuple(part for part in told.get("originalLayersNames", "").split(",") if part),
            )
        return rows


def _timed(kernels: dict[str, OpRow], name: str, ms: float) -> OpRow:
    row = kernels.get(name) or OpRow(name, "unknown", "", "", "", 0.0, 1)
    return OpRow(row.node, row.op, row.precision, row.kernel, row.layout, ms, row.count, row.sources)


def _compile(path: Path, settings: SessionSettings, *, count_time: bool) -> Any:
    asked = settings.options.get("float_precision", "fp32") if settings.precision == "int8" else settings.precision
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Where threads may run is the process's affinity, which the device profile decides.
        "ENABLE_CPU_PINNING": False,
        **{name: value for name, value in settings.options.items() if name in PROPERTIES},
        "INFERENCE_PRECISION_HINT": HINTS[asked],
        "INFERENCE_NUM_THREADS": settings.threads,
        "PERF_COUNT": count_time,
    }
    if settings.cache:
        properties["CACHE_DIR"] = settings.cache
    with seam(path.name, "reading", otherwise=UserError):
        model = _read(path)
    if not (model.inputs and model.outputs):
        raise UserError(f"'{path}' is not a model: it declares no inputs or no outputs")
    with seam(path.name, "compiling"):
        compiled = shared_core().compile_model(model, settings.device.upper(), properties)
        pinned = PRECISION_OF[compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
    if pinned != asked:
        raise StageError("openvino compiling", path.name, f"asked to run in {asked}, it runs in {pinned}")
    return compiled


def _read(path: Path) -> Any:
    """The model, read by the front end of its kind; the generic reader tries and logs every other one."""
    from openvino.frontend import FrontEndManager

    front_end = FrontEndManager().load_by_framework("ir" if path.suffix.lower() == ".xml" else "onnx")
    # Not mapped into memory: whoever overwrites the weights' file would end the process that runs it.
    mapped = False
    return front_end.convert(front_end.load(str(path), mapped))


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.partial_shape)
    names = sorted(port.names)
    name = names[0] if names else port.node.get_friendly_name()
    return TensorSpec(name, port.element_type.to_dtype().name, shape)
