"""The HTTP application: Open Inference Protocol v2, pictures straight in, metrics, and a page to try a model."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from mscsa_deploy import __version__
from mscsa_deploy.serving.direct import Way
from mscsa_deploy.serving.gate import Gate, Visit
from mscsa_deploy.serving.inference import ROUTES, Inference, target
from mscsa_deploy.serving.metrics import CONTENT_TYPE, Metrics
from mscsa_deploy.serving.openapi import description
from mscsa_deploy.serving.pages import use_large_pages
from mscsa_deploy.serving.refusal import Refusal
from mscsa_deploy.serving.repository import Place, Repository
from mscsa_deploy.serving.settings import Limits, Listen, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mscsa_deploy.serving.repository import Served

NAME = "mscsa-deploy"
EXTENSIONS = ("binary_tensor_data", "model_repository_index")
PAGE = Path(__file__).parent / "page"
_PAGE_TYPES = {
    "page.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Service:
    """Everything the handlers share.

    Args:
        places: What to serve.
        work: Sessions, queue and deadlines.
        limits: Limits of requests.
        listen: Token and how often to look for changed bundles.
        metrics: Of this server.
    """

    places: tuple[Place, ...]
    work: Work = field(default_factory=Work)
    limits: Limits = field(default_factory=Limits)
    listen: Listen = field(default_factory=Listen)
    metrics: Metrics = field(default_factory=Metrics)

    def open(self) -> Repository:
        """Load all models; blocks.

        Raises:
            DeployError: A bundle cannot be served.
        """
        repository = Repository(self.places, self.work, self.limits, observer=self.metrics.observer)
        self.metrics.watch(repository)
        return repository


def application(service: Service, repository: Repository) -> ASGIApp:
    """The ASGI application for loaded models; its shutdown finishes accepted requests and closes them."""
    return entrances(service, repository)[0]


def entrances(service: Service, repository: Repository) -> tuple[Gate, Way]:
    """The ASGI application, and the way past it for a server that knows it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        watcher = asyncio.create_task(_watch(repository, service.listen.watch_seconds))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.to_thread(repository.close)

    handlers = Handlers(service, repository)
    pages = Starlette(routes=handlers.routes(), lifespan=lifespan, exception_handlers=_ERRORS)
    # A path with a slash too many is answered as any other that is not there.
    pages.router.redirect_slashes = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inference = scope["type"] == "http" and scope["method"] == "POST" and target(scope["path"])
        await (handlers.inference if inference else pages)(scope, receive, send)

    gate = Gate(app, metrics=service.metrics, token=service.listen.token)
    return gate, Way(gate, handlers.inference)


class Handlers:
    """One method per path.

    Args:
        service: Settings and metrics.
        repository: The models.
    """

    def __init__(self, service: Service, repository: Repository) -> None:
        self._service, self._repository = service, repository
        self.inference = Inference(repository, work=service.work, limits=service.limits, metrics=service.metrics)

    def routes(self) -> list[Route]:
        """All paths."""
        model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        pages = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
        return [
            Route("/v2", self.server),
            Route("/v2/", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/repository/index", self.index, methods=["GET", "POST"]),
            *(Route(path, self.metadata) for path in (model, version)),
            *(Route(f"{path}/ready", self.model_ready) for path in (model, version)),
            *(
                Route(f"{path}/{route}", self.inference, methods=["POST"])
                for path in (model, version)
                for route in ROUTES
            ),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            *(Route(path, _page(name)) for path, name in pages.items()),
        ]

    async def server(self, request: Request) -> Response:
        """Server metadata."""
        _visit(request, "server")
        return _json({"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        """Whether the server answers and no model's sessions are all hung."""
        _visit(request, "live")
        if any(served.pool.stalled for served in self._repository.all()):
            raise Refusal(503, "no session of a model has come back for long; restart the server", reason="stalled")
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether every model can take requests; the server only listens once they are loaded."""
        _visit(request, "ready")
        return _json({"ready": True})

    async def index(self, request: Request) -> Response:
        """The models and versions."""
        _visit(request, "index")
        return _json(
            [{"name": item.name, "version": item.version, "state": "READY"} for item in self._repository.all()]
        )

    async def metadata(self, request: Request) -> Response:
        """Model metadata."""
        served = self._find(request, "metadata")
        return _json(served.metadata(self._repository.versions(served.name)))

    async def model_ready(self, request: Request) -> Response:
        """Whether one model can take requests."""
        served = self._find(request, "model_ready")
        return _json({"name": served.name, "ready": True})

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics."""
        _visit(request, "metrics")
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI description."""
        _visit(request, "openapi")
        return _json(description())

    def _find(self, request: Request, route: str) -> Served:
        visit = _visit(request, route)
        served = self._repository.find(request.path_params["name"], request.path_params.get("version", ""))
        visit.model, visit.version = served.name, served.version
        return served


async def _watch(repository: Repository, seconds: float) -> None:
    while seconds:
        await asyncio.sleep(seconds)
        before = repository.reloads
        await repository.reload_changed()
        if repository.reloads != before:
            await asyncio.to_thread(use_large_pages)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.scope["state"]["visit"].reason = error.reason
    return Response(error.body, status_code=error.status, headers=error.headers)


async def _bug(request: Request, error: Exception) -> Response:
    """Anything unforeseen; its traceback is logged where the error goes on to, in the gate."""
    del error
    visit = request.scope["state"]["visit"]
    refusal = Refusal(500, f"the server failed; its log has the details of request {visit.id.decode()}", reason="bug")
    visit.reason = refusal.reason
    return Response(refusal.body, status_code=500, headers=refusal.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:128]
    if error.status_code == 405:
        message = f"the method {request.method[:16]} is not allowed on '{path}'"
    else:
        message = f"there is nothing at '{path}'; see /openapi.json for the paths"
    refusal = Refusal(error.status_code, message)
    _visit(request, "none").reason = refusal.reason
    return Response(refusal.body, status_code=refusal.status, headers={**(error.headers or {}), **refusal.headers})


_ERRORS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    Refusal: _refused,
    HTTPException: _no_route,
    Exception: _bug,
}


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = (PAGE / name).read_bytes()

    async def handler(request: Request) -> Response:
        _visit(request, "page")
        return Response(content, headers={"content-type": _PAGE_TYPES[name], **_PAGE_HEADERS})

    return handler


def _visit(request: Request, route: str) -> Visit:
    visit: Visit = request.scope["state"]["visit"]
    visit.route = route
    return visit


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), headers={"content-type": "application/json"})
