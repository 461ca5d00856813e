"""Requests without a task: the same answers as with one, once each, whatever happens while they are computed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", exc_type=ImportError)
from mscsa_deploy.serving.settings import Limits

from .wire import connected, ended, infer, passed_by, post, read, settled


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
