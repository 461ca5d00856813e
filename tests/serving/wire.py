"""Requests and answers byte by byte, for tests of what HTTP clients hide."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time

SECONDS = 30


@contextlib.contextmanager
def connected(client, **options):
    host, port = client.place.split(":")
    with socket.socket() as opened:
        for name, value in options.items():
            opened.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        opened.settimeout(SECONDS)
        opened.connect((host, int(port)))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


def post(body, *headers, path="/v2/models/colors/picture"):
    lines = [f"POST {path} HTTP/1.1", "host: x", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def infer(image, *headers):
    item = {"name": "pixels", "datatype": "UINT8", "shape": list(image.shape)}
    item["parameters"] = {"binary_data_size": image.nbytes}
    output = {"name": "class_map", "parameters": {"binary_data": True}}
    message = json.dumps({"inputs": [item], "outputs": [output]}).encode()
    length = f"inference-header-content-length: {len(message)}"
    return post(message + image.tobytes(), length, *headers, path="/v2/models/colors/infer")


def read(connection):
    """Status, headers and body of the next answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    line, *lines = head.decode().strip().split("\r\n")
    headers = dict(one.lower().split(": ", 1) for one in lines)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(line.split(" ")[1]), headers, body


def ended(connection):
    with contextlib.suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


def figures(client):
    """Requests counted by status, and what is under way beside the question itself."""
    text = client.get("/metrics").body.decode()
    counted = {}
    for route, status, count in re.findall(
        r'mscsa_deploy_requests_total\{.*route="(\w+)",status="(\d+)".*\} (\S+)', text
    ):
        if route in ("infer", "picture"):
            counted[int(status)] = counted.get(int(status), 0) + int(float(count))
    flying = float(re.search(r"mscsa_deploy_in_flight_requests (\d\S*)", text)[1]) - 1
    held = float(re.search(r"mscsa_deploy_in_flight_bytes (\d\S*)", text)[1])
    return counted, flying, held


def settled(client, total):
    """`figures` once `total` requests are counted."""
    end = time.monotonic() + SECONDS
    while sum((found := figures(client))[0].values()) < total and time.monotonic() < end:
        time.sleep(0.05)
    assert found[1:] == (0, 0)
    return found[0]


def passed_by(passed, **expected):
    """Whether the counts are as expected; a worker is counted after its client has the answer."""
    end = time.monotonic() + 5
    while (found := {name: getattr(passed, name) for name in expected}) != expected and time.monotonic() < end:
        time.sleep(0.01)
    return found == expected
