"""TensorRT on an NVIDIA GPU: runs engines that `tensorrt_build.build_engine` wrote.

Through `tensorrt_rtx` or the classic `tensorrt`, whichever imports. Without a GPU engines can still be built,
but not run: `probe` then says so.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mscsa_deploy.core.tensors import Array, Feed, TensorSpec, check_feed
from mscsa_deploy.errors import DeployError, StageError, UnsupportedError
from mscsa_deploy.runtimes.cuda import NO_GPU, Buffers, device_count
from mscsa_deploy.runtimes.protocol import Capabilities, OpProfile, OpRow, SessionSettings
from mscsa_deploy.runtimes.session import (
    CheckedRuntime,
    CheckedSession,
    VendorErrors,
    brief,
    join_precisions,
    vendor_errors,
)
from mscsa_deploy.runtimes.tensorrt_build import HOW_TO_INSTALL, dtype_name, library, listener, targets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WARMUP_RUNS = 10

_FORMAT_WORDS = MappingProxyType(
    {
        "int8": r"\bint8\b",
        "bf16": r"\b(?:bf16|bfloat16)\b",
        "fp16": r"\b(?:fp16|half|float16)\b",
        "fp32": r"\b(?:fp32|float|float32)\b",
    }
)


def seam(subject: str, doing: str) -> VendorErrors:
    """Map errors raised inside the block to ours; TensorRT's interface has no exceptions of its own."""
    table: dict[type[BaseException], type[DeployError]] = {
        RuntimeError: StageError,
        ValueError: StageError,
        TypeError: StageError,
        MemoryError: StageError,
    }
    return vendor_errors(table, runtime="tensorrt", subject=subject, doing=doing)


class TensorRT(CheckedRuntime):
    """TensorRT: loads ``.engine`` files."""

    name = "tensorrt"
    accepts = ("engine",)
    options = ()

    def probe(self) -> Capabilities:
        """Whether engines can run here; without a GPU the reason says what can be built."""
        try:
            module = library()
        except UnsupportedError as error:
            return Capabilities(False, error.message, HOW_TO_INSTALL, "", (), ())
        version = f"{module.__version__}{' (RTX)' if 'rtx' in module.__name__ else ''}"
        can = targets(module)
        building = f"; engines for compute capability {', '.join(can)} can be built here" if can else ""
        if device_count() == 0:
            hint = "run it on a machine with an NVIDIA GPU and its driver"
            return Capabilities(False, f"{NO_GPU}{building}", hint, version, (), ())
        return Capabilities(True, "", HOW_TO_INSTALL, version, ("cuda",), ("int8", "bf16", "fp16", "fp32"))

    def load(self, path: Path, settings: SessionSettings) -> TensorRTSession:
        """A session for the engine; see `Runtime.load` for the errors."""
        self.check(path, settings)
        return TensorRTSession(path)

    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """Time by layer from TensorRT's profiler, after warm-up."""
        can = self.check(path, settings)
        with TensorRTSession(path) as session:
            check_feed(session.inputs, feed)
            rows = session.timed_rows(feed, runs)
            precision = session.executed_precision
        if not rows:
            raise UnsupportedError("this TensorRT reported no layer times", hint="use the classic tensorrt")
        return OpProfile(self.name, can.version, precision, runs, rows)


class TensorRTSession(CheckedSession):
    """An engine on the GPU with its own buffers; made by `TensorRT.load`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._module = library()
        self._log = listener(self._module)
        with seam(path.name, "loading"):
            self._runtime = self._module.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise StageError(
                    "tensorrt loading",
                    path.name,
                    brief(" ".join(self._log.errors)) or "the engine was refused",
                    hint=f"build it for this GPU with {self._module.__name__} {self._module.__version__}",
                )
            self._context = self._engine.create_execution_context()
            inputs, outputs = self._specs()
        sizes = {spec.name: int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in inputs + outputs}
        self._buffers = Buffers(sizes)
        for name, pointer in self._buffers.pointers.items():
            self._context.set_tensor_address(name, pointer)
        # No thread of the CPU computes here.
        super().__init__(inputs, outputs, threads=0, seam=lambda doing: seam(path.name, doing))

    def _specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        engine, modes = self._engine, self._module.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        specs = {
            name: TensorSpec(name, dtype_name(engine.get_tensor_dtype(name)), tuple(engine.get_tensor_shape(name)))
            for name in names
        }
        inputs = tuple(specs[name] for name in names if engine.get_tensor_mode(name) == modes.INPUT)
        return inputs, tuple(specs[name] for name in names if engine.get_tensor_mode(name) == modes.OUTPUT)

    def _run(self, feed: Feed) -> dict[str, Array]:
        # Kept until the stream is done: the copies read from these arrays.
        held = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        for name, array in held.items():
            self._buffers.put(name, array)
        if not self._context.execute_async_v3(self._buffers.stream):
            raise StageError("tensorrt inference", self._path.name, brief(" ".join(self._log.errors)))
        answers = {spec.name: self._buffers.get(spec.name, spec.shape, spec.dtype) for spec in self.outputs}
        self._buffers.wait()
        return answers

    def _close(self) -> None:
        self._buffers.free()
        self._context = self._engine = self._runtime = None

    def _read_precision(self) -> Iterable[str]:
        return engine_precisions(self._information())

    def _information(self) -> str:
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._module.LayerInformationFormat.JSON))

    def timed_rows(self, feed: Feed, runs: int) -> tuple[OpRow, ...]:
        """One row per layer, the slowest first; empty if the library reports none."""
        spans: dict[str, float] = {}
        for _ in range(WARMUP_RUNS):
            self.run(feed)
        self._context.profiler = _profiler(self._module, spans)
        for _ in range(runs):
            self.run(feed)
        rows = [OpRow(name, "layer", "", "tensorrt", "", ms / runs, 1) for name, ms in spans.items()]
        return tuple(sorted(rows, key=lambda row: -row.ms))


def engine_precisions(information: str) -> tuple[str, ...]:
    """The precisions that an engine inspector's text names in its tensor formats, lowest first."""
    text = information.lower()
    found = [name for name, pattern in _FORMAT_WORDS.items() if re.search(pattern, text)]
    return tuple(join_precisions(found).split("+")) if found else ()


def _profiler(module: Any, spans: dict[str, float]) -> Any:
    """A TensorRT profiler that adds up milliseconds by layer name in `spans`."""

    class Collector(module.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            spans[layer_name] = spans.get(layer_name, 0.0) + ms

    return Collector()
