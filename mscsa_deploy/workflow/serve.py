"""`serve`: bundles behind HTTP, on this machine alone or on an engine for many."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mscsa_deploy.errors import UnsupportedError, UserError

if TYPE_CHECKING:
    from mscsa_deploy.serving.application import Service
    from mscsa_deploy.serving.pool import Pool
    from mscsa_deploy.serving.repository import Repository

Engine = Literal["local", "ray"]
TOKEN_VARIABLE = "MSCSA_DEPLOY_TOKEN"  # noqa: S105 - the variable's name, not a token
HOW_TO_INSTALL = "pip install 'mscsa-deploy[serve,onnxruntime]'"


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """What to serve and how.

    Args:
        bundles: Each ``[NAME[:VERSION]=]PATH``.
        engine: ``local``: this process; ``ray``: Ray Serve.
        replicas: Processes, on Ray: (fewest, most).
        token_file: Holds the bearer token; without one the variable `TOKEN_VARIABLE` does, if set.
        access_log: File of JSON lines, ``-`` for stderr, None for none.
        listen: Fields of `mscsa_deploy.serving.settings.Listen`.
        work: Fields of `mscsa_deploy.serving.settings.Work`.
        limits: Fields of `mscsa_deploy.serving.settings.Limits`.
    """

    bundles: tuple[str, ...]
    engine: Engine = "local"
    replicas: tuple[int, int] = (1, 1)
    token_file: Path | None = None
    access_log: Path | None = None
    listen: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Serving:
    """What is being served, told once it is ready.

    Args:
        url: The address.
        engine: Which engine answers.
        models: (name, version, what runs) of each.
        warnings: What the user should change.
    """

    url: str
    engine: str
    models: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


def run_serve(request: ServeRequest, announce: Callable[[Serving], None]) -> None:
    """Serve until told to stop.

    Args:
        request: What to serve and how.
        announce: Told once requests can come.

    Raises:
        UserError: A bundle, name, address or setting is wrong.
        UnsupportedError: The libraries for it are not installed, or a bundle holds nothing that runs here.
    """
    service = make_service(request)
    if request.engine == "ray":
        _run_ray(request, service, announce)
        return
    from mscsa_deploy.serving.server import serve

    def ready(url: str, repository: Repository) -> None:
        models = tuple((served.name, served.version, _sessions(served.pool)) for served in repository.all())
        announce(Serving(url, request.engine, models, _warnings(service)))

    serve(service, access_log=request.access_log, announce=ready)


def make_service(request: ServeRequest) -> Service:
    """The request's settings, checked.

    Raises:
        UserError: A setting is wrong.
        UnsupportedError: The server's libraries are not installed.
    """
    try:
        from mscsa_deploy.serving.application import Service
        from mscsa_deploy.serving.repository import Place
        from mscsa_deploy.serving.settings import Limits, Listen, Work
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"serving needs the package '{error.name}'", hint=HOW_TO_INSTALL) from error
    listen = Listen(**request.listen, token=_token(request.token_file))
    places = tuple(Place.of(text) for text in request.bundles)
    return Service(places, Work(**request.work), Limits(**request.limits), listen)


def _run_ray(request: ServeRequest, service: Service, announce: Callable[[Serving], None]) -> None:
    if request.access_log is not None:
        raise UserError("the engine 'ray' keeps no access log", hint="Ray's own log of requests takes its place")
    try:
        from mscsa_deploy.serving.ray_engine import serve_on_ray
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the engine 'ray' needs the package '{error.name}'", hint="pip install 'ray[serve]'"
        ) from error
    low, high = request.replicas
    serve_on_ray(
        service,
        replicas=(low, high),
        announce=lambda url, models: announce(Serving(url, "ray", models, _warnings(service))),
    )


def _sessions(pool: Pool) -> str:
    model = pool.model
    candidates = [runner.candidate for runner in (model.runner, model.answering) if runner is not None]
    return ", for class maps ".join(f"{pool.workers} x {candidate}" for candidate in candidates)


def _token(path: Path | None) -> str:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token file '{path}': {error}") from error
    if not token:
        raise UserError(f"the token file '{path}' is empty")
    return token


def _warnings(service: Service) -> tuple[str, ...]:
    if not service.listen.is_open:
        return ()
    text = f"everyone who reaches {service.listen.host} can use this server"
    return (f"{text}; ask for a token with --token-file or {TOKEN_VARIABLE}",)
