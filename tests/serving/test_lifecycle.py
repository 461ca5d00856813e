"""The process: ready soon, on loopback, stopped without losing what it accepted."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.serving.repository import Place
from mscsa_deploy.serving.settings import Limits, Listen

SECONDS = 30


class Process:
    """``mscsa-deploy serve`` on a free port."""

    def __init__(self, *arguments, env=None):
        command = [sys.executable, "-m", "mscsa_deploy", "serve", "--json", "--port", "0", *map(str, arguments)]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}, text=True
        )
        text = ""
        while not text.rstrip().endswith("}"):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            text += line
        self.told = json.loads(text)
        self.ready_seconds = time.monotonic() - self.begin
        self.url = self.told["url"]

    def stop(self, number=signal.SIGTERM):
        """Exit code and what it said."""
        self.process.send_signal(number)
        _, text = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, text


@pytest.fixture
def start():
    """Starts servers and ends those that a failed test left behind."""
    started = []

    def begin(*arguments, **more):
        started.append(Process(*arguments, **more))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stopping_finishes_accepted_requests_and_exits_with_0(start, tiny, tmp_path, number):
    bundle = tiny.make_bundle(tmp_path / "b", fake={"latency_ms": 600.0})
    server = start(bundle, "--workers", "1", "--runtime", "fake")
    client = tiny.Client(server.url)
    data = tiny.picture(tiny.scene(16, 16))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.picture, data) for _ in range(3)]
        time.sleep(0.3)
        code, text = server.stop(number)
    assert [answer.result().status for answer in answers] == [200, 200, 200]
    assert code == 0, text
    assert "Traceback" not in text
    with pytest.raises(OSError, match="refused"):
        client.get("/v2/health/live")


def test_stopping_takes_no_longer_than_the_grace_period(start, tiny, tmp_path):
    bundle = tiny.make_bundle(tmp_path / "b", fake={"latency_ms": 8000.0})
    server = start(bundle, "--workers", "1", "--runtime", "fake", "--grace", "1", "--deadline", "60000")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(tiny.Client(server.url).picture, tiny.picture(tiny.scene(16, 16))) for _ in range(2)]
        time.sleep(0.5)
        begin = time.monotonic()
        code, text = server.stop()
    # 1 s of grace, and half a second for the sessions; the network takes 8 s
    assert time.monotonic() - begin < 6
    assert code == 4
    assert "still computing" in text
    assert "Traceback" not in text
    for one in answers:
        assert one.result().status == 503
        assert "stops before the answer" in one.result().error


def test_ready_soon_on_loopback_with_token_and_access_log(start, tiny, bundles, tmp_path):
    log = tmp_path / "access.jsonl"
    env = {"MSCSA_DEPLOY_TOKEN": "s3cret", "OMP_NUM_THREADS": "1"}
    server = start(bundles["seg"], f"other:7={bundles['cls']}", "--access-log", log, env=env)
    assert server.url.startswith("http://127.0.0.1:")
    assert [tuple(model[:2]) for model in server.told["models"]] == [("colors", "1"), ("other", "7")]
    # 2 s on an idle machine is what benchmarks/serving measures; a test machine may be busy with other tests
    assert server.ready_seconds < 20
    client = tiny.Client(server.url)
    assert client.get("/v2/health/ready").status == 200
    assert client.get("/").status == 200
    refused = client.get("/v2/models/colors")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/v2/models/colors", authorization="Bearer wrong").status == 401
    assert client.get("/v2/models/colors", authorization="Basic s3cret").status == 401
    assert client.get("/v2/models/other", authorization="Bearer s3cret").json["versions"] == ["7"]
    # the scheme's case is the client's choice
    assert client.get("/v2/models/other", authorization="bearer  s3cret").status == 200
    assert client.get("/nothing", authorization="BEARER s3cret").status == 404
    answer = client.picture(tiny.picture(tiny.scene()), authorization="Bearer s3cret", x_request_id="logged-1")
    assert answer.status == 200
    code, text = server.stop()
    assert code == 0
    assert "s3cret" not in text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "s3cret" not in log.read_text()
    entry = next(line for line in lines if line["id"] == "logged-1")
    assert (entry["status"], entry["model"], entry["version"]) == (200, "colors", "1")
    assert {"ms", "bytes_in", "bytes_out", "queue_ms", "network_ms", "client", "time"} <= set(entry)
    reasons = [(line["status"], line["reason"]) for line in lines if line["status"] != 200]
    assert reasons == [(401, "token")] * 3 + [(404, "unknown")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_access_log_on_a_full_disk_is_told_once_and_serving_goes_on(start, bundles, tiny):
    server = start(bundles["seg"], "--access-log", "/dev/full")
    client = tiny.Client(server.url)
    assert [client.get("/v2").status for _ in range(5)] == [200] * 5
    code, text = server.stop()
    assert code == 0, text
    assert text.count("cannot write the access log") == 1, text
    assert "No space left on device" in text
    assert "Traceback" not in text


def test_tls(start, bundles, tmp_path):
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server = start(bundles["seg"], "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    assert server.url.startswith("https://")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with urllib.request.urlopen(f"{server.url}/v2/health/live", context=context, timeout=SECONDS) as answer:
        assert answer.status == 200
    assert server.stop()[0] == 0


def test_wrong_tls_files_are_told_before_the_announcement(bundles, tmp_path, capsys):
    from mscsa_deploy.cli import run

    (tmp_path / "x.pem").write_text("no pem")
    files = ("--tls-cert", tmp_path / "x.pem", "--tls-key", tmp_path / "x.pem")
    assert run(["serve", "--port", "0", str(bundles["seg"]), *map(str, files)]) == 2
    told = capsys.readouterr()
    assert "cannot be used for TLS" in told.err
    assert "https://" not in told.out


def test_encrypted_tls_key_is_told_instead_of_asked_for(bundles, tmp_path):
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    from cryptography.hazmat.primitives import serialization

    made = trustme.CA().issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cret"),
    )
    (tmp_path / "key.pem").write_bytes(encrypted)
    files = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    command = [sys.executable, "-m", "mscsa_deploy", "serve", "--port", "0", bundles["seg"], *files]
    told = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert told.returncode == 2
    assert "key.pem' is encrypted" in told.stderr
    assert "pass phrase" not in told.stderr + told.stdout


def test_stopping_right_after_the_announcement_is_heard(start, bundles):
    server = start(bundles["seg"])
    code, text = server.stop()
    assert code == 0, text


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["/nowhere"], 2, "there is no bundle"),
        (["{seg}", "a:b=x"], 2, "names no model and version"),
        (["colors:1={seg}", "colors:1={seg}"], 2, "served twice"),
        (["x={seg}", "x={cls}"], 2, "different tasks"),
        (["{seg}", "--replicas", "2-1"], 2, "no number of replicas"),
        (["{seg}", "--tls-cert", "{seg}/manifest.json"], 2, "both a certificate and a key"),
        (["{seg}", "--token-file", "/nowhere"], 2, "cannot read the token file"),
        (["{seg}", "--runtime", "openvino"], 3, "no artefact for runtime"),
        (["{seg}", "--host", "203.0.113.1"], 2, "cannot listen"),
        (["{seg}", "--engine", "ray", "--access-log", "-"], 2, "keeps no access log"),
    ],
)
def test_wrong_arguments_are_told(bundles, capsys, arguments, code, expected):
    from mscsa_deploy.cli import run

    filled = [argument.format(**bundles) for argument in arguments]
    assert run(["serve", "--port", "0", *filled]) == code
    assert expected in capsys.readouterr().err


def test_taken_port_is_told(bundles, capsys):
    from mscsa_deploy.cli import run

    with socket.create_server(("127.0.0.1", 0)) as other:
        assert run(["serve", "--port", str(other.getsockname()[1]), str(bundles["seg"])]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_port_that_another_server_takes_while_models_are_loaded_is_told(bundles, capsys, monkeypatch):
    from mscsa_deploy.cli import run
    from mscsa_deploy.serving.application import Service

    with socket.socket() as other:
        # Two servers that are started at the same moment have both bound the port before either listens.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        load = Service.open
        monkeypatch.setattr(Service, "open", lambda service: (other.listen(1), load(service))[1])
        assert run(["serve", "--port", str(other.getsockname()[1]), str(bundles["seg"])]) == 2
    assert "Address already in use" in capsys.readouterr().err


def open_connection(client):
    host, port = client.place.split(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def test_slow_body_is_cut_off(bundles, serve, tiny):
    with serve(bundles["seg"], limits=Limits(body_seconds=0.3)) as client, open_connection(client) as connection:
        connection.sendall(b"POST /v2/models/colors/picture HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nxxx")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 408
        assert "did not arrive within" in json.loads(answer.read())["error"]
        assert client.picture(tiny.picture(tiny.scene())).status == 200


def test_client_that_does_not_take_its_answer_is_cut_off(bundles, serve, tiny, caplog):
    side = 3000
    item = {"name": "pixels", "datatype": "UINT8", "shape": [side, side, 3]}
    item["parameters"] = {"binary_data_size": 3 * side * side}
    output = {"name": "class_map", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [item], "outputs": [output]}).encode()
    lines = f"content-length: {len(head) + 3 * side * side}\r\ninference-header-content-length: {len(head)}\r\n\r\n"
    with serve(bundles["seg"], limits=Limits(send_seconds=0.3)) as client, open_connection(client) as connection:
        connection.sendall(b"POST /v2/models/colors/infer HTTP/1.1\r\nhost: x\r\n" + lines.encode() + head)
        connection.sendall(bytes(3 * side * side))
        # the answer is 9 MB; what is not in the kernel's buffers by then is not sent any more
        time.sleep(2.0)
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        assert received < side * side
        assert client.picture(tiny.picture(tiny.scene())).status == 200
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "start", [b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nhost: x\r\n"], ids=["none", "line", "header"]
)
def test_connection_that_sends_no_whole_head_is_closed(bundles, serve, start):
    with serve(bundles["seg"], limits=Limits(header_seconds=0.3)) as client, open_connection(client) as connection:
        connection.sendall(start)
        begin = time.monotonic()
        assert connection.recv(1000) == b""
        assert time.monotonic() - begin < 5


def test_head_without_end_is_refused(bundles, serve):
    with serve(bundles["seg"], limits=Limits(header_bytes=10_000)) as client, open_connection(client) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n")
        received = b""
        try:
            for _ in range(1000):
                connection.sendall(b"x-more: " + b"y" * 1000 + b"\r\n")
            received = connection.recv(1000)
        except OSError:
            # the server may have closed the connection while we were still talking
            pass
        assert received == b"" or b" 431 " in received


def test_what_is_no_http_is_told_so(bundles, serve):
    with serve(bundles["seg"]) as client, open_connection(client) as connection:
        connection.sendall(b"GET /v2 HTTP/9.9\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("content-type")) == (400, "application/json")
        assert set(json.loads(answer.read())) == {"error"}


def test_too_many_connections_are_refused(bundles, serve):
    with serve(bundles["seg"], limits=Limits(connections=3)) as client:
        held = [open_connection(client) for _ in range(3)]
        time.sleep(0.2)
        refused = client.get("/v2")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "too many connections" in refused.error
        assert client.get("/v2/health/live").status == 200
        for one in held:
            one.close()
        time.sleep(0.2)
        assert client.get("/v2").status == 200


def test_client_that_leaves_early_costs_nothing(bundles, serve, tiny):
    with serve(bundles["seg"]) as client:
        for _ in range(5):
            with open_connection(client) as connection:
                connection.sendall(
                    b"POST /v2/models/colors/picture HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\nxx"
                )
        assert client.picture(tiny.picture(tiny.scene())).status == 200
        time.sleep(0.2)
        assert "mscsa_deploy_in_flight_bytes 0.0" in client.get("/metrics").body.decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("some/where", ("", "", "some/where")),
        ("name=some/where", ("name", "", "some/where")),
        ("name:3=some/where", ("name", "3", "some/where")),
        ("./odd=name/x", ("", "", "./odd=name/x")),
    ],
)
def test_place_of_text(text, expected):
    place = Place.of(text)
    assert (place.name, place.version, place.path.as_posix()) == (
        expected[0],
        expected[1],
        Path(expected[2]).as_posix(),
    )


@pytest.mark.parametrize("text", ["a b=x", "a:0=x", "a:=x", "a:v1=x", "..=x", "=x"])
def test_place_of_wrong_text_refused(text):
    with pytest.raises(UserError, match="names no model"):
        Place.of(text)


def test_open_to_the_network_without_a_token_is_warned_about():
    from mscsa_deploy.workflow.serve import ServeRequest, _warnings, make_service

    assert Listen(host="0.0.0.0").is_open
    assert not Listen(host="0.0.0.0", token="x").is_open
    service = make_service(ServeRequest(("x",), listen={"host": "0.0.0.0"}))
    assert "--token-file" in _warnings(service)[0]


def test_missing_libraries_are_told():
    code = """
import sys
sys.modules["starlette"] = None
from mscsa_deploy.errors import UnsupportedError
from mscsa_deploy.workflow.serve import ServeRequest, make_service
try:
    make_service(ServeRequest(("x",)))
except UnsupportedError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert "pip install 'mscsa-deploy[serve" in told.stdout
