"""Requests without a task: the same answers as with one, once each, whatever happens while they are computed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import http.client
import json
import os
import random
import re
import shutil
import socket
import struct
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("uvicorn", exc_type=ImportError)
from mscsa_deploy.serving.calls import Reply
from mscsa_deploy.serving.direct import Direct, Way
from mscsa_deploy.serving.settings import Limits

SECONDS = 30


@pytest.fixture
def passed(monkeypatch):
    """How many answers workers have sent, how many were refused to them, and how many heads were known."""
    counts = SimpleNamespace(sent=0, left=0, known=0)
    deliver, again = Direct.deliver, Direct.again

    def counted(direct, reply):
        done = deliver(direct, reply)
        counts.sent += done
        counts.left += not done
        return done

    def counted_again(direct, *arguments):
        counts.known += 1
        again(direct, *arguments)

    monkeypatch.setattr(Direct, "deliver", counted)
    monkeypatch.setattr(Direct, "again", counted_again)
    return counts


def passed_by(passed, **expected):
    """Whether the counts are as expected; a worker is counted after its client has the answer."""
    end = time.monotonic() + 5
    while (found := {name: getattr(passed, name) for name in expected}) != expected and time.monotonic() < end:
        time.sleep(0.01)
    return found == expected


@pytest.fixture
def slow(tiny, tmp_path):
    """A bundle whose network takes 300 ms."""
    return tiny.make_bundle(tmp_path / "slow", fake={"latency_ms": 300.0})


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


def test_answer_of_a_worker_is_that_of_a_task(client, tiny, passed):
    data = infer(tiny.scene(120, 160))
    answers = []
    with connected(client) as connection:
        for _ in range(3):
            connection.sendall(data)
            answers.append(read(connection))
    assert passed_by(passed, sent=3, known=2)
    with connected(client) as connection:
        connection.sendall(infer(tiny.scene(120, 160), "connection: close"))
        status, headers, body = read(connection)
        assert ended(connection)
    assert passed_by(passed, sent=3)
    assert headers.pop("connection") == "close"
    for answer in answers:
        assert (answer[0], answer[2]) == (status, body)
        assert list(answer[1]) == list(headers)
        for name in ("content-type", "content-length", "inference-header-content-length"):
            assert answer[1][name] == headers[name]
    assert len({answer[1]["x-request-id"] for answer in answers}) == 3


def test_access_log_and_metrics_are_those_of_a_task(bundles, serve, tiny, passed, caplog):
    data = tiny.picture(tiny.scene())
    with serve(bundles["seg"]) as client, caplog.at_level("INFO", logger="mscsa_deploy.serving.access"):
        for header in ("x-more: 1", "connection: close"):
            with connected(client) as connection:
                connection.sendall(post(data, "x-request-id: mine", header))
                assert read(connection)[1]["x-request-id"] == "mine"
        assert settled(client, 2) == {200: 2}
    assert passed_by(passed, sent=1)
    lines = [json.loads(record.message) for record in caplog.records if '"mine"' in record.message]
    changing = {"time", "ms"} | {f"{part}_ms" for part in ("queue", "prepare", "network", "answer")}
    first, second = ({name: value for name, value in line.items() if name not in changing} for line in lines)
    assert first == second
    assert changing <= set(lines[0])


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("infer", [], b"no JSON", 400),
        ("picture", [], b"no picture", 415),
        ("infer", ["content-type: text/html"], b"x", 415),
        ("picture", ["content-encoding: gzip"], b"x", 415),
        ("infer", ["inference-header-content-length: x"], b"x", 400),
        ("infer", ["inference-header-content-length: 2"], b"x", 400),
        ("picture", ["x-timeout-ms: 0"], b"x", 400),
        ("picture?answer=poem", [], b"x", 400),
        ("versions/2/picture", [], b"x", 404),
    ],
)
def test_refusal_is_that_of_a_task(client, tiny, passed, path, headers, body, status):  # noqa: PLR0917 - fixtures
    with connected(client) as connection:
        answers = []
        for _ in range(2):
            connection.sendall(post(body, *headers, path=f"/v2/models/colors/{path}"))
            answers.append(read(connection))
        # the connection is good for what is right
        connection.sendall(post(tiny.picture(tiny.scene())))
        assert read(connection)[0] == 200
    with connected(client) as connection:
        connection.sendall(post(body, *headers, "connection: close", path=f"/v2/models/colors/{path}"))
        expected = read(connection)
    assert passed_by(passed, sent=1)
    assert expected[1].pop("connection") == "close"
    for answer in answers:
        assert (answer[0], answer[2]) == (status, expected[2])
        assert list(answer[1]) == list(expected[1])


def test_token_is_asked_for_at_every_request(bundles, serve, tiny, passed):
    data = tiny.picture(tiny.scene())
    with serve(bundles["seg"], listening={"token": "s3cret"}) as client, connected(client) as connection:
        for header, status in [("x: 1", 401), ("authorization: Bearer s3cret", 200), ("x: 1", 401)] * 2:
            connection.sendall(post(data, header))
            assert read(connection)[0] == status
    assert passed_by(passed, sent=2)


def test_requests_of_one_connection_may_differ(client, tiny, passed):
    images = [tiny.scene(64, 96), tiny.scene(64, 96)[:, ::-1], tiny.scene(96, 64), tiny.scene(64, 96)]
    alone = []
    for image in images:
        with connected(client) as connection:
            connection.sendall(infer(np.ascontiguousarray(image)))
            alone.append(read(connection)[2])
    with connected(client) as connection:
        for image, expected in zip(images * 3, alone * 3, strict=True):
            connection.sendall(infer(np.ascontiguousarray(image)))
            assert read(connection)[2] == expected
            connection.sendall(b"GET /v2/models/colors HTTP/1.1\r\nhost: x\r\n\r\n" * (len(expected) % 2))
            for _ in range(len(expected) % 2):
                assert b"colors" in read(connection)[2]
    assert passed.known > 0


@pytest.mark.parametrize("cut", ["in the head", "after the head", "in the body"])
def test_known_head_may_come_in_pieces(client, tiny, passed, cut):
    data = infer(tiny.scene())
    head = data.index(b"\r\n\r\n") + 4
    end = {"in the head": head - 10, "after the head": head, "in the body": head + 100}[cut]
    with connected(client) as connection:
        connection.sendall(data)
        expected = read(connection)[2]
        # longer than the rest of a body is waited for without a task
        for pause in (0.01, 0.2):
            connection.sendall(data[:end])
            time.sleep(pause)
            connection.sendall(data[end:])
            assert read(connection)[2] == expected
    assert passed.sent >= 1


def test_body_that_comes_too_slowly_is_told(bundles, serve, tiny):
    data = infer(tiny.scene())
    with serve(bundles["seg"], limits=Limits(body_seconds=0.3)) as client, connected(client) as connection:
        for _ in range(2):
            connection.sendall(data)
            assert read(connection)[0] == 200
            connection.sendall(data[:-5])
            assert read(connection)[0] == 408
            connection.sendall(data[-5:])
        assert settled(client, 4) == {200: 2, 408: 2}


@pytest.mark.parametrize("begin", [0, 30])
@pytest.mark.parametrize("more", [0, 5])
def test_body_that_never_comes_is_told_where_the_head_came_in_pieces(bundles, serve, tiny, begin, more):
    data = b"\r\n\r\n" + infer(tiny.scene())
    end = data.index(b"\r\n\r\n", 4) + 4 + more
    with serve(bundles["seg"], limits=Limits(body_seconds=0.3)) as client, connected(client) as connection:
        connection.sendall(data[:begin])
        time.sleep(0.05)
        connection.sendall(data[begin:end])
        assert read(connection)[0] == 408
        assert settled(client, 1) == {408: 1}


def test_known_head_is_that_of_the_last_request_however_it_came(client, tiny):
    first, second = infer(tiny.scene(64, 96)), infer(tiny.scene(96, 160))
    with connected(client) as connection:
        connection.sendall(first)
        expected = read(connection)[2]
        # in pieces, behind empty lines, and at once with the one before
        for pieces in ([second[:30], second[30:]], [b"\r\n\r\n" + second], [first + second]):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.05)
            others = [read(connection)[2] for _ in range(2 if pieces[0].startswith(first) else 1)]
            assert len(others[-1]) > len(expected)
            connection.sendall(first)
            assert read(connection)[2] == expected


def test_empty_lines_are_no_known_head(client, tiny):
    data = infer(tiny.scene())
    with connected(client) as connection:
        for _ in range(2):
            connection.sendall(data)
            assert read(connection)[0] == 200
            connection.sendall(b"\r\n\r\n" + data)
            assert read(connection)[0] == 200
            # nothing of this is a body
            connection.sendall(b"\r\n\r\nGET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read(connection)[2] == b'{"live":true}'


@pytest.mark.parametrize("count", [2, 5])
def test_requests_sent_at_once_are_answered_in_turn(slow, serve, tiny, passed, count):
    sizes = [(16 + 8 * number, 16) for number in range(count)]
    with serve(slow) as client, connected(client) as connection:
        for _ in range(2):
            connection.sendall(b"".join(infer(tiny.scene(*size)) for size in sizes))
            shapes = [json.loads(read(connection)[2].split(b"}]}")[0] + b"}]}")["outputs"][0]["shape"] for _ in sizes]
            assert shapes == [[1, *size] for size in sizes]
        assert settled(client, 2 * count) == {200: 2 * count}
    # the first had no task until it was seen that others follow
    assert passed_by(passed, sent=0, left=2)


def test_same_request_sent_at_once_twice(slow, serve, tiny, passed):
    data = infer(tiny.scene())
    with serve(slow) as client, connected(client) as connection:
        connection.sendall(data)
        expected = read(connection)[2]
        connection.sendall(data)
        time.sleep(0.1)
        connection.sendall(data + data)
        assert [read(connection)[2] for _ in range(3)] == [expected] * 3
        assert settled(client, 4) == {200: 4}
        # from the moment on that one comes before the answer to another, there are tasks
        assert passed_by(passed, sent=1, left=1)
        connection.sendall(data)
        assert read(connection)[2] == expected
        connection.sendall(data + data)
        assert [read(connection)[2] for _ in range(2)] == [expected] * 2


def test_nonsense_behind_a_request_that_is_computed_ends_the_connection(slow, serve, tiny, passed):
    with serve(slow) as client:
        with connected(client) as connection:
            connection.sendall(infer(tiny.scene()))
            time.sleep(0.1)
            connection.sendall(b"nonsense\r\n\r\n")
            assert read(connection)[0] == 400
            assert ended(connection)
        settled(client, 1)
    assert passed_by(passed, sent=0)


def test_expectation_is_met_before_the_body(client, tiny, passed):
    data = post(tiny.picture(tiny.scene()), "expect: 100-continue")
    head = data.index(b"\r\n\r\n") + 4
    with connected(client) as connection:
        for _ in range(2):
            connection.sendall(data[:head])
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(data[head:])
            assert read(connection)[0] == 200
    assert passed_by(passed, sent=0)


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_other_methods_are_refused_between_requests(client, tiny, method):
    connection = http.client.HTTPConnection(client.place, timeout=SECONDS)
    data = tiny.picture(tiny.scene())
    for asked, status in [("POST", 200), (method, 405), ("POST", 200)]:
        connection.request(asked, "/v2/models/colors/picture", data)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


def test_client_that_has_sent_all_it_will_gets_its_answer(slow, serve, tiny, passed):
    with serve(slow) as client, connected(client) as connection:
        connection.sendall(infer(tiny.scene()))
        time.sleep(0.1)
        connection.shutdown(socket.SHUT_WR)
        assert read(connection)[0] == 200
        assert ended(connection)
    assert passed_by(passed, sent=0, left=1)


def test_client_that_leaves_while_its_answer_is_computed(slow, serve, tiny, passed):
    with serve(slow) as client:
        for left in range(1, 4):
            with connected(client) as connection:
                connection.sendall(infer(tiny.scene()))
                time.sleep(0.1)
            # The next one is likely to get the number of the last one's socket.
            with connected(client) as connection:
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                assert read(connection)[2] == b'{"live":true}'
                end = time.monotonic() + SECONDS
                while passed.left < left and time.monotonic() < end:
                    time.sleep(0.01)
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                assert read(connection)[2] == b'{"live":true}'
        assert settled(client, 3) == {200: 3}
    assert passed_by(passed, sent=0)


@pytest.fixture
def sending(monkeypatch):
    """Workers take half a second to send; an event that is set as the first begins."""
    write, begun = os.writev, threading.Event()

    def slowly(file, buffers):
        begun.set()
        time.sleep(0.5)
        return write(file, buffers)

    monkeypatch.setattr(os, "writev", slowly)
    return begun


def test_socket_is_not_given_to_another_while_a_worker_sends(client, tiny, sending, passed):
    with connected(client) as connection:
        connection.sendall(infer(tiny.scene()))
        assert sending.wait(SECONDS)
        # gone for good, not only half-closed
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.ExitStack() as opened:
        others = [opened.enter_context(connected(client)) for _ in range(10)]
        time.sleep(0.7)
        for other in others:
            other.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read(other)[2] == b'{"live":true}'
    assert passed_by(passed, sent=1)


def test_nothing_comes_between_what_a_worker_sends(client, tiny, sending, passed):
    with connected(client) as connection:
        connection.sendall(infer(tiny.scene()))
        assert sending.wait(SECONDS)
        connection.sendall(b"nonsense\r\n\r\n")
        assert [read(connection)[0] for _ in range(2)] == [200, 400]
        assert ended(connection)
    assert passed_by(passed, sent=1)


def test_request_that_comes_while_a_worker_sends(client, tiny, sending, passed):
    data = infer(tiny.scene())
    with connected(client) as connection:
        connection.sendall(data)
        assert sending.wait(SECONDS)
        connection.sendall(data)
        assert [read(connection)[0] for _ in range(2)] == [200, 200]
    assert passed_by(passed, sent=2, known=1)


def test_deadline_that_passes_while_a_worker_sends_is_no_error(client, tiny, sending, passed, caplog):
    with connected(client) as connection:
        connection.sendall(infer(tiny.scene(), "x-timeout-ms: 300"))
        assert read(connection)[0] == 200
        assert sending.is_set()
        # the deadline has its turn before the next request
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read(connection)[0] == 200
    assert passed_by(passed, sent=1)
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_deadline_and_answer_at_the_same_time_make_one_answer(tiny, tmp_path, serve):
    bundle = tiny.make_bundle(tmp_path / "b", fake={"latency_ms": 20.0})
    chance, total = random.Random(7), 150
    with serve(bundle) as client:

        def ask(_):
            statuses = []
            with connected(client) as connection:
                for _ in range(total // 3):
                    # 20 ms for each of up to three that wait
                    connection.sendall(infer(tiny.scene(16, 16), f"x-timeout-ms: {chance.randrange(20, 70)}"))
                    statuses.append(read(connection)[0])
                    # a second answer would be taken for that of the next request
                    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert read(connection)[2] == b'{"live":true}'
            return statuses

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            statuses = [status for found in pool.map(ask, range(3)) for status in found]
        assert set(statuses) <= {200, 503, 504}
        assert {200, 504} <= set(statuses)
        counted = settled(client, total)
    assert counted == {status: statuses.count(status) for status in set(statuses)}


def large(tiny):
    """A small request with an answer of 6 MB, and that answer's class map."""
    image = tiny.scene(2000, 3000)
    item = {"name": "picture", "datatype": "BYTES", "shape": [1]}
    data = tiny.picture(image)
    element = len(data).to_bytes(4, "little") + data
    item["parameters"] = {"binary_data_size": len(element)}
    output = {"name": "class_map", "parameters": {"binary_data": True}}
    message = json.dumps({"inputs": [item], "outputs": [output]}).encode()
    length = f"inference-header-content-length: {len(message)}"
    return post(message + element, length, path="/v2/models/colors/infer"), image.shape[0] * image.shape[1]


def test_client_that_reads_slowly_gets_the_whole_of_a_large_answer(client, tiny, passed):
    data, size = large(tiny)
    with connected(client) as connection:
        connection.sendall(data)
        expected = read(connection)[2]
    assert len(np.unique(np.frombuffer(expected[-size:], np.uint8))) == 3
    with connected(client, SO_RCVBUF=20_000) as connection:
        for before in (1, 3):
            # it asks again before it has taken its answer
            for count in (1, 2):
                connection.sendall(data)
                end = time.monotonic() + SECONDS
                while passed.sent + passed.left < before + count and time.monotonic() < end:
                    time.sleep(0.01)
            for _ in range(2):
                assert read(connection)[2] == expected
    assert passed_by(passed, sent=3, left=2)


def test_client_that_does_not_take_the_rest_of_its_answer_is_cut_off(bundles, serve, tiny, passed):
    data, size = large(tiny)
    limits = Limits(send_seconds=0.3)
    with serve(bundles["seg"], limits=limits) as client, connected(client, SO_RCVBUF=20_000) as connection:
        connection.sendall(data)
        time.sleep(2.0)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        assert 0 < received < size
        assert settled(client, 1) == {200: 1}
    assert passed_by(passed, sent=1)


def test_stopping_finishes_what_is_computed(slow, serve, tiny, passed):
    with concurrent.futures.ThreadPoolExecutor(3) as pool, contextlib.ExitStack() as opened:
        with serve(slow) as client:
            connections = [opened.enter_context(connected(client)) for _ in range(3)]
            for connection in connections:
                connection.sendall(infer(tiny.scene()))
            answers = [pool.submit(read, connection) for connection in connections]
            time.sleep(0.1)
        for connection, answer in zip(connections, answers, strict=True):
            status, headers, _ = answer.result()
            assert (status, headers["connection"]) == (200, "close")
            assert ended(connection)
    assert passed_by(passed, sent=0, left=3)


def test_known_head_finds_the_bundle_that_is_in_place(serve, tiny, tmp_path, passed):
    place = tiny.make_bundle(tmp_path / "served")
    fresh = tiny.make_bundle(tmp_path / "fresh", labels=("rot", "gruen", "blau"))
    data = post(tiny.picture(tiny.scene()))
    labels = []
    with serve(place, listening={"watch_seconds": 0.05}) as client, connected(client) as connection:
        end = time.monotonic() + SECONDS
        while "rot" not in labels and time.monotonic() < end:
            connection.sendall(data)
            status, _, body = read(connection)
            assert status == 200
            labels.append(json.loads(body)["classes"][0]["label"])
            if len(labels) == 5:
                place.rename(tmp_path / "old")
                shutil.copytree(fresh, place)
        counted = settled(client, len(labels))
    assert set(labels) == {"red", "rot"}
    assert counted == {200: len(labels)}
    assert passed.known > 3


def test_full_queue_is_told_to_known_heads_too(slow, serve, tiny):
    data = infer(tiny.scene(16, 16))
    with serve(slow, queue=1) as client, contextlib.ExitStack() as opened:
        connections = [opened.enter_context(connected(client)) for _ in range(5)]
        for connection in connections:
            connection.sendall(data)
            assert read(connection)[0] == 200
        for connection in connections:
            connection.sendall(data)
        answers = [read(connection) for connection in connections]
        refused = [answer for answer in answers if answer[0] != 200]
        assert 1 <= len(answers) - len(refused) <= 2
        for status, headers, body in refused:
            assert (status, headers["retry-after"]) == (503, "1")
            assert "busy" in json.loads(body)["error"]
        settled(client, 10)


def test_bug_costs_one_answer(bundles, serve, tiny, monkeypatch, caplog):
    data = post(tiny.picture(tiny.scene()))
    with serve(bundles["seg"]) as client, connected(client) as connection:
        connection.sendall(data)
        assert read(connection)[0] == 200
        with monkeypatch.context() as patch:
            patch.setattr("mscsa_deploy.serving.calls.PictureCall.reply", lambda *_: 1 / 0)
            connection.sendall(data)
            status, headers, body = read(connection)
        assert status == 500
        assert headers["x-request-id"] in json.loads(body)["error"]
        connection.sendall(data)
        assert read(connection)[0] == 200
        assert settled(client, 3) == {200: 2, 500: 1}
    assert "ZeroDivisionError" in caplog.text


class Loop:
    """An event loop of which only the calls are kept."""

    def __init__(self):
        self.called = []

    def call_soon_threadsafe(self, function):
        self.called.append(function)


@pytest.fixture
def restless():
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def loop(monkeypatch):
    loop = Loop()
    monkeypatch.setattr("mscsa_deploy.serving.direct.asyncio.get_running_loop", lambda: loop)
    return loop


def direct_of(ours, events):
    """A request whose answer goes to the socket `ours`; what the loop does goes to `events`."""
    inference = gate = SimpleNamespace(
        enter=lambda *_: SimpleNamespace(id=b"x"), leave=lambda *_: None, done=lambda _: None, observe=lambda *_: None
    )
    cycle = SimpleNamespace(
        scope={"state": {}},
        # Long enough for the loop to come in between.
        default_headers=[(b"x", b"y")] * 2000,
        transport=SimpleNamespace(is_closing=lambda: False, get_write_buffer_size=lambda: 0, write=events.append),
        keep_alive=True,
        message_event=SimpleNamespace(set=lambda: None),
        on_response=lambda: events.append("answered"),
    )
    take_over = lambda _: events.append("task")  # noqa: E731
    direct = Direct(Way(gate, inference), {}, None, cycle, file=ours.fileno(), take_over=take_over)
    direct._accepted = SimpleNamespace(future=None)
    return direct


@pytest.mark.usefixtures("restless")
def test_worker_and_loop_never_both_answer(loop):
    chance, outcomes = random.Random(7), []
    ours, theirs = socket.socketpair()
    with ours, theirs, concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(500):
            start, events = threading.Event(), []
            direct = direct_of(ours, events)
            sending = pool.submit(lambda start=start, direct=direct: (start.wait(), direct.deliver(Reply(b"body", {}))))
            start.set()
            time.sleep(1e-3 * chance.random())
            direct.withdraw()
            _, sent = sending.result()
            while loop.called:
                loop.called.pop()()
            assert events == ["answered" if sent else "task"]
            if sent:
                assert theirs.recv(100_000).endswith(b"\r\n\r\nbody")
            outcomes += events
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    assert min(outcomes.count(one) for one in ("answered", "task")) > 0


@pytest.mark.parametrize("full", [False, True])
def test_what_the_socket_does_not_take_is_left_to_the_loop(loop, full):
    body, events, received = os.urandom(3 << 20), [], b""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while full:
                ours.send(bytes(1 << 20))
        direct = direct_of(ours, events)
        assert direct.deliver(Reply(body, {}))
        assert events == []
        direct.withdraw()
        with contextlib.suppress(BlockingIOError):
            while True:
                received += theirs.recv(1 << 20)
    rest, end = events
    assert end == "answered"
    assert len(rest) > len(body) if full else 0 < len(rest) < len(body)
    assert (received + rest).endswith(b"\r\n\r\n" + body)
    # what the worker left for the loop has been done
    loop.called.pop()()
    assert len(events) == 2
