"""The three ways to load a call: back to back, at a fixed rate, and in parallel streams.

A call is any callable that takes the running number of the input, blocks, and returns the nanoseconds of its
parts (empty when it has none). Nothing but the call lies between the two clock readings.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Call = Callable[[int], "Mapping[str, int]"]

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """When a block may end: after `runs` and `seconds` both, or at `cap_seconds`."""

    runs: int
    seconds: float
    cap_seconds: float

    def over(self, runs: int, elapsed_ns: int) -> bool:
        """Whether a block of so many runs and nanoseconds is done."""
        if elapsed_ns >= self.cap_seconds * SECOND_NS:
            return True
        return runs >= self.runs and elapsed_ns >= self.seconds * SECOND_NS


@dataclass(slots=True)
class Taken:
    """Samples of one block; see `messages.Block` for the fields."""

    samples_ns: list[int] = field(default_factory=list)
    parts_ns: dict[str, list[int]] = field(default_factory=dict)
    response_ns: list[int] = field(default_factory=list)
    wall_ns: int = 0
    arrivals: int = 0
    missed: int = 0

    def add(self, nanoseconds: int, parts: Mapping[str, int]) -> None:
        """Append one call."""
        self.samples_ns.append(nanoseconds)
        for name, value in parts.items():
            self.parts_ns.setdefault(name, []).append(value)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect garbage now and not inside the block, as `timeit` does."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def back_to_back(call: Call, span: Span, *, first: int = 0) -> Taken:
    """One call after the other, inputs taking turns from number `first` on."""
    with collector_paused():
        return _stream(call, span, first)


def _stream(call: Call, span: Span, first: int) -> Taken:
    taken, clock, number = Taken(), time.perf_counter_ns, first
    start = clock()
    while True:
        begin = clock()
        parts = call(number)
        end = clock()
        taken.add(end - begin, parts)
        number += 1
        if span.over(number - first, end - start):
            break
    taken.wall_ns = end - start
    return taken


def paced(call: Call, rate: float, span: Span, *, first: int = 0) -> Taken:
    """Frames arrive at `rate` per second; a free runtime takes the newest one, as behind a camera.

    A frame that a newer one replaces before it was taken is missed. The sleep before a frame lets clocks and
    caches cool, which back-to-back runs hide.
    """
    taken, clock = Taken(), time.perf_counter_ns
    gap_ns = SECOND_NS / rate
    latest = -1
    with collector_paused():
        start = clock()
        while True:
            newest = int((clock() - start) // gap_ns)
            if newest <= latest:
                time.sleep(max(((latest + 1) * gap_ns - (clock() - start)) / SECOND_NS, 0))
                continue
            taken.missed += newest - latest - 1
            latest = newest
            begin = clock()
            parts = call(first + newest)
            end = clock()
            taken.add(end - begin, parts)
            taken.response_ns.append(end - start - int(newest * gap_ns))
            if span.over(len(taken.samples_ns), end - start):
                break
    taken.arrivals = latest + 1
    taken.wall_ns = end - start
    return taken


def throughput(calls: Sequence[Call], span: Span, *, first: int = 0) -> Taken:
    """Every call in a thread of its own, each back to back; the runs of `span` count all streams together."""
    share = Span(-(-span.runs // len(calls)), span.seconds, span.cap_seconds)
    gate = threading.Barrier(len(calls) + 1)
    results: list[Taken | BaseException] = []

    def stream(call: Call, number: int) -> None:
        gate.wait()
        try:
            results.append(_stream(call, share, number))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            results.append(error)

    threads = [threading.Thread(target=stream, args=(call, first + i)) for i, call in enumerate(calls)]
    # The collector belongs to the process: were it each stream's, the first to end would wake it for the others.
    with collector_paused():
        for thread in threads:
            thread.start()
        gate.wait()
        start = time.perf_counter_ns()
        for thread in threads:
            thread.join()
        whole = Taken(wall_ns=time.perf_counter_ns() - start)
    for result in results:
        if isinstance(result, BaseException):
            raise result
        whole.samples_ns += result.samples_ns
        for name, values in result.parts_ns.items():
            whole.parts_ns.setdefault(name, []).extend(values)
    return whole
