"""Small HTTP clients for load: connections kept open, requests made beforehand, times on one clock."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass

LONGEST_ANSWER = 4 << 20
MOST_UNDER_WAY = 12
"""A patient client holds arrivals back beyond this: fewer than a server's queue takes."""


@dataclass(frozen=True)
class Seen:
    """One answer: seconds from its due time (or its sending) to its last byte."""

    status: int
    seconds: float
    parts_ms: dict[str, float]


@dataclass(frozen=True)
class Question:
    """A request as bytes, and where to send it."""

    port: int
    data: bytes

    @classmethod
    def of(cls, port: int, path: str, request: tuple[bytes, dict[str, str]]) -> Question:
        """The request with this body and these headers to `path`."""
        body, headers = request
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return cls(port, "\r\n".join([*lines, "\r\n"]).encode() + body)


def binary_request(name: str, datatype: str, shape: list[int], data: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference request with one binary input, asking for the class map as binary."""
    item = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    output = {"name": "class_map", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [item], "outputs": [output]}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def picture_request(data: bytes) -> tuple[bytes, dict[str, str]]:
    """The same for a picture file, as BYTES."""
    return binary_request("picture", "BYTES", [1], struct.pack("<I", len(data)) + data)


class Connections:
    """A pool of open connections, for many requests under way at once."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.held_back = 0

    async def ask(self, since: float | None = None) -> Seen:
        """Send the request on a free connection and read the whole answer."""
        begin = time.perf_counter() if since is None else since
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()[1].close()
        reused = bool(self._free)
        if reused:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._question.port, limit=1 << 22)
        writer.write(self._question.data)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if not reused or getattr(error, "partial", b""):
                raise
            # The server closed the idle connection as the request was on its way: any client asks again.
            writer.close()
            return await self.ask(begin)
        status, length, parts, keep = read_head(head)
        await reader.readexactly(length)
        seconds = time.perf_counter() - begin
        if keep:
            self._free.append((reader, writer))
        else:
            writer.close()
        return Seen(status, seconds, parts)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._free:
            writer.close()
        self._free.clear()

    async def closed_loop(self, seconds: float, *, at_once: int) -> list[Seen]:
        """As many requests as go through with `at_once` under way."""
        end = time.perf_counter() + seconds
        seen: list[Seen] = []

        async def one() -> None:
            while time.perf_counter() < end:
                seen.append(await self.ask())

        await asyncio.gather(*(one() for _ in range(at_once)))
        return seen

    async def evenly(self, seconds: float, *, rate: float, patient: bool = False) -> list[Seen]:
        """Requests due every ``1 / rate`` seconds; latency counts from the due time.

        They come whatever the answers do; a patient client holds some back while `MOST_UNDER_WAY` are.
        """
        begin = time.perf_counter() + 0.05
        tasks: list[asyncio.Task[Seen]] = []
        for number in range(int(seconds * rate)):
            due = begin + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if patient and sum(not task.done() for task in tasks[-2 * MOST_UNDER_WAY :]) >= MOST_UNDER_WAY:
                self.held_back += 1
                continue
            tasks.append(asyncio.create_task(self.ask(due)))
        return list(await asyncio.gather(*tasks))


class Timed:
    """Requests one by one or evenly spaced, from blocking threads: what the client adds stays below 0.1 ms."""

    THREADS = 4

    def __init__(self, question: Question) -> None:
        self._question = question

    def evenly(self, seconds: float, *, rate: float) -> list[Seen]:
        """Requests due every ``1 / rate`` seconds; latency counts from the due time, or from waking up for it."""
        begin = time.perf_counter() + 0.05
        numbers, seen = itertools.count(), list[Seen]()

        def ask_when_due() -> None:
            buffer = bytearray(LONGEST_ANSWER)
            with self._open() as connection:
                for number in numbers:
                    if number >= seconds * rate:
                        return
                    since = due = begin + number / rate
                    if (wait := due - time.perf_counter()) > 0:
                        time.sleep(wait)
                        since = time.perf_counter()
                    seen.append(self._ask(connection, self._question.data, buffer, since))

        threads = [threading.Thread(target=ask_when_due) for _ in range(self.THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seen

    def one_by_one(self, seconds: float) -> list[Seen]:
        """As many as go through one after another."""
        seen: list[Seen] = []
        end = time.perf_counter() + seconds
        buffer = bytearray(LONGEST_ANSWER)
        with self._open() as connection:
            while (begin := time.perf_counter()) < end:
                seen.append(self._ask(connection, self._question.data, buffer, begin))
        return seen

    def _open(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._question.port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @staticmethod
    def _ask(connection: socket.socket, data: bytes, buffer: bytearray, since: float) -> Seen:
        connection.sendall(data)
        view, filled, whole = memoryview(buffer), 0, None
        while whole is None or filled < whole:
            size = connection.recv_into(view[filled:])
            assert size, "the connection ended inside an answer"
            filled += size
            if whole is None and (end := buffer.find(b"\r\n\r\n", 0, filled)) >= 0:
                status, length, parts, keep = read_head(buffer[:end].decode())
                whole = end + 4 + length
        assert keep, "the server closed the connection"
        return Seen(status, time.perf_counter() - since, parts)


def read_head(head: str) -> tuple[int, int, dict[str, float], bool]:
    """Status, length of the body, the server's own times, and whether the connection stays open."""
    lines = head.lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    parts = [part.split(";dur=") for part in fields.get("server-timing", "").split(", ") if part]
    times = {name: float(spent) for name, spent in parts}
    return int(lines[0].split(" ")[1]), int(fields["content-length"]), times, fields.get("connection") != "close"
