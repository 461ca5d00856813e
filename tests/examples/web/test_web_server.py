"""The small server of the web example: what it refuses, and how."""

from __future__ import annotations

import http.client
import socket
import struct
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

SERVE = Path(__file__).parents[3] / "examples" / "web" / "serve.py"


@pytest.fixture
def folder(tmp_path):
    """What passes for a bundle here, with a file larger than the network's buffers."""
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(bytes(40_000_000))
    return tmp_path


def test_port_that_cannot_be_had_is_one_line(site, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for asked, reason in ((port, "Address already in use"), (70000, "ports go from 0 to 65535")):
            command = [sys.executable, SERVE, folder, "--port", str(asked)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            message = f"error: cannot serve on port {asked}: {reason}; name another with --port\n"
            assert (done.returncode, done.stderr) == (2, message)


def test_paths_that_no_file_can_have_are_not_found(serve, folder, capfd):
    address = urlsplit(serve(folder))
    for path in ("/%00", "/bundle/%00", "/" + 5000 * "a", "/bundle/" + 300 * "a", "/%ff", "/../serve.py/x"):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        connection.request("GET", path)
        assert connection.getresponse().status == 404, path
        connection.close()
    assert "Traceback" not in capfd.readouterr().err


def test_tab_closed_during_a_download_goes_unsaid(serve, folder, capfd):
    address = urlsplit(serve(folder))
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port), timeout=30) as tab:
            tab.sendall(b"GET /bundle/model.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert tab.recv(1000).startswith(b"HTTP/1.1 200")
            # A reset instead of an orderly end, as a browser does it.
            tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("GET", "/bundle/manifest.json")
    assert connection.getresponse().read() == b"{}"
    connection.close()
    assert capfd.readouterr().err == ""
