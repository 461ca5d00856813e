"""A TensorRT session on acting parts: the GPU's memory is the host's, the engine doubles its input."""

# The actors bear the vendors' names and signatures.
# ruff: noqa: N802, ARG002, ARG005

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from mscsa_deploy.errors import StageError, UnsupportedError
from mscsa_deploy.runtimes import cuda
from mscsa_deploy.runtimes import tensorrt as adapter
from mscsa_deploy.runtimes.protocol import SessionSettings


class ActingDriver:
    """The CUDA driver's functions on host memory, so that addresses are real."""

    def __init__(self):
        self.memory, self.log = {}, []

    def __getattr__(self, name):
        return lambda *_: self.log.append(name) or 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuMemAlloc_v2(self, pointer, size):
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.memory[pointer._obj.value] = block
        return 0

    def cuMemFree_v2(self, pointer):
        del self.memory[pointer.value]
        return 0

    def cuMemcpyHtoDAsync_v2(self, target, source, size, stream):
        assert size.value <= len(self.memory[target.value])
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def cuMemcpyDtoHAsync_v2(self, target, source, size, stream):
        assert size.value <= len(self.memory[source.value])
        ctypes.memmove(target.value, source.value, size.value)
        return 0


class ActingContext:
    def __init__(self):
        self.addresses, self.profiler = {}, None

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        source, target = (
            np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (6,))
            for name in ("x", "y")
        )
        target[:] = 2 * source
        if self.profiler:
            self.profiler.report_layer_time("double", 0.5)
        return True


def acting_library(refuse=False):
    """As much of TensorRT as a session uses; its engine doubles a tensor of shape (2, 3)."""
    modes = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_dtype=lambda name: "DataType.FLOAT",
        get_tensor_shape=lambda name: (2, 3),
        get_tensor_mode=lambda name: modes.INPUT if name == "x" else modes.OUTPUT,
        create_execution_context=ActingContext,
        create_engine_inspector=lambda: SimpleNamespace(
            get_engine_information=lambda _: '{"Format/Datatype": "Row major linear FP16"}'
        ),
    )

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class Runtime:
        def __init__(self, log):
            self.log = log

        def deserialize_cuda_engine(self, plan):
            if refuse:
                self.log.log(1, "engine was built for another GPU")
                return None
            return engine

    return SimpleNamespace(
        __name__="tensorrt",
        __version__="11.0",
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=modes,
        IProfiler=type("IProfiler", (), {}),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


@pytest.fixture
def acting(monkeypatch, tmp_path):
    """A machine that acts as if it had a GPU, and an engine file."""
    gpu = ActingDriver()
    monkeypatch.setattr(cuda, "driver", lambda: gpu)
    monkeypatch.setattr(adapter, "library", acting_library)
    (tmp_path / "m.engine").write_bytes(b"plan")
    return SimpleNamespace(gpu=gpu, path=tmp_path / "m.engine")


CUDA = SessionSettings(device="cuda", precision="fp16")
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_session_copies_runs_and_gives_its_memory_back(acting):
    with adapter.TensorRT().load(acting.path, CUDA) as session:
        first = session.run({"x": X})["y"]
        session.run({"x": -X})
        assert first.tolist() == (2 * X).tolist()
        assert session.run({"x": np.asfortranarray(X)})["y"].tolist() == (2 * X).tolist()
        assert (session.threads, session.executed_precision) == (0, "fp16")
        assert len(acting.gpu.memory) == 2
    assert acting.gpu.memory == {}
    assert acting.gpu.log.count("cuStreamSynchronize") == 3
    assert "cuStreamDestroy_v2" in acting.gpu.log


def test_layers_are_timed_by_the_vendors_profiler(acting):
    profile = adapter.TensorRT().profile(acting.path, CUDA, {"x": X}, runs=4)
    (row,) = profile.rows
    assert (row.node, row.ms, profile.precision) == ("double", 0.5, "fp16")


def test_a_refused_engine_says_which_library_to_build_it_with(acting, monkeypatch):
    monkeypatch.setattr(adapter, "library", lambda: acting_library(refuse=True))
    with pytest.raises(StageError, match="built for another GPU") as caught:
        adapter.TensorRT().load(acting.path, CUDA)
    assert "tensorrt 11.0" in caught.value.hint


def test_an_engine_is_not_run_on_the_cpu(acting):
    with pytest.raises(UnsupportedError, match="no device 'cpu'"):
        adapter.TensorRT().load(acting.path, SessionSettings())


def test_a_driver_error_is_named(acting):
    def name_of(status, text):
        text._obj.value = b"CUDA_ERROR_OUT_OF_MEMORY"

    acting.gpu.cuMemAlloc_v2 = lambda *_: 2
    acting.gpu.cuGetErrorName = name_of
    with pytest.raises(StageError, match="cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"):
        adapter.TensorRT().load(acting.path, CUDA)


def test_without_a_driver_cuda_calls_are_unsupported(monkeypatch):
    monkeypatch.setattr(cuda, "driver", lambda: None)
    assert cuda.device_count() == 0
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU"):
        cuda.call("cuInit", 0)
