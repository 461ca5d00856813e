"""Serves the page of this folder and one bundle on this machine: `python3 serve.py BUNDLE`.

Any static web server can do the same. This one sets the two headers without which browsers give a page one thread
only, answers ranges, so that a broken download goes on where it stopped, and revalidates by content.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import mimetypes
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

PAGE = Path(__file__).resolve().parent
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Accept-Ranges": "bytes",
}
TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD for the page's files and, below ``/bundle/``, the bundle's."""

    protocol_version = "HTTP/1.1"
    bundle: Path

    def do_GET(self) -> None:
        """Send a file, a part of it, or nothing if the browser has it already."""
        path = self._file()
        if path is None:
            self.send_error(404)
            return
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._head(304, tag, 0)
            return
        wanted = RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or self.headers.get("If-Range", tag) != tag:
            self._head(200, tag, len(content), path)
            self._body(content)
            return
        first = int(wanted[1])
        last = min(int(wanted[2] or len(content)), len(content) - 1)
        if first > last:
            self._head(416, tag, 0, span=f"bytes */{len(content)}")
            return
        part = content[first : last + 1]
        self._head(206, tag, len(part), path, span=f"bytes {first}-{last}/{len(content)}")
        self._body(part)

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Stay quiet: a page asks for twenty files."""

    def _file(self) -> Path | None:
        name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        inside = name.startswith("bundle/")
        root = self.bundle if inside else PAGE
        try:
            path = (root / (name.removeprefix("bundle/") if inside else name)).resolve()
            return path if path.is_file() and path.is_relative_to(root) else None
        except (OSError, ValueError):
            # Too long for a path, or with a NUL in it.
            return None

    def _head(self, status: int, tag: str, length: int, path: Path | None = None, span: str = "") -> None:
        self.send_response(status)
        for name, value in (HEADERS | {"ETag": tag}).items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        if path is not None:
            kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            self.send_header("Content-Type", kind)
        self.end_headers()

    def _body(self, content: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(http.server.ThreadingHTTPServer):
    """Says nothing when a tab is closed during a download."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Print what went wrong unless it is only the browser that went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def make_server(bundle: Path, port: int) -> Server:
    """A server of the page and the bundle directory `bundle` on localhost; port 0 takes a free one."""
    handler = type("BundleHandler", (Handler,), {"bundle": bundle.resolve()})
    return Server(("127.0.0.1", port), handler)


def main() -> int:
    """Serve until Ctrl+C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle directory, as `mscsa-deploy deploy` writes it")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        zipped = options.bundle.is_file()
        hint = f"; take it apart first: mscsa-deploy unpack {options.bundle} -o bundle" if zipped else ""
        print(f"error: '{options.bundle}' is no bundle directory with a manifest.json{hint}", file=sys.stderr)
        return 2
    if not any(PAGE.glob("vendor/*/ort.wasm.min.mjs")):
        print(f"error: ONNX Runtime Web is missing; run {PAGE / 'setup'} first", file=sys.stderr)
        return 2
    try:
        server = make_server(options.bundle, options.port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "ports go from 0 to 65535"
        print(f"error: cannot serve on port {options.port}: {reason}; name another with --port", file=sys.stderr)
        return 2
    with server:
        print(f"http://localhost:{server.server_port}/ (Ctrl+C stops it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
