"""Requests without a task are answered once, whatever happens while they are computed and sent."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import http.client
import json
import os
import random
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

from .wire import SECONDS, connected, ended, infer, passed_by, post, read, settled


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
        for number in range(500):
            start, events = threading.Event(), []
            direct = direct_of(ours, events)
            sending = pool.submit(lambda start=start, direct=direct: (start.wait(), direct.deliver(Reply(b"body", {}))))
            # The first two rounds see to it that both come first once, whatever the machine does besides.
            if number == 0:
                direct.withdraw()
            start.set()
            if number == 1:
                sending.result()
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
