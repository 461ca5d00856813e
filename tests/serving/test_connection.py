"""How bodies arrive: in pieces, one after the other, too late, after their refusal, longer than is received whole."""

import contextlib
import http.client
import json
import socket
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", exc_type=ImportError)
from mscsa_deploy.serving.protocol import whole_bytes
from mscsa_deploy.serving.settings import Limits

SECONDS = 30


def request(image, *, model="colors", close=False):
    """A whole inference request, and the length of its head."""
    item = {"name": "pixels", "datatype": "UINT8", "shape": list(image.shape)}
    item["parameters"] = {"binary_data_size": image.nbytes}
    output = {"name": "class_map", "parameters": {"binary_data": True}}
    message = json.dumps({"inputs": [item], "outputs": [output]}).encode()
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "host: x", f"inference-header-content-length: {len(message)}"]
    lines += ["connection: close"] * close + [f"content-length: {len(message) + image.nbytes}", "", ""]
    head = "\r\n".join(lines).encode()
    return head + message + image.tobytes(), len(head)


@pytest.fixture
def connection(client):
    host, port = client.place.split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


def read(connection):
    """Status and body of the next answer."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def class_map(body, image):
    return np.frombuffer(body[-image.shape[0] * image.shape[1] :], np.uint8).reshape(image.shape[:2])


@pytest.mark.parametrize("cuts", [(), (0,), (1,), (-1,), (0, 1, 40_000, 40_001), (30_000,)], ids=str)
def test_body_in_pieces_is_the_body_at_once(connection, tiny, cuts):
    # red left, green right: a piece at the wrong place would show in the class map
    image = tiny.scene(120, 160)
    data, head = request(image)
    ends = [len(data) - 1 if cut == -1 else head + cut for cut in cuts]
    for begin, end in zip([0, *ends], [*ends, len(data)], strict=True):
        connection.sendall(data[begin:end])
        time.sleep(0.02)
    status, body = read(connection)
    assert status == 200
    connection.sendall(data)
    assert read(connection) == (200, body)
    assert len(np.unique(class_map(body, image))) > 1


def test_requests_sent_at_once_are_answered_in_turn(connection, tiny):
    images = [tiny.scene(64, 96), tiny.scene(64, 96)[:, ::-1], tiny.scene(32, 48)]
    connection.sendall(b"".join(request(np.ascontiguousarray(image))[0] for image in images))
    answers = []
    for _ in images:
        answer = http.client.HTTPResponse(connection)
        # one reader per answer would take bytes of the next with it: read exactly
        answer.fp = Exactly(connection)
        answer.begin()
        answers.append((answer.status, answer.read()))
    assert [status for status, _ in answers] == [200] * 3
    first, second = (class_map(body, image) for (_, body), image in zip(answers, images[:2], strict=False))
    assert (first == second[:, ::-1]).mean() > 0.9
    assert not np.array_equal(first, second)


def test_connection_is_of_use_after_a_body_that_was_refused(connection, tiny):
    data, head = request(tiny.scene(120, 160), model="unknown")
    connection.sendall(data[:head])
    status, body = read(connection)
    assert status == 404
    assert "unknown" in json.loads(body)["error"]
    connection.sendall(data[head:])
    connection.sendall(request(tiny.scene())[0])
    assert read(connection)[0] == 200


def test_body_longer_than_is_received_whole(connection, tiny):
    side = 800
    image = np.zeros((side, side, 3), np.uint8)
    image[:, : side // 2, 0] = image[:, side // 2 :, 1] = 255
    data, _ = request(image, close=True)
    assert len(data) > whole_bytes(Limits())
    connection.sendall(data)
    status, body = read(connection)
    assert status == 200
    assert len(np.unique(class_map(body, image))) > 1
    assert connection.recv(1) == b""


def with_upgrade(data):
    """The request as clients send it that would rather go on in HTTP/2."""
    return data.replace(
        b"\r\nhost: x\r\n", b"\r\nhost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n", 1
    )


@pytest.mark.parametrize("side", [120, 800], ids=["whole", "in pieces"])
@pytest.mark.parametrize("apart", [False, True])
def test_offer_of_another_protocol_is_passed_over(connection, side, apart):
    image = np.zeros((side, side, 3), np.uint8)
    image[:, : side // 2, 0] = image[:, side // 2 :, 1] = 255
    data, _ = request(image)
    connection.sendall(data)
    expected = read(connection)
    offered = with_upgrade(data)
    head = offered.index(b"\r\n\r\n") + 4
    for piece in (offered[:head], offered[head:]) if apart else (offered,):
        connection.sendall(piece)
        time.sleep(0.02)
    assert expected[0] == 200
    assert read(connection) == expected


def test_offer_of_another_protocol_in_a_head_that_comes_in_pieces_is_refused(connection, tiny):
    # What the parser leaves of such a request has no body: the last one's must not stand in for it.
    data, _ = request(tiny.scene())
    connection.sendall(data)
    assert read(connection)[0] == 200
    offered = with_upgrade(data)
    connection.sendall(offered[:30])
    time.sleep(0.02)
    connection.sendall(offered[30 : offered.index(b"\r\n\r\n") + 4])
    status, body = read(connection)
    assert status == 400
    assert "Upgrade" in json.loads(body)["error"]
    assert connection.recv(1) == b""


def test_client_that_has_sent_all_it_will_gets_its_answer(connection, tiny):
    connection.sendall(request(tiny.scene())[0])
    connection.shutdown(socket.SHUT_WR)
    assert read(connection)[0] == 200
    assert connection.recv(1) == b""


def test_client_that_ends_inside_a_body_is_let_go(connection, tiny):
    connection.sendall(request(tiny.scene())[0][:-1])
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("POST /v2/models/unknown/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        ("POST /v2/models/unknown/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\n\r\n", b"a"),
        ("POST /v2/models/unknown/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n", b"a"),
        ("GET /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=["chunked", "long", "short", "GET"],
)
def test_rest_of_an_answered_request_holds_no_connection_open(bundles, serve, head, piece):
    with serve(bundles["seg"], limits=Limits(header_seconds=1)) as client:
        host, port = client.place.split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(head.encode())
            assert read(connection)[0] in (200, 404)
            end = time.monotonic() + SECONDS
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < end:
                    connection.sendall(piece)
                    time.sleep(0.1)
            assert time.monotonic() < end


def test_next_request_may_come_with_the_rest_of_one_that_is_answered(bundles, serve, tiny):
    rest = b"a" * 100_000
    limits = Limits(header_seconds=1, in_flight_bytes=50_000_000, connections=1000)
    with serve(bundles["seg"], limits=limits) as client:
        host, port = client.place.split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            head = f"POST /v2/models/unknown/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(rest)}\r\n\r\n"
            connection.sendall(head.encode() + rest[:-10])
            assert read(connection)[0] == 404
            data, end = request(tiny.scene())
            connection.sendall(rest[-10:] + data[:end])
            # Longer than an answered connection stays open.
            time.sleep(1.5)
            connection.sendall(data[end:])
            assert read(connection)[0] == 200


def test_nothing_behind_a_refused_head_is_computed(connection, client):
    def models_asked():
        lines = client.get("/metrics").body.decode().splitlines()
        return [line for line in lines if line.startswith("mscsa_deploy_requests_total") and 'model="colors"' in line]

    before = models_asked()
    connection.sendall(b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\nGET /v2/models/colors HTTP/1.1\r\nhost: x\r\n\r\n")
    assert read(connection)[0] == 400
    time.sleep(0.1)
    assert models_asked() == before


class Exactly:
    """A reader of a socket that takes no byte too many."""

    def __init__(self, connection):
        self.connection = connection

    def readline(self, limit=-1):  # noqa: ARG002 - as the standard library calls it
        line = b""
        while not line.endswith(b"\n"):
            line += self.connection.recv(1)
        return line

    def read(self, size):
        data = b""
        while len(data) < size:
            data += self.connection.recv(size - len(data))
        return data

    def close(self):
        pass

    def flush(self):
        pass
