"""The processes that are compared: a server on its core, and the same work in process on the same core."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from client import Question, binary_request, picture_request

SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True)
class Subject:
    """What is measured, and for how long.

    Args:
        bundle: The bundle.
        picture: A picture file; it is sent at the network's size.
        runtime: Only this runtime.
        precision: Only this precision.
        seconds: Of each block.
        rounds: Blocks of each kind.
        realtime: Whether latencies are measured at real-time priority.
    """

    bundle: Path
    picture: Path
    runtime: str | None
    precision: str | None
    seconds: float
    rounds: int
    realtime: bool

    @property
    def artefact(self) -> list[str]:
        """Command line options for the runtime and precision."""
        found = ["--runtime", self.runtime] if self.runtime else []
        return [*found, "--precision", self.precision] if self.precision else found


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    port: int
    path: str
    process: psutil.Process
    ready_seconds: float

    def question(self, request: tuple[bytes, dict[str, str]]) -> Question:
        """`request` for this server."""
        return Question.of(self.port, self.path, request)

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def server(subject: Subject, *more: str) -> Iterator[Server]:
    """A server on its core, until the block ends."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "mscsa_deploy", "serve", str(subject.bundle)]
    command += ["--port", "0", *subject.artefact, *more]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603 - our own command line
    try:
        assert process.stdout is not None
        text = name = ""
        while "serving on" not in text:
            text = process.stdout.readline()
            assert text, "the server ended; start it by hand to see why"
            if " version " in text:
                name = text.split(" ")[0]
        match = re.search(r":(\d+) ", text)
        assert match
        path = f"/v2/models/{name}/infer"
        yield Server(int(match[1]), path, psutil.Process(process.pid), time.perf_counter() - begin)
    finally:
        process.terminate()
        process.wait(60)


def requests(subject: Subject) -> dict[str, tuple[bytes, dict[str, str]]]:
    """The three kinds of input: pixels at the network's size, a JPEG file, and the preprocessed tensor."""
    pixels, picture, tensor = inputs(subject)
    return {
        "uint8": binary_request("pixels", "UINT8", list(pixels.shape), pixels.tobytes()),
        "jpeg": picture_request(picture),
        "fp32": binary_request("image", "FP32", list(tensor.shape), tensor.tobytes()),
    }


def inputs(subject: Subject) -> tuple[Any, bytes, Any]:
    """Pixels and JPEG at the network's size, and the tensor they become."""
    import numpy as np
    from PIL import Image

    from mscsa_deploy.bundle.store import read_bundle
    from mscsa_deploy.imaging.preprocess import preprocess

    spec = read_bundle(subject.bundle).manifest.preprocess
    with Image.open(subject.picture) as opened:
        image = opened.convert("RGB").resize((spec.width, spec.height))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    pixels = np.asarray(image)
    return pixels, stream.getvalue(), preprocess(pixels, spec)


def in_process_worker(subject: Subject, kind: str) -> None:
    """For each line on standard input, work for a block; answers count, wall, CPU and median seconds."""
    from mscsa_deploy.runner import load

    pixels, picture, tensor = inputs(subject)
    # The server's own choice: a picture's class map comes from a file that ends in one, a tensor's does not.
    runner = load(subject.bundle, runtime=subject.runtime, precision=subject.precision, values=kind == "fp32")
    calls: dict[str, Callable[[], Any]] = {
        "uint8": lambda: runner.predict(pixels),
        "jpeg": lambda: runner.predict(picture),
        "fp32": lambda: runner.answer(runner.run(tensor), pixels.shape[:2]),
    }
    call = calls[kind]
    call()
    for _ in sys.stdin:
        begin, cpu, taken = time.perf_counter(), time.process_time(), []
        while time.perf_counter() - begin < subject.seconds:
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        wall = time.perf_counter() - begin
        print(json.dumps([len(taken), wall, time.process_time() - cpu, statistics.median(taken)]), flush=True)


@contextlib.contextmanager
def in_process(subject: Subject, kind: str) -> Iterator[Callable[[], list[float]]]:
    """A callable that runs one block of in-process work on the server's core."""
    script = str(Path(__file__).parent / "run.py")
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, script, str(subject.bundle), str(subject.picture)]
    command += ["--in-process", kind, "--seconds", str(subject.seconds), *subject.artefact]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command line
    assert process.stdin is not None
    assert process.stdout is not None

    def block() -> list[float]:
        process.stdin.write("\n")
        process.stdin.flush()
        numbers: list[float] = json.loads(process.stdout.readline())
        return numbers

    try:
        yield block
    finally:
        process.stdin.close()
        process.wait(60)


@contextlib.contextmanager
def priority(subject: Subject) -> Iterator[None]:
    """Real-time priority for this process and those it starts, where asked for; needs the right to it."""
    if not subject.realtime:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
