"""Memory in large pages, so that the processor finds what the network reads and writes with fewer look-ups.

A session's weights and buffers lie scattered over tens of thousands of pages of 4 KiB, more than the processor
remembers the places of; on a virtual machine each of them is looked up twice. Linux uses pages of 2 MiB only for memory
that asks, and the inference libraries do not ask.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGE = 2 << 20
_MADV_COLLAPSE = 25
"""Since Linux 6.1: move what is there into large pages now; older ones refuse, and everything stays as it is."""
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_large_pages() -> None:
    """Move this process's own memory into large pages, where Linux can and its administrator has not forbidden it."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        if "[never]" in _POLICY.read_text(encoding="ascii"):
            return
        advise = ctypes.CDLL(None).madvise
        for begin, end in list(_own_memory()):
            # A refusal costs nothing but the speed: its pages stay small.
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(_MADV_COLLAPSE))


def _own_memory() -> Iterator[tuple[int, int]]:
    """Begin and end, at whole large pages, of each stretch that is writable and comes from no file."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        place, access, _, _, _, *name = line.split()
        begin, end = (int(each, 16) for each in place.split("-"))
        begin, end = -(-begin // _LARGE) * _LARGE, end // _LARGE * _LARGE
        if access.startswith("rw") and name in ([], ["[heap]"]) and begin < end:
            yield begin, end
