"""The few CUDA calls that running an engine needs, straight from the driver's own library.

The driver comes with every NVIDIA GPU, so no further package has to be installed. Names and argument types are
those of the CUDA driver API (``cuda.h``); the ``_v2`` names are what the header's macros stand for.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np

from mscsa_deploy.core.tensors import Array
from mscsa_deploy.errors import StageError, UnsupportedError

NO_GPU = "no NVIDIA GPU was found"


@cache
def driver() -> Any | None:
    """The driver's library, initialized; None without a driver or without a GPU."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return library if library.cuInit(0) == 0 else None


def call(name: str, *arguments: Any) -> None:
    """Call one function of the driver.

    Raises:
        UnsupportedError: There is no driver or no GPU.
        StageError: The driver returned an error; its name is told.
    """
    library = driver()
    if library is None:
        raise UnsupportedError(NO_GPU, hint="run it on a machine with an NVIDIA GPU and its driver")
    status = getattr(library, name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorName(status, ctypes.byref(text))
        raise StageError("cuda", name, (text.value or str(status).encode()).decode())


def device_count() -> int:
    """NVIDIA GPUs that can be used here; 0 without a driver."""
    if driver() is None:
        return 0
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    return count.value


class Buffers:
    """Device memory for named tensors on the first GPU, with copies on one stream.

    Args:
        nbytes: Size of each buffer by tensor name.
    """

    def __init__(self, nbytes: dict[str, int]) -> None:
        # The primary context is the one that the CUDA runtime, and so TensorRT, uses too.
        context = ctypes.c_void_p()
        call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        call("cuStreamCreate", ctypes.byref(self._stream), 0)
        self.pointers: dict[str, int] = {}
        for name, size in nbytes.items():
            pointer = ctypes.c_uint64()
            call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
            self.pointers[name] = pointer.value

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return self._stream.value or 0

    def put(self, name: str, array: Array) -> None:
        """Start copying the C-contiguous `array` to the device; keep it until `wait`."""
        target, source = ctypes.c_uint64(self.pointers[name]), ctypes.c_void_p(array.ctypes.data)
        call("cuMemcpyHtoDAsync_v2", target, source, ctypes.c_size_t(array.nbytes), self._stream)

    def get(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Start copying the buffer into a new array; it is filled after `wait`."""
        array = np.empty(shape, dtype)
        target, source = ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(self.pointers[name])
        call("cuMemcpyDtoHAsync_v2", target, source, ctypes.c_size_t(array.nbytes), self._stream)
        return array

    def wait(self) -> None:
        """Return when everything on the stream is done."""
        call("cuStreamSynchronize", self._stream)

    def free(self) -> None:
        """Give the memory, the stream and the hold on the context back."""
        for pointer in self.pointers.values():
            call("cuMemFree_v2", ctypes.c_uint64(pointer))
        self.pointers = {}
        call("cuStreamDestroy_v2", self._stream)
        call("cuDevicePrimaryCtxRelease_v2", 0)
