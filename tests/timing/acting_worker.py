"""The real worker with runtimes that act a part: the artefact, a .fake JSON file, says which.

Keys: `ms`, a list of latencies that calls take in turn; `drift_calls` and `drift_ms`, what the first calls take on
top; `fail`, one of `crash`, `hang`, `memory`, `unsupported`, `print`, `raise`; `after`, the number of good calls
before that; `log`, a file that every call is appended to. With the argument ``virtual`` time only passes inside
calls, so that latencies come back to the nanosecond on a machine however busy.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from mscsa_deploy.core.registry import Registry
from mscsa_deploy.core.tensors import TensorSpec
from mscsa_deploy.errors import StageError, UnsupportedError
from mscsa_deploy.runtimes.protocol import Capabilities, OpProfile, OpRow, SessionSettings
from mscsa_deploy.timing import patterns, worker


class ActingSession:
    inputs = (TensorSpec("x", "float32", (1, 2)),)
    outputs = inputs
    threads = 1
    executed_precision = "int8+fp32"

    def __init__(self, part: dict) -> None:
        self.part = part
        self.calls = 0

    def run(self, feed):
        self.calls += 1
        fail = self.part.get("fail")
        if self.part.get("log"):
            with Path(self.part["log"]).open("a") as stream:
                stream.write(f"{self.part['name']} {feed['x'][0, 0]:.0f} {time.time()}\n")
        if fail and self.calls > self.part.get("after", 0):
            self._misbehave(fail)
        ms = self.part["ms"][self.calls % len(self.part["ms"])]
        if self.calls < self.part.get("drift_calls", 0):
            ms += self.part["drift_ms"]
        _wait(ms)
        return {"y": feed["x"]}

    def _misbehave(self, fail: str) -> None:
        if fail == "crash":
            ctypes.string_at(0)
        if fail == "hang":
            while True:
                time.sleep(60)
        if fail == "memory":
            hoard = [np.empty(1 << 30, np.uint8) for _ in range(64)]
            raise AssertionError(len(hoard))
        if fail == "print":
            os.write(1, b"native libraries talk on standard output\n")
        if fail == "raise":
            raise StageError("inference", "the model", "it did not feel like it")

    def close(self) -> None:
        pass


class VirtualTime:
    """Stands in for the module `time`: nothing takes time but what says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += max(round(seconds * 1e9), 1)


VIRTUAL = VirtualTime() if "virtual" in sys.argv else None


def _wait(ms: float) -> None:
    """Sleep most of it and spin the rest: the latency is known to some microseconds."""
    if VIRTUAL is not None:
        VIRTUAL.sleep(ms / 1e3)
        return
    end = time.perf_counter_ns() + int(ms * 1e6)
    if ms > 0.5:
        time.sleep((ms - 0.4) / 1e3)
    while time.perf_counter_ns() < end:
        pass


class Acting:
    name = "acting"
    accepts = ("fake",)

    def probe(self) -> Capabilities:
        return Capabilities(True, "", "", "1.2.3", ("cpu",), ("fp32", "int8"))

    def load(self, path: Path, _settings: SessionSettings) -> ActingSession:
        part = json.loads(path.read_text())
        if part.get("fail") == "unsupported":
            raise UnsupportedError("no such accelerator", hint="buy one")
        return ActingSession(part)

    def profile(self, *_given, runs: int = 20) -> OpProfile:
        rows = (OpRow("conv1", "Conv", "int8", "k", "", 1.0, 1), OpRow("q", "QuantizeLinear", "int8", "k", "", 1.0, 1))
        return OpProfile("acting", "1.2.3", "int8+fp32", runs, rows)


class Missing(Acting):
    def probe(self) -> Capabilities:
        return Capabilities(False, "it is not installed", "pip install acting", "", (), ())


if __name__ == "__main__":
    worker.RUNTIMES = Registry("runtime", {"acting": "__main__:Acting", "missing": "__main__:Missing"})
    if VIRTUAL is not None:
        worker.time = patterns.time = VIRTUAL
    worker.main()
