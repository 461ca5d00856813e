"""What the documents tell a reader to type is understood."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from mscsa_deploy.cli.app import app
from mscsa_deploy.core.config import convert
from mscsa_deploy.imaging.layouts import PictureFolders
from mscsa_deploy.imaging.preprocess import Preprocess

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/serving.md", "docs/scaling.md", "docs/other-runtimes.md")
DOCUMENTS += tuple(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/*/README.md")))
DOCUMENTS += tuple(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/README.md")))
LEFT_OPEN = ("...", "[", "]")


def commands():
    """Every call of the command line in the documents' indented or fenced blocks, that is all there."""
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ *(?:\S*/bin/)?mscsa-deploy (\w.*)$", text, re.MULTILINE):
            words = shlex.split(line.partition(" | ")[0].rstrip("&"), comments=True)
            if not any(part in word for word in words for part in LEFT_OPEN):
                yield pytest.param(words, id=f"{name}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_of_the_documents_is_understood(words):
    name, *arguments = words
    command = app.get_command(click.Context(app), name)
    try:
        command.make_context(name, arguments)
    except click.exceptions.Exit as error:
        assert error.exit_code == 0  # noqa: PT017 - of --help


def test_the_documents_were_read():
    names = {parameter.values[0][0] for parameter in commands()}
    assert {"deploy", "export", "quantize", "verify", "benchmark", "compare", "predict", "pack", "serve"} <= names


def test_the_toml_of_the_readme_is_an_image_set_and_a_preprocessing():
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    folders, spec = map(tomllib.loads, blocks)
    assert convert(folders, PictureFolders, source="README.md").reduce_zero_label
    assert convert(spec, Preprocess, source="README.md") == Preprocess(height=224, width=224)


def test_recipes_give_ncnn_an_array_that_outlives_the_call():
    text = (ROOT / "docs" / "other-runtimes.md").read_text(encoding="utf-8")
    trees = [ast.parse(block) for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = [call.args[0] for call in calls if ast.unparse(call.func) == "ncnn.Mat"]
    assert given
    # A Mat points into the array that it is made of, and keeps no reference to it.
    assert all(isinstance(array, ast.Name) for array in given)
