"""Load tests of `mscsa-deploy serve`: the server on one core, the client on another, both on this machine.

    python benchmarks/serving/run.py BUNDLE PICTURE.jpg [-o RESULT.json] [--seconds 5] [--rounds 5]
    python benchmarks/serving/run.py BUNDLE PICTURE.jpg --only soak --soak-minutes 30

In-process work and served work take turns in short blocks, so that both see the same machine; a result is the
median over rounds of the ratio within a round. The limits are those the project aims at; a figure beyond its
limit is printed as such and ends the script with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
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
from pathlib import Path
from typing import Any

import psutil
from client import Connections, Seen, binary_request, picture_request

SERVER_CORE, CLIENT_CORE = 0, 1
DEADLINE_MS = 500
WARM_UP_SECONDS = 1.0
Json = dict[str, Any]


def main() -> int:
    """Run the chosen parts and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak-minutes", type=float, default=30.0)
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--runtime", help="serve with this runtime only")
    parser.add_argument("--precision", help="serve in this precision only")
    parser.add_argument("--in-process", metavar="KIND", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        in_process_worker(options)
        return 0
    os.sched_setaffinity(0, {CLIENT_CORE})
    results: Json = {"environment": environment(options)}
    chosen = options.only or [name for name in PARTS if name != "soak"]
    for name in chosen:
        results[name] = PARTS[name](options)
        print(name, json.dumps(results[name], indent=1), flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    missed = [f"{part}: {text}" for part in chosen for text in results[part].get("missed", [])]
    print("\n".join(["limits missed:", *missed] if missed else ["all limits kept"]))
    return 1 if missed else 0


def environment(options: argparse.Namespace) -> Json:
    """What the figures hold for."""
    from mscsa_deploy.core.config import to_plain
    from mscsa_deploy.core.environment import read_environment

    return {
        "device": to_plain(read_environment()),
        "load_average_before": os.getloadavg(),
        "server_core": SERVER_CORE,
        "client_core": CLIENT_CORE,
        "bundle": options.bundle.name,
        "runtime": options.runtime,
        "precision": options.precision,
        "picture": options.picture.name,
        "seconds": options.seconds,
        "rounds": options.rounds,
    }


@contextlib.contextmanager
def server(options: argparse.Namespace, *more: str) -> Iterator[tuple[int, str, psutil.Process, float]]:
    """Port, inference path, process and seconds to readiness of a server on its core."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "mscsa_deploy", "serve", str(options.bundle)]
    command += ["--port", "0", *chosen_runtime(options), *more]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603 - our own command line
    try:
        assert process.stdout is not None
        text = ""
        while "serving on" not in text:
            text = process.stdout.readline()
            assert text, "the server ended"
            if " version " in text:
                name = text.split(" ")[0]
        match = re.search(r":(\d+) ", text)
        assert match
        yield int(match[1]), f"/v2/models/{name}/infer", psutil.Process(process.pid), time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait(60)


def chosen_runtime(options: argparse.Namespace) -> list[str]:
    """Command line options for the runtime and precision."""
    found = ["--runtime", options.runtime] if options.runtime else []
    return [*found, "--precision", options.precision] if options.precision else found


def requests(options: argparse.Namespace) -> dict[str, tuple[bytes, dict[str, str]]]:
    """The three kinds of input: pixels at the network's size, a JPEG file, and the preprocessed tensor."""
    pixels, picture, tensor = inputs(options)
    return {
        "uint8": binary_request("pixels", "UINT8", list(pixels.shape), pixels.tobytes()),
        "jpeg": picture_request(picture),
        "fp32": binary_request("image", "FP32", list(tensor.shape), tensor.tobytes()),
    }


def inputs(options: argparse.Namespace) -> tuple[Any, bytes, Any]:
    """Pixels and JPEG at the network's size, and the tensor they become."""
    import numpy as np
    from PIL import Image

    from mscsa_deploy.bundle.store import read_bundle
    from mscsa_deploy.imaging.preprocess import preprocess

    spec = read_bundle(options.bundle).manifest.preprocess
    with Image.open(options.picture) as opened:
        image = opened.convert("RGB").resize((spec.width, spec.height))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    pixels = np.asarray(image)
    return pixels, stream.getvalue(), preprocess(pixels, spec)


def in_process_worker(options: argparse.Namespace) -> None:
    """For each line on standard input, work for a block and answer with count, wall and CPU seconds."""
    from mscsa_deploy.runner import load

    pixels, picture, tensor = inputs(options)
    runner = load(options.bundle, runtime=options.runtime, precision=options.precision)
    calls: dict[str, Callable[[], Any]] = {
        "uint8": lambda: runner.predict(pixels),
        "jpeg": lambda: runner.predict(picture),
        "fp32": lambda: runner.answer(runner.run(tensor), pixels.shape[:2]),
    }
    call = calls[options.in_process]
    call()
    for _ in sys.stdin:
        begin, cpu, taken = time.perf_counter(), time.process_time(), []
        while time.perf_counter() - begin < options.seconds:
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        wall = time.perf_counter() - begin
        print(json.dumps([len(taken), wall, time.process_time() - cpu, statistics.median(taken)]), flush=True)


@contextlib.contextmanager
def in_process(options: argparse.Namespace, kind: str) -> Iterator[Callable[[], list[float]]]:
    """A callable that runs one block of in-process work on the server's core."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, __file__, str(options.bundle), str(options.picture)]
    command += ["--in-process", kind, "--seconds", str(options.seconds), *chosen_runtime(options)]
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


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of the server."""
    times = process.cpu_times()
    return float(times.user + times.system)


def ready(options: argparse.Namespace) -> Json:
    """Seconds from the command to the first answer possible."""
    taken = []
    for _ in range(options.rounds):
        with server(options) as (_, _, _, seconds):
            taken.append(round(seconds, 3))
    missed = [] if statistics.median(taken) < 2.0 else ["ready in 2 s"]
    return {"seconds": taken, "median_seconds": statistics.median(taken), "limit_seconds": 2.0, "missed": missed}


def throughput(options: argparse.Namespace) -> Json:
    """Served rate and CPU per request over in-process rate and CPU per call, by kind of input."""
    found: Json = {"missed": []}
    for kind, (body, headers) in requests(options).items():
        rows = []
        with server(options) as (port, path, process, _), in_process(options, kind) as block:
            connections = Connections(port, path, body, headers)
            for _ in range(options.rounds):
                count, wall, cpu, _ = block()
                before, begin = cpu_seconds(process), time.perf_counter()
                seen = asyncio.run(loop(connections.closed_loop(options.seconds, at_once=3), connections))
                spent, used = time.perf_counter() - begin, cpu_seconds(process) - before
                assert all(one.status == 200 for one in seen), {one.status for one in seen}
                rows.append(
                    {
                        "in_process_per_s": count / wall,
                        "served_per_s": len(seen) / spent,
                        "in_process_cpu_ms": 1e3 * cpu / count,
                        "served_cpu_ms": 1e3 * used / len(seen),
                    }
                )
        rate = statistics.median(row["served_per_s"] / row["in_process_per_s"] for row in rows)
        cpu_ratio = statistics.median(row["served_cpu_ms"] / row["in_process_cpu_ms"] for row in rows)
        found[kind] = {"rate_ratio": round(rate, 4), "cpu_ratio": round(cpu_ratio, 4), "rounds": rows}
        if kind != "fp32":
            found["missed"] += [f"{kind}: rate {rate:.3f} of in process, wanted 0.85"] if rate < 0.85 else []
            found["missed"] += [f"{kind}: CPU {cpu_ratio:.3f}x, wanted 1.10x"] if cpu_ratio > 1.10 else []
    return found


async def loop(work: Any, connections: Connections) -> Any:
    """Await `work` and close what it opened."""
    try:
        return await work
    finally:
        connections.close()


def latency(options: argparse.Namespace) -> Json:
    """Added latency with evenly spaced arrivals at half load: all but preparing, network and answer."""
    found: Json = {"missed": []}
    for kind, (body, headers) in requests(options).items():
        with server(options) as (port, path, _, _):
            connections = Connections(port, path, body, headers)
            warm = asyncio.run(loop(connections.closed_loop(2.0, at_once=1), connections))
            rate = 0.5 / statistics.median(one.seconds for one in warm)
            seconds = options.seconds * options.rounds
            seen = asyncio.run(loop(connections.evenly(seconds, rate=rate), connections))
        added = sorted(1e3 * one.seconds - sum(own(one)) for one in seen)
        p50, p99 = quantile(added, 0.5), quantile(added, 0.99)
        found[kind] = {
            "rate_per_s": rate,
            "requests": len(seen),
            "added_ms": {"p50": p50, "p90": quantile(added, 0.9), "p99": p99, "max": added[-1]},
            "total_ms_p50": 1e3 * statistics.median(one.seconds for one in seen),
        }
        if kind != "fp32":
            found["missed"] += [f"{kind}: added p50 {p50:.2f} ms, wanted 1"] if p50 > 1 else []
            found["missed"] += [f"{kind}: added p99 {p99:.2f} ms, wanted 3"] if p99 > 3 else []
    return found


def own(seen: Seen) -> list[float]:
    """Milliseconds that the same work takes in process too."""
    return [seen.parts_ms[name] for name in ("prepare", "network", "answer")]


def picture(options: argparse.Namespace) -> Json:
    """Picture bytes in, class map out, one after another: served over in-process latency."""
    body, headers = requests(options)["jpeg"]
    rows = []
    with server(options) as (port, path, _, _), in_process(options, "jpeg") as block:
        connections = Connections(port, path, body, headers)
        for _ in range(options.rounds):
            inside = 1e3 * block()[3]
            seen = asyncio.run(loop(connections.closed_loop(options.seconds, at_once=1), connections))
            rows.append({"in_process_ms": inside, "served_ms": 1e3 * statistics.median(one.seconds for one in seen)})
    ratio = statistics.median(row["served_ms"] / row["in_process_ms"] for row in rows)
    missed = [f"{ratio:.3f}x the in-process latency, wanted 1.10x"] if ratio > 1.10 else []
    return {"ratio": round(ratio, 4), "rounds": rows, "missed": missed}


def overload(options: argparse.Namespace) -> Json:
    """Arrivals at four times the capacity: the accepted keep the deadline, the rest are told soon."""
    body, headers = requests(options)["jpeg"]
    with server(options, "--deadline", str(DEADLINE_MS)) as (port, path, _, _):
        connections = Connections(port, path, body, headers)
        capacity = len(asyncio.run(loop(connections.closed_loop(options.seconds, at_once=3), connections)))
        rate = 4 * capacity / options.seconds
        seen = asyncio.run(loop(connections.evenly(options.seconds * 2, rate=rate), connections))
    accepted = sorted(1e3 * one.seconds for one in seen if one.status == 200)
    refused = sorted(1e3 * one.seconds for one in seen if one.status == 503)
    other = sorted({one.status for one in seen} - {200, 503})
    p99 = quantile(accepted, 0.99)
    missed = [f"accepted p99 {p99:.0f} ms, wanted {DEADLINE_MS}"] if p99 > DEADLINE_MS else []
    missed += [f"statuses {other}"] if other else []
    return {
        "capacity_per_s": capacity / options.seconds,
        "offered_per_s": rate,
        "accepted": len(accepted),
        "refused": len(refused),
        "accepted_per_s": len(accepted) / (options.seconds * 2),
        "accepted_ms": {"p50": quantile(accepted, 0.5), "p99": p99},
        "refused_ms": {"p50": quantile(refused, 0.5), "p99": quantile(refused, 0.99)},
        "deadline_ms": DEADLINE_MS,
        "other_statuses": other,
        "missed": missed,
    }


def soak(options: argparse.Namespace) -> Json:
    """A long time at 80 % load: no error, no growth."""
    body, headers = requests(options)["jpeg"]
    with server(options) as (port, path, process, _):
        connections = Connections(port, path, body, headers)
        capacity = len(asyncio.run(loop(connections.closed_loop(options.seconds, at_once=3), connections)))
        rate = 0.8 * capacity / options.seconds
        memory, statuses, slices = [], {}, max(2, round(options.soak_minutes * 4))
        for _ in range(slices):
            seen = asyncio.run(loop(connections.evenly(options.soak_minutes * 60 / slices, rate=rate), connections))
            memory.append(process.memory_info().rss)
            for one in seen:
                statuses[one.status] = statuses.get(one.status, 0) + 1
    first = statistics.mean(memory[: max(1, slices // 10)])
    growth = 100 * (statistics.mean(memory[-max(1, slices // 10) :]) / first - 1)
    missed = [f"statuses {statuses}"] if set(statuses) != {200} else []
    missed += [f"RSS grew {growth:.2f} %, wanted 2 %"] if growth >= 2 else []
    return {
        "minutes": options.soak_minutes,
        "rate_per_s": rate,
        "statuses": statuses,
        "rss_bytes": memory,
        "rss_growth_percent": growth,
        "missed": missed,
    }


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted `values` lie (nearest rank)."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 3) if values else float("nan")


PARTS: dict[str, Callable[[argparse.Namespace], Json]] = {
    "ready": ready,
    "throughput": throughput,
    "latency": latency,
    "picture": picture,
    "overload": overload,
    "soak": soak,
}

if __name__ == "__main__":
    sys.exit(main())
