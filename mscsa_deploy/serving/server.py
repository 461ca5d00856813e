"""Running the application: the listening socket, signals, logs, and an orderly end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import uvicorn

from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.serving.application import Service, application
from mscsa_deploy.serving.connection import guarded
from mscsa_deploy.serving.gate import ACCESS
from mscsa_deploy.serving.pages import use_large_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mscsa_deploy.serving.repository import Repository
    from mscsa_deploy.serving.settings import Listen

LOG = logging.getLogger(__name__)
SWITCH_SECONDS = 0.0005
"""How long a thread may keep Python's lock: the event loop waits that long for a worker, not the usual 5 ms."""


def serve(service: Service, *, access_log: Path | None, announce: Callable[[str, Repository], None]) -> None:
    """Serve until a signal to stop; requests accepted by then are finished.

    Args:
        service: What to serve and how.
        access_log: Where the log of requests goes, JSON lines; None keeps none. ``-`` is stderr.
        announce: Called with the URL and the loaded models once the socket listens.

    Raises:
        UserError: The address cannot be listened on, or a bundle is none.
        UnsupportedError: A bundle holds nothing that runs here.
        StageError: The server did not start.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    # What Pillow remarks about damaged pictures is told to the client that sent them.
    warnings.filterwarnings("ignore", module="PIL")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(service.listen))
        stack.enter_context(logged(access_log))
        repository = service.open()
        server = server_of(service, repository)
        stack.enter_context(orderly_signals(server))
        # From here on the kernel queues connections, and every model is ready.
        try:
            listener.listen(server.config.backlog)
        except OSError as error:
            # Another server had bound the port as well, before either listened, and was faster.
            raise _cannot_listen(service.listen, error) from error
        # What lives as long as the server is nothing for the garbage collector to look at.
        gc.collect()
        gc.freeze()
        use_large_pages()
        announce(url_of(service.listen, listener), repository)
        server.run(sockets=[listener])
        if not server.started:
            raise StageError("serve", url_of(service.listen, listener), "the server did not start")
    if repository.hangs:
        # Python would wait for the threads, or free what they compute with.
        LOG.error("stopped while a session was still computing, after the %d s of grace", service.listen.grace_seconds)
        os._exit(StageError.exit_code)


def listen(settings: Listen) -> socket.socket:
    """A bound socket, so that a taken port is told before models are loaded.

    Raises:
        UserError: The address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            undo.pop_all()
    except OSError as error:
        raise _cannot_listen(settings, error) from error
    return listener


def _cannot_listen(settings: Listen, error: OSError) -> UserError:
    return UserError(
        f"cannot listen on {settings.host} port {settings.port}: {error.strerror}",
        hint="choose another --host or --port; port 0 takes a free one",
    )


def url_of(settings: Listen, listener: socket.socket) -> str:
    """The address to type into a browser."""
    scheme = "https" if settings.tls_certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """Send the access log to `path` while the block runs."""
    handler = _handler(path)
    ACCESS.setLevel(logging.INFO if path is not None else logging.CRITICAL)
    ACCESS.propagate = False
    handler.setFormatter(logging.Formatter("%(message)s"))
    ACCESS.addHandler(handler)
    try:
        yield
    finally:
        ACCESS.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def orderly_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the server in order, whenever they come.

    While it runs it handles them itself, and raises them again once it has finished; before that, it is told
    to end as soon as it has started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        del number, frame
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handler(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.NullHandler()
    if str(path) == "-":
        return logging.StreamHandler(sys.stderr)
    try:
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the access log '{path}': {error.strerror}") from error


def server_of(service: Service, repository: Repository) -> uvicorn.Server:
    """The server of loaded models, to be run on a listening socket.

    Raises:
        UserError: The certificate or its key is none.
    """
    settings, limits = service.listen, service.limits
    protocol: Any = guarded(limits)
    config = uvicorn.Config(
        application(service, repository),
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=int(max(1, limits.header_seconds)),
        timeout_graceful_shutdown=settings.grace_seconds,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:
        raise UserError(
            f"'{settings.tls_certificate}' and '{settings.tls_key}' cannot be used for TLS: {error}",
            hint="--tls-cert takes a PEM certificate (chain), --tls-key the PEM private key that belongs to it",
        ) from error
    return uvicorn.Server(config)
