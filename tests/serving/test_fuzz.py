"""Mutated requests: whatever comes, the server answers with the protocol's error and lives on."""

from __future__ import annotations

import http.client
import json
import random
import struct

import pytest

COUNT = 10_000
STATUSES = {200, 400, 413, 415, 504}
"""504 is right where the mutation asks for an answer within microseconds."""
NUMBERS = [0, 1, -1, 2**31 - 1, 2**32, 2**63 - 1, 2**63, 1e308, "NaN", None, True, [], {}, "x", "\0", "é" * 50]


def seeds(tiny):
    """Right requests: (JSON part, binary part)."""
    image = tiny.scene(24, 24)
    png, jpeg = tiny.picture(image), tiny.picture(image, "JPEG")
    tensor = struct.pack("<12288f", *([0.25] * 12288))
    outputs = [{"name": "class_map", "parameters": {"binary_data": True}}, {"name": "logits"}]

    def message(name, datatype, shape, data):
        size = {"binary_data_size": len(data)}
        item = {"name": name, "datatype": datatype, "shape": shape, "parameters": size}
        return {"id": "x", "inputs": [item], "outputs": outputs, "parameters": {"timeout": 0}}, data

    elements = [struct.pack("<I", len(data)) + data for data in (png, jpeg)]
    plain = {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [2, 2, 3], "data": list(range(12))}]}
    return [
        message("image", "FP32", [1, 3, 64, 64], tensor),
        message("pixels", "UINT8", [24, 24, 3], image.tobytes()),
        *(message("picture", "BYTES", [1], element) for element in elements),
        (plain, b""),
    ]


def places(value, path=()):
    """Paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutated_json(message, chance):
    """The message with one of its values replaced, removed or doubled."""
    whole = json.loads(json.dumps(message))
    path = chance.choice(list(places(whole)))
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    kind = chance.randrange(4)
    if kind == 0:
        del holder[path[-1]]
    elif kind == 1 and isinstance(holder, list):
        holder.append(holder[path[-1]])
    elif kind == 2 and isinstance(holder, dict):
        holder[str(path[-1]) + chance.choice(["", "s", "\0", "é"])] = holder.pop(path[-1])
    else:
        holder[path[-1]] = chance.choice(NUMBERS)
    return json.dumps(whole).encode()


def mutated_bytes(data, chance):
    """Bytes with some changed, cut, doubled or filled with extremes."""
    if not data:
        return chance.randbytes(chance.randrange(20))
    changed = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.randrange(1, 20)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    elif kind == 1:
        del changed[chance.randrange(len(changed)) :]
    elif kind == 2:
        changed += chance.randbytes(chance.randrange(1, 100))
    elif kind == 3:
        start = chance.randrange(len(changed))
        changed[start : start + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\x7f\xff\xff", b"\x80\0\0\0"])
    else:
        start = chance.randrange(len(changed))
        changed[start : start + 50] = changed[: chance.randrange(100)]
    return bytes(changed)


def mutated(message, tail, chance):
    """(body, headers) of a request that is wrong in one to three ways."""
    head = mutated_json(message, chance) if chance.random() < 0.5 else json.dumps(message).encode()
    if chance.random() < 0.5:
        tail = mutated_bytes(tail, chance)
    if chance.random() < 0.15:
        head = mutated_bytes(head, chance)
    length = len(head)
    if chance.random() < 0.1:
        length = chance.choice([0, 1, length - 1, length + 1, len(head) + len(tail) + 1, 2**40, -1])
    headers = {"Inference-Header-Content-Length": str(length)} if tail or chance.random() < 0.1 else {}
    return head + tail, headers


def bombard(client, tiny, count, seed):
    """Statuses of `count` mutated requests, over one connection as long as it lasts."""
    chance = random.Random(seed)
    requests = seeds(tiny)
    connection = http.client.HTTPConnection(client.place, timeout=20)
    statuses: dict[int, int] = {}
    for number in range(count):
        body, headers = mutated(*chance.choice(requests), chance)
        connection.request("POST", "/v2/models/colors/infer", body, headers)
        response = connection.getresponse()
        answer = response.read()
        assert response.status in STATUSES, (seed, number, response.status, answer[:500], body[:500])
        if response.status != 200:
            assert json.loads(answer)["error"]
        statuses[response.status] = statuses.get(response.status, 0) + 1
    connection.close()
    return statuses


@pytest.mark.filterwarnings("ignore")  # Pillow remarks on damaged pictures
def test_ten_thousand_mutated_bodies_never_crash_the_server(client, tiny):
    statuses = bombard(client, tiny, COUNT, seed=20261122)
    # the mutations are near misses: some requests stay right, most become wrong
    assert statuses[200] > COUNT // 20
    assert statuses[400] > COUNT // 3
    assert client.picture(tiny.picture(tiny.scene())).status == 200


@pytest.mark.parametrize(
    "text",
    [
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"POST /v2/models/colors/infer HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v2/models/colors/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"POST /v2/models/colors/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2/models/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_broken_http_never_crashes_the_server(client, text):
    import socket

    host, port = client.place.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        received = connection.recv(65536)
    assert b" 500 " not in received
    assert client.get("/v2/health/live").status == 200
