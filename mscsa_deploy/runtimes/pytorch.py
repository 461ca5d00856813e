"""PyTorch on the CPU or an NVIDIA GPU: eager, or compiled on request.

Options (`SessionSettings.options`):
    compile: True runs the model through ``torch.compile``; the load then includes the compilation.
    channels_last: True keeps activations and weights in NHWC memory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mscsa_deploy.core.environment import isa_flags, package_version
from mscsa_deploy.core.tensors import Array, Feed, TensorSpec, check_feed
from mscsa_deploy.errors import CheckpointError, DeployError, StageError, UnsupportedError
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
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import torch

INPUT_NAME, OUTPUT_NAME = "image", "logits"
SIZE_KEY = "mscsa_deploy.input_size"
WARMUP_RUNS = 3
_LOW = MappingProxyType({"bf16": "bfloat16", "fp16": "float16"})

ERRORS: MappingProxyType[str, type[DeployError]] = MappingProxyType(
    {
        "OutOfMemoryError": StageError,
        "AcceleratorError": StageError,
        "FatalError": StageError,
        "JITException": StageError,
    }
)
"""Our error for each exception class of the vendor, by name; a test walks the vendor's module."""


def seam(subject: str, doing: str) -> VendorErrors:
    """Map PyTorch's errors raised inside the block to ours; the compiler's are `RuntimeError` too."""
    import torch

    table: dict[type[BaseException], type[DeployError]] = {
        NotImplementedError: UnsupportedError,
        RuntimeError: StageError,
        MemoryError: StageError,
    }
    table.update({getattr(torch, name): ours for name, ours in ERRORS.items()})
    return vendor_errors(table, runtime="pytorch", subject=subject, doing=doing)


class PyTorch(CheckedRuntime):
    """PyTorch: loads the ``.safetensors`` model files that this package writes."""

    name = "pytorch"
    accepts = ("torch",)
    options = ("compile", "channels_last")
    how_to_install: ClassVar[str] = "pip install 'mscsa-deploy[export]'"

    def probe(self) -> Capabilities:
        """Version and devices; bf16 where the CPU computes in it, fp16 only on a GPU."""
        version = package_version("torch")
        if importlib.util.find_spec("torch") is None:
            return Capabilities(False, "torch is not installed", self.how_to_install, "", (), ())
        try:
            import torch
        except (ImportError, OSError) as error:
            return Capabilities(False, f"it does not import: {error}", self.how_to_install, version, (), ())
        cuda = torch.cuda.is_available()
        flags = {"avx512_bf16", "amx_bf16", "bf16"}.intersection(isa_flags())
        found = {"bf16": cuda or bool(flags), "fp16": cuda, "fp32": True}
        return Capabilities(
            available=True,
            reason="",
            how_to_install=self.how_to_install,
            version=str(torch.__version__),
            devices=("cpu", "cuda") if cuda else ("cpu",),
            precisions=tuple(name for name, present in found.items() if present),
        )

    def load(self, path: Path, settings: SessionSettings) -> PyTorchSession:
        """The model in evaluation mode; see `Runtime.load` for the errors."""
        self._check_all(path, settings)
        return PyTorchSession(path, settings)

    def profile(self, path: Path, settings: SessionSettings, feed: Feed, *, runs: int = 20) -> OpProfile:
        """Time by operator, taken around each dispatch to a kernel, after warm-up; eager mode only."""
        can = self._check_all(path, settings)
        if settings.options.get("compile"):
            raise UnsupportedError("a compiled PyTorch model has no profile by operator", hint="profile it eager")
        with PyTorchSession(path, settings) as session:
            rows = session.timed_rows(feed, runs)
        return OpProfile(self.name, can.version, join_precisions(executed_precisions(rows)), runs, rows)

    def _check_all(self, path: Path, settings: SessionSettings) -> Capabilities:
        can = self.check(path, settings)
        if settings.device == "cpu" and settings.precision == "fp16":
            raise UnsupportedError("PyTorch runs fp16 on a GPU only", hint="use fp32 or bf16 on the CPU")
        return can


class PyTorchSession(CheckedSession):
    """A model in evaluation mode; made by `PyTorch.load`."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        import torch

        from mscsa_deploy.models.checkpoint import load_model_file

        self._path, self._settings = path, settings
        with seam(path.name, "loading"):
            torch.set_num_threads(settings.threads)
            module: Any
            module, metadata = load_model_file(path)
            self._module = module.eval().to(settings.device)
            if settings.options.get("channels_last"):
                self._module = self._module.to(memory_format=torch.channels_last)
            super().__init__(
                (_input_spec(path, metadata),),
                self._probe_outputs,
                threads=torch.get_num_threads(),
                seam=lambda doing: seam(path.name, doing),
            )
            self._call = self._module
            if settings.options.get("compile"):
                self._call = torch.compile(self._module)
                self._run(zero_feed(self.inputs))

    def _run(self, feed: Feed) -> dict[str, Array]:
        import torch

        # The thread count belongs to the process, and another session may have changed it.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        image = np.require(feed[INPUT_NAME], requirements=("C", "W"))
        with self._mode():
            tensor = torch.from_numpy(image).to(self._settings.device)
            if self._settings.options.get("channels_last"):
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            answer = self._call(tensor)
            return {OUTPUT_NAME: answer.to("cpu", torch.float32, copy=answer is tensor).contiguous().numpy()}

    @contextlib.contextmanager
    def _mode(self) -> Iterator[None]:
        import torch

        device, precision = self._settings.device, self._settings.precision
        low = getattr(torch, _LOW[precision]) if precision in _LOW else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if low is not None:
                stack.enter_context(torch.autocast(device, dtype=low))
            elif device == "cuda":
                # cuDNN's default for float32 convolutions is TF32, which is not what fp32 promises.
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            yield

    def _close(self) -> None:
        self._module = self._call = None

    def _probe_outputs(self) -> tuple[TensorSpec, ...]:
        """Output shapes from a run that computes shapes only."""
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode

        (spec,) = self.inputs
        with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
            answer = self._module(torch.empty([1, *spec.shape[1:]], device=self._settings.device))
        return (TensorSpec(OUTPUT_NAME, "float32", (-1, *answer.shape[1:])),)

    def _read_precision(self) -> Iterable[str]:
        return executed_precisions(self._watch(zero_feed(self.inputs), runs=1, warmup=0))

    def timed_rows(self, feed: Feed, runs: int) -> tuple[OpRow, ...]:
        """One row per operator and output shape, the slowest first."""
        check_feed(self.inputs, feed)
        with seam(self._path.name, "profiling"):
            rows = self._watch(feed, runs=runs, warmup=WARMUP_RUNS)
        return tuple(sorted(rows, key=lambda row: -row.ms))

    def _watch(self, feed: Feed, *, runs: int, warmup: int) -> tuple[OpRow, ...]:
        watch = _watcher(self._settings.device)
        for _ in range(warmup):
            self._run(feed)
        call, self._call = self._call, self._module
        try:
            with watch:
                for _ in range(runs):
                    self._run(feed)
        finally:
            self._call = call
        return tuple(
            OpRow(f"{op} {list(shape)}", op, precision, "aten", "", sum(spans) / runs / 1e6, len(spans) // runs)
            for (op, precision, shape), spans in watch.spans.items()
        )


def _watcher(device: str) -> Any:
    """A dispatch mode whose ``spans`` hold the nanoseconds of every kernel call by (op, precision, shape)."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.spans: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            begin = time.perf_counter_ns()
            answer = func(*args, **(kwargs or {}))
            if device == "cuda":
                torch.cuda.synchronize()
            span = time.perf_counter_ns() - begin
            first = answer[0] if isinstance(answer, (tuple, list)) else answer
            if isinstance(first, torch.Tensor):
                kind = str(_operand(args, first).dtype).removeprefix("torch.")
                op = func.overloadpacket.__name__
                key = (op, PRECISION_OF.get(kind, kind), tuple(first.shape))
                self.spans.setdefault(key, []).append(span)
            return answer

    return Watch()


def _operand(args: Any, otherwise: torch.Tensor) -> torch.Tensor:
    import torch

    tensors = (value for value in args if isinstance(value, torch.Tensor))
    return next(tensors, otherwise)


def _input_spec(path: Path, metadata: dict[str, str]) -> TensorSpec:
    size = metadata.get(SIZE_KEY, "")
    height, _, width = size.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise CheckpointError(
            f"'{path.name}' says '{size}' for its input size, expected HxW",
            hint=f"write it into the header as '{SIZE_KEY}'",
        )
    return TensorSpec(INPUT_NAME, "float32", (-1, 3, int(height), int(width)))
