"""The commands of docs/serving.md do what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "serving.md").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path, tiny):
    (tmp_path / "examples" / "images").mkdir(parents=True)
    (tmp_path / "examples" / "images" / "river.jpg").write_bytes(tiny.picture(tiny.scene(), "JPEG"))
    return tmp_path


def blocks(language, client):
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return [block.replace("127.0.0.1:8000", client.place).replace("topformer_t_mscsa", "colors") for block in found]


def test_curl_commands(client, place):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    commands = [line for block in blocks("sh", client) for line in block.splitlines() if line.startswith("curl --data")]
    assert len(commands) == 3
    for command in commands:
        subprocess.run([*shlex.split(command), "--fail", "--silent"], cwd=place, check=True, timeout=20)
    for name in ("overlay.png", "classes.png"):
        assert (place / name).read_bytes().startswith(b"\x89PNG")


def test_reference_client_example(client, place):
    pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    (code,) = blocks("python", client)
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=place, check=True, capture_output=True, text=True, timeout=60
    )
    assert told.stdout.strip() == "(1, 96, 160)"


@pytest.mark.parametrize("name", ["serving.md", "scaling.md"])
def test_options_that_the_documents_name_exist(name):
    from mscsa_deploy.cli.pack_command import command as pack
    from mscsa_deploy.cli.serve_command import command as serve

    known = {option for command in (serve, pack) for parameter in command.params for option in parameter.opts}
    text = re.sub(r"```.*?```", "", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"(--[a-z][a-z-]+)", text)) - {"--output", "--batch"}
    assert named <= known


@pytest.mark.parametrize("name", ["serving.md", "scaling.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target
