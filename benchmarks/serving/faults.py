"""What goes wrong on purpose: a bundle that is replaced under load, and bodies that are damaged on their way."""

from __future__ import annotations

import http.client
import os
import random
import re
import shutil
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

from client import Connections
from parts import Json, load, target
from processes import Server, Subject, requests, server

BODIES = 500
LOOK_SECONDS = 2.5
"""Longer than the server waits between two looks at its bundles."""


def faults(subject: Subject) -> Json:
    """How often each status came while the bundle was replaced, and for damaged bodies."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / subject.bundle.name
        (shutil.copytree if subject.bundle.is_dir() else shutil.copyfile)(subject.bundle, place)
        subject = replace(subject, bundle=place)
        with server(subject) as running:
            request = requests(subject)["jpeg"]
            changed = _reloaded(subject, running, request)
            damaged = _damaged(running, *request)
    lost = sum(count for status, count in changed["statuses"].items() if status != 200)
    failed = sum(count for status, count in damaged["statuses"].items() if status >= 500)
    return {
        "reload": changed,
        "damaged_bodies": damaged,
        "targets": [
            target("replaced under load: times", changed["reloads"], 1, least=True),
            target("replaced under load: not answered", lost, 0),
            target("damaged bodies: server errors", failed, 0),
        ],
    }


def _reloaded(subject: Subject, running: Server, request: tuple[bytes, dict[str, str]]) -> Json:
    """Answers while the bundle is written anew at each of the server's looks."""
    done = threading.Event()
    file = subject.bundle / "manifest.json" if subject.bundle.is_dir() else subject.bundle

    def change() -> None:
        while not done.wait(LOOK_SECONDS):
            os.utime(file)

    thread = threading.Thread(target=change)
    thread.start()
    seconds = max(subject.seconds, 8 * LOOK_SECONDS)
    seen = load(Connections(running.question(request)), lambda each: each.closed_loop(seconds, at_once=3))
    done.set()
    thread.join()
    return {"reloads": _reloads(running), "statuses": dict(Counter(one.status for one in seen))}


def _reloads(running: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r'mscsa_deploy_reloads_total\{result="ok"\} (\d+)', text)
    return int(found[1]) if found else 0


def _damaged(running: Server, body: bytes, headers: dict[str, str]) -> Json:
    """Answers to bodies with some bytes changed, and some cut as well; the same ones every time."""
    chance = random.Random(0)  # noqa: S311 - no secret
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    for _ in range(BODIES):
        other = bytearray(body)
        for _ in range(chance.choice((1, 8, 64))):
            other[chance.randrange(len(other))] = chance.randrange(256)
        if chance.random() < 0.3:
            del other[chance.randrange(len(other)) :]
        connection.request("POST", running.path, bytes(other), headers)
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
    connection.close()
    return {"bodies": BODIES, "statuses": dict(sorted(statuses.items()))}
