"""The engine for many machines, with two replicas on this one: spread, health, and a kill that costs nothing.

Runs where Ray is installed (it is heavy, and no dependency): ``make test-ray``.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from mscsa_deploy.errors import UserError
from mscsa_deploy.serving.application import Service
from mscsa_deploy.serving.repository import Place
from mscsa_deploy.serving.settings import Limits, Listen, Work

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
CORES = 64
STRANGER = """
import sys
import ray
ray.init(address=sys.argv[1], logging_level="error")
print("let in")
"""


@pytest.fixture(scope="module")
def engine(missing):
    try:
        from mscsa_deploy.serving import ray_engine
    except ModuleNotFoundError as error:
        missing("ray", f"{error}: see 'make test-ray'")
    return ray_engine


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def client(engine, tiny, tmp_path_factory):
    """Two replicas of a network that takes 20 ms."""
    bundle = tiny.make_bundle(tmp_path_factory.mktemp("ray") / "slow", fake={"latency_ms": 20.0})
    service = Service((Place(bundle),), Work(queue=64), Limits(body_bytes=1 << 20), Listen(port=free_port()))
    # As on a cluster: Ray has other cores than this process.
    engine.ray.init(num_cpus=CORES, **engine.ray_settings())
    with engine.deployed(service, replicas=(2, 2)) as url:
        client = tiny.Client(url)
        client.service = service
        yield client


def replica_processes():
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any("ServeReplica" in part and "Replica" in part.split(":")[-1] for part in process.info["cmdline"] or ())
    ]


def test_speaks_the_protocol(client, tiny):
    assert client.get("/v2/health/ready").status == 200
    assert client.get("/v2/models/colors").json["versions"] == ["1"]
    answer = client.picture(tiny.picture(tiny.scene()), x_request_id="over-ray")
    assert answer.status == 200
    assert answer.headers["x-request-id"] == "over-ray"
    assert client.picture(tiny.picture(tiny.scene()), answer="overlay").headers["content-type"] == "image/png"
    assert (
        "no input 'x'"
        in client.infer({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}]}).error
    )
    assert client.get("/v2/models/none").status == 404
    assert client.picture(b"x" * (1 << 20) + b"x").status == 413


def test_declared_length_over_the_limit_is_refused_before_the_body(client):
    host, port = client.place.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v2/models/colors/picture HTTP/1.1\r\nhost: x\r\ncontent-length: {(1 << 20) + 1}\r\n\r\n"
        connection.sendall(head.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert "expected at most 1048576" in json.loads(answer.read())["error"]


def ask_many(client, tiny, count):
    data = tiny.picture(tiny.scene(16, 16))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: client.picture(data), range(count)))


def test_requests_spread_over_both_replicas(client, tiny):
    answers = ask_many(client, tiny, 60)
    assert {answer.status for answer in answers} == {200}
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.headers["x-replica"]] = counts.get(answer.headers["x-replica"], 0) + 1
    assert len(counts) == 2
    # two random choices per request, the shorter queue wins: never far from even
    assert min(counts.values()) >= 12


def test_killed_replica_costs_no_accepted_request(client, tiny):
    before = {answer.headers["x-replica"] for answer in ask_many(client, tiny, 30)}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_many, client, tiny, 250)
        time.sleep(0.8)
        victims = [process for process in replica_processes() if "Front" not in " ".join(process.cmdline())]
        assert len(victims) == 2, [process.cmdline() for process in victims]
        os.kill(victims[0].pid, signal.SIGKILL)
        answers = asking.result()
    assert {answer.status for answer in answers} == {200}
    end = time.monotonic() + 60
    while time.monotonic() < end:
        after = {answer.headers["x-replica"] for answer in ask_many(client, tiny, 20)}
        if len(after) == 2:
            break
        time.sleep(0.5)
    assert len(after) == 2
    assert after != before


def test_the_number_of_replicas_may_vary(client, engine):
    service = replace(client.service, work=Work(threads=2, workers=2))
    engine.serve.run(engine._bound(service, (1, 3)), name="varying", route_prefix="/varying")
    try:
        application = engine.serve.status().applications["varying"]
        assert application.status == "RUNNING"
        assert application.deployments["Replica"].replica_states == {"RUNNING": 1}
        details = engine._bound(service, (1, 3))._bound_deployment.init_args[0]._bound_deployment
        # two sessions of two threads, of which a cluster has room for three
        assert details.ray_actor_options["num_cpus"] == 4
    finally:
        engine.serve.delete("varying")


def test_nobody_else_gets_into_the_cluster(client, engine):
    del client
    strange = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    address = engine.ray.get_runtime_context().gcs_address
    code = [sys.executable, "-c", STRANGER, address]
    told = subprocess.run(code, env={**os.environ, **strange}, capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode != 0
    assert "let in" not in told.stdout


def started(bundle, port):
    command = [sys.executable, "-m", "mscsa_deploy", "serve", str(bundle), "--runtime", "fake", "--engine", "ray"]
    command += ["--port", str(port), "--replicas", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_stopping_finishes_accepted_requests(engine, tiny, tmp_path):
    del engine
    port = free_port()
    process = started(tiny.make_bundle(tmp_path / "b", fake={"latency_ms": 300.0}), port)
    try:
        while "serving on" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        client = tiny.Client(f"http://127.0.0.1:{port}")
        data = tiny.picture(tiny.scene(16, 16))
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(client.picture, data) for _ in range(12)]
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert [one.result().status for one in asked] == [200] * 12
        _, text = process.communicate(timeout=100)
        assert process.returncode == 0, text
    finally:
        process.kill()


@pytest.mark.parametrize("seconds", [2.0, 6.0])
def test_stopping_while_ray_starts_ends_as_anywhere(engine, tiny, tmp_path, seconds):
    del engine
    process = started(tiny.make_bundle(tmp_path / "b", fake={"latency_ms": 1.0}), free_port())
    try:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=100)
        assert process.returncode == 143, text
    finally:
        process.kill()


def test_taken_port_is_told(engine):
    with socket.create_server(("127.0.0.1", 0)) as other:
        service = Service((), listen=Listen(port=other.getsockname()[1]))
        with (
            pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1"),
            engine.deployed(service, replicas=(1, 1)),
        ):
            pass


def test_port_that_is_taken_while_ray_starts_is_told(engine, monkeypatch):
    def start(**options):
        raise engine.RayError(f"RuntimeError: Failed to bind to address '127.0.0.1:{options['http_options']['port']}'.")

    monkeypatch.setattr(engine.ray, "init", lambda **_: None)
    monkeypatch.setattr(engine.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(engine.ray, "shutdown", lambda: None)
    monkeypatch.setattr(engine.serve, "start", start)
    service = Service((), listen=Listen(port=free_port()))
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1"), engine.deployed(service, replicas=(1, 1)):
        pass


@pytest.mark.parametrize("wrong", [{"port": 0}, "tls"])
def test_what_the_engine_cannot_do_is_told(engine, tmp_path, wrong):
    (tmp_path / "x.pem").write_text("")
    tls = {"tls_certificate": tmp_path / "x.pem", "tls_key": tmp_path / "x.pem"}
    service = Service((), listen=Listen(**(tls if wrong == "tls" else wrong)))
    with pytest.raises(UserError, match="engine 'ray'"), engine.deployed(service, replicas=(1, 1)):
        pass
