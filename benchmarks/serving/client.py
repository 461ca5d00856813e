"""A small HTTP client for load: connections kept open, requests made beforehand, times on one clock."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """One answer: seconds from its due time (or its sending) to its last byte."""

    status: int
    seconds: float
    parts_ms: dict[str, float]


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
    """A pool of open connections to one path."""

    def __init__(self, port: int, path: str, body: bytes, headers: dict[str, str]) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join([*lines, "\r\n"]).encode() + body
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, since: float | None = None) -> Seen:
        """Send the request on a free connection and read the whole answer."""
        begin = time.perf_counter() if since is None else since
        reused = bool(self._free)
        if reused:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        writer.write(self._request)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        except asyncio.IncompleteReadError as error:
            if not reused or error.partial:
                raise
            # The server closed the idle connection as the request was on its way: any client asks again.
            writer.close()
            return await self.ask(begin)
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(fields["content-length"]))
        seconds = time.perf_counter() - begin
        if fields.get("connection") == "close":
            writer.close()
        else:
            self._free.append((reader, writer))
        parts = [part.split(";dur=") for part in fields.get("server-timing", "").split(", ") if part]
        return Seen(int(head.split(" ")[1]), seconds, {name: float(spent) for name, spent in parts})

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

    async def evenly(self, seconds: float, *, rate: float) -> list[Seen]:
        """Requests due every ``1 / rate`` seconds whatever the answers do; latency counts from the due time."""
        begin = time.perf_counter() + 0.05
        tasks: list[asyncio.Task[Seen]] = []
        for number in range(int(seconds * rate)):
            due = begin + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.ask(due)))
        return list(await asyncio.gather(*tasks))
