"""The process that measures one row: ``python -m mscsa_deploy.timing.worker``.

Commands come in on standard input and replies go out on what was standard output, one JSON document per line
(`messages`). A library that prints to standard output reaches standard error instead. When standard input
ends, or on Linux when the parent dies, the process ends at once, whatever it is doing.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.core.environment import read_clocks
from mscsa_deploy.errors import DeployError, UnsupportedError
from mscsa_deploy.runtimes import RUNTIMES
from mscsa_deploy.timing import messages, patterns
from mscsa_deploy.timing.calls import prepare
from mscsa_deploy.timing.executed import executed_apart

if TYPE_CHECKING:
    from mscsa_deploy.runtimes.protocol import Runtime, Session
    from mscsa_deploy.timing.plan import RowSpec

PR_SET_PDEATHSIG = 1
# Those that tell only through a second session; an emulated process can start no other.
READ_BACK_APART = frozenset({"onnxruntime"})
OUT_OF_MEMORY = ("bad_alloc", "out of memory", "cannot allocate memory", "failed to allocate memory")


class Bench:
    """What the worker holds between commands: sessions, their calls, and where the rotation stands."""

    def __init__(self) -> None:
        self.spec: RowSpec | None = None
        self.runtime: Runtime | None = None
        self.sessions: tuple[Session, ...] = ()
        self.calls: tuple[patterns.Call, ...] = ()
        self.number = 0

    def obey(self, command: messages.Command) -> messages.Reply:
        """The reply to `command`."""
        if isinstance(command, messages.Load):
            return self._load(command.spec)
        if isinstance(command, messages.Warm):
            return self._warm(command)
        if isinstance(command, messages.Measure):
            return self._measure(command)
        return self._profile(command)

    def _load(self, spec: RowSpec) -> messages.Loaded:
        limit_process(spec)
        begin = time.perf_counter_ns()
        self.runtime = RUNTIMES.load(spec.runtime)()
        can = self.runtime.probe()
        if not can.available:
            raise UnsupportedError(f"{spec.runtime} cannot run here: {can.reason}", hint=can.how_to_install)
        imported = time.perf_counter_ns()
        settings = spec.settings()
        first = self.runtime.load(Path(spec.path), settings)
        loaded = time.perf_counter_ns()
        others = tuple(self.runtime.load(Path(spec.path), settings) for _ in range(spec.streams - 1))
        self.spec, self.sessions = spec, (first, *others)
        self.calls, inputs = prepare(spec, self.sessions)
        called = time.perf_counter_ns()
        self.calls[0](0)
        answered = time.perf_counter_ns()
        apart = spec.runtime in READ_BACK_APART and not emulator()
        executed = executed_apart(spec) if apart else first.executed_precision
        # What is loaded stays; the collector need not walk it before every block, which would cool the caches.
        gc.collect()
        gc.freeze()
        return messages.Loaded(
            load_ms=(loaded - imported) / 1e6,
            first_ms=(answered - called) / 1e6,
            import_ms=(imported - begin) / 1e6,
            executed_precision=executed,
            runtime_version=can.version,
            threads=first.threads,
            affinity=_affinity(),
            inputs=inputs,
            emulator=emulator(),
        )

    def _warm(self, command: messages.Warm) -> messages.Warmed:
        begin, runs = time.perf_counter_ns(), 0
        span = patterns.Span(command.runs, command.seconds, command.cap_seconds)
        while not span.over(runs, time.perf_counter_ns() - begin):
            for call in self.calls:
                call(self.number)
            self.number += 1
            runs += 1
        return messages.Warmed(runs=runs)

    def _measure(self, command: messages.Measure) -> messages.Block:
        assert self.spec is not None
        span = patterns.Span(command.runs, command.seconds, command.cap_seconds)
        before = read_clocks().current_mhz
        self._warm(messages.Warm(runs=command.rewarm_runs, seconds=0, cap_seconds=command.cap_seconds))
        if self.spec.mode == "paced":
            taken = patterns.paced(self.calls[0], self.spec.rate, span, first=self.number)
        elif self.spec.mode == "throughput":
            taken = patterns.throughput(self.calls, span, first=self.number)
        else:
            taken = patterns.back_to_back(self.calls[0], span, first=self.number)
        self.number += len(taken.samples_ns)
        return messages.Block(
            samples_ns=taken.samples_ns,
            wall_ns=taken.wall_ns,
            parts_ns=taken.parts_ns,
            response_ns=taken.response_ns,
            arrivals=taken.arrivals,
            missed=taken.missed,
            peak_rss_bytes=peak_rss_bytes(),
            clocks_mhz=(before, read_clocks().current_mhz),
            load_average=os.getloadavg()[0],
        )

    def _profile(self, command: messages.Profile) -> messages.Profiled:
        assert self.spec is not None
        assert self.runtime is not None
        feed = self._one_feed()
        found = self.runtime.profile(Path(self.spec.path), self.spec.settings(), feed, runs=command.runs)
        return messages.Profiled(profile=msgspec.to_builtins(found))

    def _one_feed(self) -> Any:
        from mscsa_deploy.imaging.decode import decode
        from mscsa_deploy.imaging.preprocess import model_input
        from mscsa_deploy.timing.calls import read_feeds

        assert self.spec is not None
        if self.spec.core is not None:
            return read_feeds(self.spec.core)[0]
        assert self.spec.encoded is not None
        image = decode(Path(self.spec.encoded.files[0]))
        declared = self.sessions[0].inputs[0]
        return {declared.name: model_input(image, self.spec.encoded.preprocess, declared.dtype)}


def limit_process(spec: RowSpec) -> None:
    """Pin the process to the row's cores and cap its address space, before any library sees either."""
    if spec.affinity and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.affinity)
    if spec.memory_limit_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (spec.memory_limit_bytes, spec.memory_limit_bytes))


def _affinity() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def emulator() -> str:
    """Name of the program that emulates this processor (QEMU's user mode on Linux); empty on a real one.

    QEMU answers /proc/self/exe itself, but not the same link of the task.
    """
    try:
        name = Path(f"/proc/self/task/{os.getpid()}/exe").readlink().name
    except OSError:
        return ""
    return name if name.startswith("qemu-") else ""


def peak_rss_bytes() -> int:
    """The largest resident size of this process so far.

    On Linux from VmHWM: `getrusage` starts from the size of the parent that forked us.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def failure_of(error: BaseException) -> messages.Failure:
    """The error as a reply; memory running out is told apart from the rest."""
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return messages.Failure(kind="memory", message=f"out of memory: {text}")
    if isinstance(error, DeployError):
        return messages.Failure(kind=error.kind, message=error.message, hint=error.hint)
    return messages.Failure(kind="crash", message=f"{type(error).__name__}: {text}")


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent ends; elsewhere the end of standard input must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _listen(commands: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        commands.put(line)
    # The parent is gone or done with us; a call that hangs in a library must not keep the process alive.
    os._exit(0)


def main() -> None:
    """Obey commands until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _die_with_parent()
    commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    bench = Bench()
    while True:
        line = commands.get()
        try:
            reply = bench.obey(messages.decode_command(line))
        except Exception as error:  # noqa: BLE001 - the edge of the process: the parent makes it a row's reason
            reply = failure_of(error)
        replies.write(messages.encode(reply) + b"\n")


if __name__ == "__main__":
    main()
