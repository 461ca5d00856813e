"""The few CUDA calls that running an engine needs, through NVIDIA's cuda-python."""

from __future__ import annotations

import ctypes
import importlib
import sys
from typing import Any

import numpy as np

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import StageError, UnsupportedError

HOW_TO_INSTALL = "pip install cuda-python"
_MODULES = ("cuda.bindings.runtime", "cuda.cudart")


def cuda_runtime() -> Any:
    """The module of CUDA runtime calls.

    Raises:
        UnsupportedError: cuda-python is not installed.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UnsupportedError("cuda-python is not installed", hint=HOW_TO_INSTALL)


def call(function: Any, *arguments: Any) -> Any:
    """The result of a CUDA call: None, one value, or a tuple.

    Raises:
        StageError: CUDA returned an error; its code is named.
    """
    status, *results = function(*arguments)
    if int(status) != 0:
        raise StageError("cuda", function.__name__, str(status))
    return results[0] if len(results) == 1 else tuple(results) or None


def device_count() -> int:
    """NVIDIA GPUs that CUDA can use here; 0 without a driver.

    Raises:
        UnsupportedError: There is a driver, but cuda-python is not installed.
    """
    if not _has_driver():
        return 0
    try:
        return int(call(cuda_runtime().cudaGetDeviceCount))
    except StageError:
        return 0


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class Buffers:
    """Device memory for named tensors, with copies on one stream.

    Args:
        nbytes: Size of each buffer by tensor name.
    """

    def __init__(self, nbytes: dict[str, int]) -> None:
        self._cuda = cuda_runtime()
        self.stream = call(self._cuda.cudaStreamCreate)
        self.pointers: dict[str, int] = {}
        for name, size in nbytes.items():
            self.pointers[name] = int(call(self._cuda.cudaMalloc, max(size, 1)))

    def put(self, name: str, array: Array) -> None:
        """Start copying the C-contiguous `array` to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(
            self._cuda.cudaMemcpyAsync,
            self.pointers[name],
            array.ctypes.data,
            array.nbytes,
            kind,
            self.stream,
        )

    def get(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Start copying the buffer into a new array; it is filled after `wait`."""
        array = np.empty(shape, dtype)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(
            self._cuda.cudaMemcpyAsync,
            array.ctypes.data,
            self.pointers[name],
            array.nbytes,
            kind,
            self.stream,
        )
        return array

    def wait(self) -> None:
        """Return when everything on the stream is done."""
        call(self._cuda.cudaStreamSynchronize, self.stream)

    def free(self) -> None:
        """Give the memory and the stream back."""
        for pointer in self.pointers.values():
            call(self._cuda.cudaFree, pointer)
        self.pointers = {}
        call(self._cuda.cudaStreamDestroy, self.stream)
