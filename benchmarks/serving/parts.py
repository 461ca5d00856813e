"""The parts of the load test; each returns its figures and the targets that it checks."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from client import Connections, Seen, Timed
from processes import Subject, in_process, priority, requests, server

DEADLINE_MS = 500
QUICK_MS = 50
Json = dict[str, Any]
KINDS_WITH_TARGETS = ("uint8", "jpeg")
"""For FP32 tensors there are figures but no targets: copying them dominates."""


def target(what: str, value: float, limit: float, *, least: bool = False) -> Json:
    """One line of the table: `value` is to be at most `limit`, or at least."""
    kept = value >= limit if least else value <= limit
    return {"what": what, "value": round(value, 3), "limit": limit, "least": least, "kept": bool(kept)}


def ready(subject: Subject) -> Json:
    """Seconds from the command to a server that answers; compiled models are in the cache."""
    taken = []
    for _ in range(subject.rounds + 1):
        with server(subject) as running:
            taken.append(round(running.ready_seconds, 3))
    return {
        "seconds": taken[1:],
        "targets": [target("ready, s", statistics.median(taken[1:]), 2.0)],
    }


def throughput(subject: Subject) -> Json:
    """Served rate and CPU per request over in-process rate and CPU per call, by kind of input."""
    found: Json = {"targets": []}
    for kind, request in requests(subject).items():
        rows = []
        with server(subject) as running, in_process(subject, kind) as block:
            for _ in range(subject.rounds):
                count, wall, cpu, _ = block()
                before, begin = running.cpu_seconds, time.perf_counter()
                seen = load(Connections(running.question(request)), _saturate(subject))
                spent, used = time.perf_counter() - begin, running.cpu_seconds - before
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
        found[kind] = {
            **{name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]},
            "rate_ratio": round(rate, 4),
            "cpu_ratio": round(cpu_ratio, 4),
            "rounds": rows,
        }
        if kind in KINDS_WITH_TARGETS:
            found["targets"] += [
                target(f"{kind}: throughput, of in process", rate, 0.85, least=True),
                target(f"{kind}: CPU per request, of in process", cpu_ratio, 1.10),
            ]
    return found


def latency(subject: Subject) -> Json:
    """Added latency with evenly spaced arrivals at half load: all but preparing, network and answer."""
    found: Json = {"targets": []}
    for kind, request in requests(subject).items():
        with priority(subject), server(subject) as running:
            client = Timed(running.question(request))
            rate = 0.5 / statistics.median(one.seconds for one in client.one_by_one(2.0))
            seen = client.evenly(subject.seconds * subject.rounds, rate=rate)
        assert all(one.status == 200 for one in seen), {one.status for one in seen}
        added = sorted(1e3 * one.seconds - sum(own(one)) for one in seen)
        found[kind] = {
            "rate_per_s": rate,
            "requests": len(seen),
            "added_ms": {"p50": quantile(added, 0.5), "p90": quantile(added, 0.9), "p99": quantile(added, 0.99)},
            "added_ms_max": added[-1],
            "queue_ms_p50": statistics.median(one.parts_ms["queue"] for one in seen),
            "total_ms_p50": 1e3 * statistics.median(one.seconds for one in seen),
        }
        if kind in KINDS_WITH_TARGETS:
            found["targets"] += [
                target(f"{kind}: added latency p50, ms", quantile(added, 0.5), 1.0),
                target(f"{kind}: added latency p99, ms", quantile(added, 0.99), 3.0),
            ]
    return found


def own(seen: Seen) -> list[float]:
    """Milliseconds that the same work takes in process too."""
    return [seen.parts_ms[name] for name in ("prepare", "network", "answer")]


def picture(subject: Subject) -> Json:
    """Picture bytes in, class map out, one after another: served over in-process latency."""
    rows = []
    with priority(subject), server(subject) as running, in_process(subject, "jpeg") as block:
        client = Timed(running.question(requests(subject)["jpeg"]))
        for _ in range(subject.rounds):
            inside = 1e3 * block()[3]
            seen = client.one_by_one(subject.seconds)
            rows.append({"in_process_ms": inside, "served_ms": 1e3 * statistics.median(one.seconds for one in seen)})
    ratio = statistics.median(row["served_ms"] / row["in_process_ms"] for row in rows)
    return {"rounds": rows, "targets": [target("jpeg to class map, time of in process", ratio, 1.10)]}


def overload(subject: Subject) -> Json:
    """Arrivals at four times the capacity: the accepted keep the deadline, the rest are told soon."""
    with server(subject, "--deadline", str(DEADLINE_MS)) as running:
        connections = Connections(running.question(requests(subject)["jpeg"]))
        capacity = len(load(connections, _saturate(subject))) / subject.seconds
        seconds = 2 * subject.seconds
        seen = load(connections, lambda to: to.evenly(seconds, rate=4 * capacity))
    accepted = sorted(1e3 * one.seconds for one in seen if one.status == 200)
    refused = sorted(1e3 * one.seconds for one in seen if one.status == 503)
    other = sorted({one.status for one in seen} - {200, 503})
    return {
        "capacity_per_s": capacity,
        "offered_per_s": 4 * capacity,
        "accepted": len(accepted),
        "refused": len(refused),
        "accepted_per_s": len(accepted) / seconds,
        "accepted_ms": {"p50": quantile(accepted, 0.5), "p99": quantile(accepted, 0.99)},
        "refused_ms": {"p50": quantile(refused, 0.5), "p99": quantile(refused, 0.99)},
        "deadline_ms": DEADLINE_MS,
        "other_statuses": other,
        "targets": [
            target("overload: accepted p99, ms (the deadline)", quantile(accepted, 0.99), DEADLINE_MS),
            target("overload: refused p99, ms", quantile(refused, 0.99), QUICK_MS),
            target("overload: accepted, of capacity", len(accepted) / seconds / capacity, 0.7, least=True),
            target("overload: statuses beside 200 and 503", len(other), 0),
        ],
    }


def soak(subject: Subject, minutes: float) -> Json:
    """A long time at 80 % of the capacity, which is measured anew every half minute: no error, no growth.

    Arrivals are held back while too many wait, so that what slows the whole machine is not taken for an error.
    """
    memory: list[int] = []
    rates: list[float] = []
    loads: list[float] = []
    statuses: Counter[int] = Counter()
    begin = time.monotonic()
    with server(subject) as running:
        connections = Connections(running.question(requests(subject)["jpeg"]))
        while (now := time.monotonic()) < begin + 60 * minutes:
            end = now + min(30.0, 15 * minutes)
            capacity = load(connections, _saturate(subject))
            rates.append(0.8 * len(capacity) / subject.seconds)
            loads.append(os.getloadavg()[0])
            seconds = max(0.0, end - time.monotonic())
            seen = load(connections, lambda to, seconds=seconds: to.evenly(seconds, rate=rates[-1], patient=True))
            statuses.update(one.status for one in [*capacity, *seen])
            memory.append(running.process.memory_info().rss)
    few = max(1, len(memory) // 10)
    # The first slices fill caches and pools of the libraries.
    settled = memory[few:]
    growth = 100 * (statistics.mean(settled[-few:]) / statistics.mean(settled[:few]) - 1)
    return {
        "minutes": minutes,
        "rate_per_s": [round(rate, 2) for rate in rates],
        "load_average": [round(number, 1) for number in loads],
        "statuses": dict(statuses),
        "held_back": connections.held_back,
        "rss_bytes": memory,
        "targets": [
            target("soak: answers other than 200", sum(statuses.values()) - statuses[200], 0),
            target("soak: growth of memory, %", growth, 2.0),
        ],
    }


def load(connections: Connections, work: Callable[[Connections], Awaitable[list[Seen]]]) -> list[Seen]:
    """Do `work` and close what it opened."""

    async def run() -> list[Seen]:
        try:
            return await work(connections)
        finally:
            connections.close()

    return asyncio.run(run())


def _saturate(subject: Subject) -> Callable[[Connections], Awaitable[list[Seen]]]:
    return lambda connections: connections.closed_loop(subject.seconds, at_once=3)


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted `values` lie (nearest rank)."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 3) if values else float("nan")


PARTS: dict[str, Callable[[Subject], Json]] = {
    "ready": ready,
    "throughput": throughput,
    "latency": latency,
    "picture": picture,
    "overload": overload,
}
