"""ONNX Runtime on the CPU, or on an NVIDIA GPU where its CUDA provider is installed.

Options (`SessionSettings.options`):
    graph_optimization_level: ``"all"`` (default), ``"extended"``, ``"basic"`` or ``"disabled"``.
    execution_mode: ``"sequential"`` (default), or ``"parallel"`` with as many threads between operators as in them;
        with one thread ONNX Runtime makes the two the same.
    cpu_mem_arena: Whether memory comes from an arena that keeps it (default true).
    mem_pattern: Whether the memory of a run is planned ahead (default true).
    session_config: Mapping of session configuration keys to strings, passed on as they are.
    provider_options: Mapping of options of the execution provider.
    disabled_optimizers: Names of optimizers of ONNX Runtime that do not run.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mscsa_deploy.core.environment import isa_flags, package_version
from mscsa_deploy.core.tensors import Array, Feed, TensorSpec, check_feed
from mscsa_deploy.errors import DeployError, StageError, UnsupportedError, UserError, unknown_name
from mscsa_deploy.runtimes.onnxruntime_scales import has_half_scales
from mscsa_deploy.runtimes.profiling import PRECISION_OF, executed_precisions, zero_feed
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

NOT_FOR_HALF_SCALES = "WeightBiasQuantization"
"""The optimizer that files with Q/DQ scales in FP16, as TensorRT takes them, are loaded without. ONNX Runtime 1.31
would quantize their biases with the product of two scales in FP16, which underflows: a wide convolution is left with
more noise than signal."""
PROVIDERS = MappingProxyType({"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"})
WARMUP_RUNS = 3

ERRORS: MappingProxyType[str, type[DeployError]] = MappingProxyType(
    {
        "NoSuchFile": UserError,
        "NoModel": UserError,
        "InvalidProtobuf": UserError,
        "InvalidGraph": UserError,
        "InvalidArgument": UserError,
        "NotImplemented": UnsupportedError,
        "Fail": StageError,
        "NotFound": StageError,
        "EngineError": StageError,
        "RuntimeException": StageError,
        "ModelLoaded": StageError,
        "ModelLoadCanceled": StageError,
        "ModelRequiresCompilation": StageError,
        "EPFail": StageError,
        "DeviceReset": StageError,
    }
)
"""Our error for each exception class of the vendor, by name; a test walks the vendor's module."""

_DTYPES = MappingProxyType(
    {
        "tensor(float)": "float32",
        "tensor(float16)": "float16",
        "tensor(double)": "float64",
        "tensor(uint8)": "uint8",
        "tensor(int8)": "int8",
        "tensor(uint16)": "uint16",
        "tensor(int16)": "int16",
        "tensor(int32)": "int32",
        "tensor(int64)": "int64",
        "tensor(bool)": "bool",
    }
)


def seam(subject: str, doing: str) -> VendorErrors:
    """Map ONNX Runtime's errors raised inside the block to ours."""
    from onnxruntime.capi import onnxruntime_pybind11_state as vendor

    table: dict[type[BaseException], type[DeployError]] = {MemoryError: StageError, RuntimeError: StageError}
    table.update({getattr(vendor, name): ours for name, ours in ERRORS.items() if hasattr(vendor, name)})
    return vendor_errors(table, runtime="onnxruntime", subject=subject, doing=doing)


class OnnxRuntime(CheckedRuntime):
    """ONNX Runtime: loads ``.onnx`` files."""

    name = "onnxruntime"
    accepts = ("onnx",)
    options = (
        "graph_optimization_level", "execution_mode", "cpu_mem_arena", "mem_pattern", "session_config",
        "provider_options", "disabled_optimizers",
    )  # fmt: skip
    how_to_install: ClassVar[str] = "pip install 'mscsa-deploy[onnxruntime]'"

    def probe(self) -> Capabilities:
        """Version and devices; fp16 only where the CPU has fp16 kernels (arm64) or there is a GPU."""
        version = package_version("onnxruntime", "onnxruntime-gpu")
        if importlib.util.find_spec("onnxruntime") is None:
            return Capabilities(False, "onnxruntime is not installed", self.how_to_install, "", (), ())
        try:
            import onnxruntime as vendor
        except ImportError as error:
            return Capabilities(False, f"it does not import: {error}", self.how_to_install, version, (), ())
        providers = vendor.get_available_providers()
        devices = tuple(device for device, provider in PROVIDERS.items() if provider in providers)
        half = "cuda" in devices or (platform.machine() == "aarch64" and "fphp" in isa_flags())
        precisions = ("int8", "fp16", "fp32") if half else ("int8", "fp32")
        return Capabilities(True, "", self.how_to_install, str(vendor.__version__), devices, precisions)

    def load(self, path: Path, settings: SessionSettings) -> OnnxRuntimeSession:
        """A session on exactly the device asked for; see `Runtime.load` for the errors."""
        self.check(path, settings)
        return OnnxRuntimeSession(path, settings)

    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """Time by kernel from ONNX Runtime's own trace, after warm-up; microsecond resolution."""
        can = self.check(path, settings)
        rows = trace(path, settings, feed, runs=runs, with_sources=True)
        return OpProfile(self.name, can.version, join_precisions(executed_precisions(rows)), runs, rows)


class OnnxRuntimeSession(CheckedSession):
    """A loaded ONNX file; made by `OnnxRuntime.load`."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        self._path, self._settings = path, settings
        self._vendor: Any = _open(path, settings, _session_options(settings))
        super().__init__(
            tuple(_spec(node) for node in self._vendor.get_inputs()),
            tuple(_spec(node) for node in self._vendor.get_outputs()),
            threads=int(self._vendor.get_session_options().intra_op_num_threads),
            seam=lambda doing: seam(path.name, doing),
        )
        self._names = [spec.name for spec in self.outputs]

    def _run(self, feed: Feed) -> dict[str, Array]:
        return dict(zip(self._names, self._vendor.run(self._names, feed), strict=True))

    def _close(self) -> None:
        self._vendor = None

    def _read_precision(self) -> Iterable[str]:
        settings = replace(self._settings, threads=1)
        return executed_precisions(trace(self._path, settings, zero_feed(self.inputs), runs=1))


def trace(
    path: Path, settings: SessionSettings, feed: Feed, *, runs: int, with_sources: bool = False
) -> tuple[OpRow, ...]:
    """One row per executed kernel, the slowest first, averaged over `runs` inferences after warm-up.

    The nodes that a kernel stands for are found `with_sources`, which needs the package onnx, and where kernels run one
    after the other.
    """
    with_sources = with_sources and importlib.util.find_spec("onnx") is not None
    options = _session_options(settings)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="mscsa-deploy-") as work:
        optimized = Path(work) / "optimized.onnx"
        if with_sources:
            options.optimized_model_filepath = str(optimized)
        options.profile_file_prefix = str(Path(work) / "trace")
        session = _open(path, settings, options)
        check_feed(tuple(_spec(node) for node in session.get_inputs()), feed)
        with seam(path.name, "profiling"):
            for _ in range(WARMUP_RUNS + runs):
                session.run(None, dict(feed))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        rows = _rows(events, runs)
        if with_sources:
            rows = _with_sources(rows, path, optimized)
    return tuple(sorted(rows, key=lambda row: -row.ms))


def _with_sources(rows: tuple[OpRow, ...], path: Path, optimized: Path) -> tuple[OpRow, ...]:
    """`rows`, in the order in which kernels first ran, with the nodes of `path` that each stands for, where known."""
    import onnx

    from mscsa_deploy.runtimes.onnxruntime_sources import align, kernel_sources

    graph = onnx.load(optimized)
    if not align([(row.node, row.op) for row in rows], graph):
        return rows
    sources = kernel_sources(onnx.load(path), graph)
    return tuple(replace(row, sources=nodes) for row, nodes in zip(rows, sources, strict=True))


def _rows(events: list[dict[str, Any]], runs: int) -> tuple[OpRow, ...]:
    """One row per kernel, in the order in which they first ran."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    kernels: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        timed = event["name"].endswith("_kernel_time") and event["ts"] >= starts[WARMUP_RUNS]
        if event.get("cat") == "Node" and timed:
            kernels.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    return tuple(_row(name, calls, runs) for name, calls in kernels.items())


def _row(name: str, calls: list[dict[str, Any]], runs: int) -> OpRow:
    facts = calls[0]["args"]
    types = [kind for shapes in facts["input_type_shape"] for kind in shapes]
    types += [kind for shapes in facts["output_type_shape"] for kind in shapes]
    return OpRow(
        node=name,
        op=facts["op_name"],
        precision=PRECISION_OF.get(types[0], types[0]) if types else "",
        kernel=facts["provider"],
        layout="",
        ms=sum(call["dur"] for call in calls) / runs / 1000,
        count=round(len(calls) / runs),
    )


def _open(path: Path, settings: SessionSettings, options: Any) -> Any:
    import onnxruntime as vendor

    provider = PROVIDERS[settings.device]
    provider_options = dict(settings.options.get("provider_options", {}))
    if settings.device == "cuda" and settings.precision == "fp32":
        provider_options.setdefault("use_tf32", "0")
    disabled = [*settings.options.get("disabled_optimizers", ())]
    if has_half_scales(path):
        disabled.append(NOT_FOR_HALF_SCALES)
    with seam(path.name, "loading"):
        session = vendor.InferenceSession(
            str(path),
            options,
            providers=[provider],
            provider_options=[provider_options],
            disabled_optimizers=disabled,
        )
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise StageError("onnxruntime loading", path.name, f"it runs on {session.get_providers()}, not on {provider}")
    return session


def _session_options(settings: SessionSettings) -> Any:
    import onnxruntime as vendor

    levels = {
        "all": vendor.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": vendor.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": vendor.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "disabled": vendor.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    level = settings.options.get("graph_optimization_level", "all")
    if level not in levels:
        raise unknown_name("graph_optimization_level", str(level), levels)
    modes = {"sequential": vendor.ExecutionMode.ORT_SEQUENTIAL, "parallel": vendor.ExecutionMode.ORT_PARALLEL}
    mode = settings.options.get("execution_mode", "sequential")
    if mode not in modes:
        raise unknown_name("execution_mode", str(mode), modes)
    options = vendor.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = settings.threads if mode == "parallel" else 1
    options.execution_mode = modes[mode]
    options.enable_cpu_mem_arena = bool(settings.options.get("cpu_mem_arena", True))
    options.enable_mem_pattern = bool(settings.options.get("mem_pattern", True))
    options.graph_optimization_level = levels[level]
    # Its warnings tell about its own optimizer; what matters to us arrives as an exception or in the trace.
    options.log_severity_level = 3
    for key, value in settings.options.get("session_config", {}).items():
        options.add_session_config_entry(str(key), str(value))
    return options


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise UnsupportedError(f"tensor '{node.name}' has type {node.type}, which this package does not feed")
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)
