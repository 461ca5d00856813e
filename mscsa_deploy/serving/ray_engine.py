"""The same application on Ray Serve: replicas in processes of their own, on one machine or many.

Ray's proxy hands a request to a front, which hands it to a replica: a process with all models and the whole
`serving.application`. Ray spreads requests over replicas, asks each for its health, restarts those that die and
scales their number with the load. An answer depends on nothing but the request, so a front asks another replica
when one dies over a request: no accepted request is lost with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mscsa_deploy.core.ray_settings import ray_settings, ray_variables
from mscsa_deploy.errors import DeployError, StageError, UserError
from mscsa_deploy.serving.refusal import Refusal

os.environ.update(ray_variables())

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError
from starlette.responses import Response

from mscsa_deploy.serving import server
from mscsa_deploy.serving.application import Service, application

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.types import Message

    from mscsa_deploy.serving.settings import Listen

APPLICATION = "mscsa-deploy"
HEALTH_SECONDS = 5.0
ATTEMPTS = 4
REPLICAS_PER_FRONT = 8
REPLICA_HEADER = b"x-replica"
_ADDRESS = "choose another --host or --port"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way to a replica: the parts of an ASGI scope that travel, and the body."""

    method: str
    path: str
    query: bytes
    headers: Headers
    client: tuple[str, int] | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """A replica's answer."""

    status: int
    headers: Headers
    body: bytes


class Replica:
    """One process with all models; made by Ray.

    Args:
        service: Parts of the `Service` that it builds: places, work, limits and listening settings.
    """

    def __init__(self, *service: Any) -> None:
        self._service = Service(*service)
        self._repository = self._service.open()
        self._app = application(self._service, self._repository)
        self._name = serve.get_replica_context().replica_id.unique_id.encode()
        self._stop = asyncio.Event()
        self._lifespan: asyncio.Task[None] | None = None

    async def answer(self, asked: Asked) -> Told:
        """The application's answer."""
        if self._lifespan is None:
            self._lifespan = asyncio.get_running_loop().create_task(self._live())
        told: dict[str, Any] = {"body": []}

        async def receive() -> Message:
            return {"type": "http.request", "body": asked.body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.update(status=message["status"], headers=list(message["headers"]))
            else:
                told["body"].append(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": asked.method,
            "scheme": "http",
            "path": asked.path,
            "raw_path": asked.path.encode(),
            "query_string": asked.query,
            "root_path": "",
            "headers": asked.headers,
            "client": asked.client,
            "server": None,
        }
        await self._app(scope, receive, send)
        return Told(told["status"], [*told["headers"], (REPLICA_HEADER, self._name)], b"".join(told["body"]))

    def check_health(self) -> None:
        """Raise, so that Ray restarts the process, when a model's sessions have all hung."""
        if any(served.pool.stalled for served in self._repository.all()):
            raise RuntimeError("no session of a model has come back for long")

    async def _live(self) -> None:
        """Run what the application does beside requests: looking for changed bundles."""

        async def receive() -> Message:
            if not started.is_set():
                started.set()
                return {"type": "lifespan.startup"}
            await self._stop.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Message) -> None:
            del message

        started = asyncio.Event()
        await self._app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


class Front:
    """Takes requests from Ray's proxy and sees each through to an answer; made by Ray.

    Args:
        replicas: Ray's handle of the replicas.
        body_bytes: Longest body.
    """

    def __init__(self, replicas: Any, body_bytes: int) -> None:
        self._replicas, self._body_bytes = replicas, body_bytes

    async def __call__(self, request: Request) -> Response:
        """The answer to one request."""
        try:
            told = await self._ask(await self._read(request))
        except Refusal as refusal:
            return Response(refusal.body, status_code=refusal.status, headers=refusal.headers)
        response = Response(told.body, status_code=told.status)
        response.raw_headers = [item for item in told.headers if item[0] != b"content-length"]
        response.raw_headers.append((b"content-length", str(len(told.body)).encode()))
        return response

    async def _read(self, request: Request) -> Asked:
        chunks: list[bytes] = []
        declared = request.headers.get("content-length", "")
        self._check_size(int(declared) if declared.isascii() and declared.isdecimal() else 0)
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            self._check_size(size)
            chunks.append(chunk)
        scope = request.scope
        client = (scope["client"][0], scope["client"][1]) if scope.get("client") else None
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        return Asked(scope["method"], scope["path"], scope["query_string"], headers, client, b"".join(chunks))

    def _check_size(self, size: int) -> None:
        if size > self._body_bytes:
            raise Refusal(413, f"the body has {size} bytes or more, expected at most {self._body_bytes}")

    async def _ask(self, asked: Asked) -> Told:
        for _ in range(ATTEMPTS):
            try:
                told: Told = await self._replicas.answer.remote(asked)
            except BackPressureError as error:
                raise Refusal(503, "the replicas are busy; try again later", retry_after=1) from error
            except RayActorError:
                # The replica died over it; the answer depends on the request alone, so another one may give it.
                continue
            return told
        raise Refusal(503, "one replica after another was lost; try again later", retry_after=1)


def serve_on_ray(
    service: Service,
    *,
    replicas: tuple[int, int],
    announce: Callable[[str, tuple[tuple[str, str, str], ...]], None],
) -> None:
    """Serve until a signal to stop.

    The cluster in ``RAY_ADDRESS`` is used; without one, Ray is started on this machine for the time being.

    Args:
        service: What to serve and how; its workers are sessions per replica, one unless told otherwise.
        replicas: Fewest and most replicas; Ray scales between them.
        announce: Called with the URL and a line per model once every model answers.

    Raises:
        UserError: A setting has no counterpart in Ray's proxy, or the address cannot be listened on.
        StageError: The replicas did not become healthy.
    """
    listen = service.listen
    with deployed(service, replicas=replicas) as url:
        spread = str(replicas[0]) if replicas[0] == replicas[1] else f"{replicas[0]} to {replicas[1]}"
        told = tuple((name, version, f"{spread} replicas") for name, version in _index(url, listen.token))
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        announce(url, told)
        stop.wait()


@contextlib.contextmanager
def deployed(service: Service, *, replicas: tuple[int, int]) -> Iterator[str]:
    """The URL of the application on Ray while the block runs; see `serve_on_ray`."""
    listen, limits = service.listen, service.limits
    if listen.tls_certificate is not None:
        raise UserError("the engine 'ray' speaks no TLS", hint="put a TLS proxy in front of it")
    if listen.port == 0:
        raise UserError("the engine 'ray' needs a port", hint="name one with --port")
    if not os.environ.get("RAY_ADDRESS"):
        # Told before Ray starts, which takes seconds; a cluster's proxies may be there already.
        try:
            server.listen(listen).close()
        except UserError as error:
            raise UserError(error.message, hint=_ADDRESS) from error
    try:
        _start_ray()
        timeout = service.work.deadline_ms / 1e3 + limits.body_seconds
        http = {"host": listen.host, "port": listen.port, "request_timeout_s": timeout}
        try:
            serve.start(http_options=http, logging_config={"log_level": "WARNING"})
            serve.run(_bound(service, replicas), name=APPLICATION, route_prefix="/")
        except (RuntimeError, TimeoutError, RayError) as error:
            raise _not_started(listen, str(error)) from error
        try:
            yield f"http://{listen.host}:{listen.port}"
        finally:
            _finish(listen.grace_seconds)
    finally:
        if ray.is_initialized():
            serve.shutdown()
        ray.shutdown()


def _start_ray() -> None:
    """Start or join Ray, and leave SIGTERM to whoever handled it before: Ray ends the process with 15."""
    handler = signal.getsignal(signal.SIGTERM)
    here = threading.current_thread() is threading.main_thread()
    try:
        ray.init(ignore_reinit_error=True, logging_level="warning", **ray_settings())
    except SystemExit as exit_of_ray:
        if here and exit_of_ray.code == signal.SIGTERM:
            signal.signal(signal.SIGTERM, handler)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if here:
            signal.signal(signal.SIGTERM, handler)


def _not_started(listen: Listen, reason: str) -> DeployError:
    """What it means that Ray Serve, or the application on it, did not start."""
    if "Failed to bind to address" in reason:
        return UserError(f"cannot listen on {listen.host} port {listen.port}: Ray's proxy could not", hint=_ADDRESS)
    return StageError("ray", "deployment", reason)


def _finish(grace_seconds: float) -> None:
    """Take the application away, which lets its accepted requests finish; Ray Serve's own end would not."""
    until = time.monotonic() + grace_seconds
    with contextlib.suppress(RayError):
        while True:
            try:
                serve.delete(APPLICATION)
            except TimeoutError:
                # Ray waits for a minute.
                if time.monotonic() < until:
                    continue
            return


def _index(url: str, token: str) -> list[tuple[str, str]]:
    """Names and versions of the models, as the replicas tell them."""
    request = urllib.request.Request(f"{url}/v2/repository/index")  # noqa: S310 - the address just bound
    if token:
        request.add_header("authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return [(item["name"], item["version"]) for item in json.load(answer)]


def _bound(service: Service, replicas: tuple[int, int]) -> Any:
    """Ray's application: fronts bound to replicas."""
    low, high = replicas
    work = service.work
    sessions = work.workers or 1
    # A cluster gives each replica its cores; where there are fewer, replicas share what there is.
    cores = min(float(sessions * (work.threads or 1)), ray.cluster_resources().get("CPU", 1.0) / high)
    scale = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": 2 * sessions}
    replica = serve.deployment(
        Replica,
        **({"num_replicas": low} if low == high else {"autoscaling_config": scale}),
        ray_actor_options={"num_cpus": cores},
        max_ongoing_requests=sessions * (work.queue + 1),
        max_queued_requests=sessions * work.queue,
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=float(service.listen.grace_seconds),
    )
    front = serve.deployment(
        Front,
        num_replicas=-(-high // REPLICAS_PER_FRONT),
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=float(service.listen.grace_seconds),
    )
    return front.bind(replica.bind(*_settings(service)), service.limits.body_bytes)


def _settings(service: Service) -> tuple[Any, ...]:
    """What of a service travels to a replica; its metrics are each replica's own."""
    work = replace(service.work, workers=service.work.workers or 1)
    return service.places, work, service.limits, service.listen
