"""Running the application: the listening socket, signals, logs, and an orderly end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, TextIO

import uvicorn

from mscsa_deploy.errors import StageError, UserError
from mscsa_deploy.serving.application import Service, entrances
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
        # What a full disk did not take was told when it came.
        with contextlib.suppress(OSError):
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


class _AccessLog(logging.StreamHandler[TextIO]):
    """A log whose lines get lost where they cannot be written, as on a full disk; that is said once."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        """A line could not be written."""
        if isinstance(sys.exception(), OSError):
            if not self._told:
                LOG.error("cannot write the access log, requests go on without: %s", sys.exception())
            self._told = True
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file, where it is one of its own."""
        super().close()
        if self.stream is not sys.stderr:
            self.stream.close()


def _handler(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.NullHandler()
    if str(path) == "-":
        return _AccessLog(sys.stderr)
    try:
        return _AccessLog(path.open("a", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot write the access log '{path}': {error.strerror}") from error


def server_of(service: Service, repository: Repository) -> uvicorn.Server:
    """The server of loaded models, to be run on a listening socket.

    Raises:
        UserError: The certificate or its key is none.
    """
    settings, limits = service.listen, service.limits
    app, way = entrances(service, repository)
    protocol: Any = guarded(limits, way if hasattr(os, "writev") else None)
    config = uvicorn.Config(
        app,
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
    _check_tls(settings)
    config.load()
    return uvicorn.Server(config)


def _check_tls(settings: Listen) -> None:
    """Raise `UserError` unless the certificate and its key can be used as they are."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return

    def password() -> str:
        # Without this, OpenSSL would ask on the terminal.
        raise UserError(
            f"the private key '{key}' is encrypted",
            hint="nobody is asked for its password here: give a key without one, "
            "as 'openssl pkey -in KEY -out PLAIN' writes it",
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password)
    except OSError as error:
        raise UserError(
            f"'{certificate}' and '{key}' cannot be used for TLS: {error}",
            hint="--tls-cert takes a PEM certificate (chain), --tls-key the PEM private key that belongs to it",
        ) from error
