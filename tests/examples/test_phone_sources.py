"""The sources for phones are not built here; that they are Kotlin and Swift at all can be seen from a parser."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from PIL import Image

from mscsa_deploy.imaging.decode import decode

EXAMPLES = Path(__file__).parents[2] / "examples"
LANGUAGES = {".kt": tree_sitter_kotlin, ".swift": tree_sitter_swift}
SOURCES = sorted(path for ending in LANGUAGES for path in EXAMPLES.rglob(f"*{ending}"))


def wrong(node):
    """Where the parser found something that is not of the language, by line."""
    if node.type == "ERROR" or node.is_missing:
        return [node.start_point[0] + 1]
    return [line for child in node.children for line in wrong(child)]


def parsed(path, text):
    parser = tree_sitter.Parser(tree_sitter.Language(LANGUAGES[path.suffix].language()))
    return parser.parse(text.encode()).root_node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_sources_parse(path):
    text = path.read_text(encoding="utf-8")
    assert wrong(parsed(path, text)) == []
    # A brace less must not go unnoticed, or the line above proves nothing.
    assert wrong(parsed(path, text[: text.rindex("}")]))


@pytest.mark.parametrize("path", [each for each in SOURCES if each.stem == "Bundle"], ids=lambda path: path.name)
def test_the_version_comes_before_the_rest_of_the_manifest(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".swift":
        assert text.index("decode(Head.self") < text.index("decode(Manifest.self")
    else:
        assert text.index("manifest = understood(root)") < text.index("manifest.getJSON")


def nodes(node):
    """A node and all below it."""
    return [node, *(each for child in node.children for each in nodes(child))]


def outer(node):
    """The nodes around a node, the nearest first."""
    return [node.parent, *outer(node.parent)] if node.parent else []


@pytest.mark.parametrize("path", [each for each in SOURCES if each.stem == "Bundle"], ids=lambda path: path.name)
def test_what_a_manifest_lacks_becomes_the_app_s_own_error(path):
    """Nothing of the manifest is read where the parser's own error would get out."""
    swift = path.suffix == ".swift"
    reads, guard = (b"JSONDecoder().decode(", b"do {") if swift else (b"manifest.getJSON", b"reading {")
    root = parsed(path, path.read_text(encoding="utf-8"))
    calls = [node for node in nodes(root) if node.type == "call_expression"]
    found = [node for node in calls if node.text.removeprefix(b"try ").startswith(reads)]
    assert found
    for node in found:
        around = [each.text for each in outer(node) if each.text.startswith(guard)]
        assert around, node.text
        assert not swift or b"catch let error as DecodingError" in around[0]


@pytest.mark.parametrize("path", [each for each in SOURCES if each.stem == "Segmenter"], ids=lambda path: path.name)
def test_fusions_saved_in_an_ort_file_are_used(path):
    """ONNX Runtime leaves them out unless it is asked for them before the session is made."""
    text = path.read_text(encoding="utf-8")
    made = "ORTSession(env:" if path.suffix == ".swift" else "environment.createSession("
    assert text.index('"session.enable_saved_runtime_optimizations"') < text.index(made)


@pytest.mark.parametrize("place", ["android", "ios"])
def test_code_in_the_readme_calls_what_the_sources_have(place):
    """The block parses, and copying and checking are there."""
    readme = (EXAMPLES / place / "README.md").read_text(encoding="utf-8")
    [(language, block)] = re.findall(r"^```(\w+)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    ending = {"kotlin": ".kt", "swift": ".swift"}[language]
    assert wrong(parsed(Path(f"README{ending}"), block)) == []
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.suffix == ending)
    wanted = {"copyAssets", "check", "segment"} if place == "android" else {"check", "segment"}
    defined = set(re.findall(r"^ *(?:fun|func) (\w+)\(", sources, re.MULTILINE))
    called = set(re.findall(r"(\w+)\(", block))
    assert wanted <= called & defined


@pytest.mark.parametrize("place", ["android", "ios"])
def test_readme_names_the_file_that_the_app_looks_for(place, bundle):
    """For a bundle of `--device generic_x86`, which is what the examples' tests make."""
    readme = (EXAMPLES / place / "README.md").read_text(encoding="utf-8")
    entries = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    fitting = [entry for entry in entries if "onnxruntime" in entry["runtimes"] and not entry["requires"]]
    fitting = [entry for entry in fitting if entry["kind"] == "onnx" and entry["postprocess"]["decide"] == "argmax"]
    chosen = min(fitting, key=lambda entry: ("int8", "fp16", "fp32").index(entry["precision"]))
    assert f"`{chosen['path']}`" in readme


def test_transparent_pixels_are_laid_over_white_in_kotlin():
    """Its own expression, computed here for every value and alpha, against what Pillow makes of them."""
    text = (EXAMPLES / "android/app/src/main/kotlin/org/mscsadeploy/example/Segmenter.kt").read_text(encoding="utf-8")
    [expression] = re.findall(r"opaque = opaque shl 8 or (.+)", text)
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    found = eval(expression.replace("/", "//"), {"value": value, "alpha": alpha})
    layers = Image.fromarray(np.stack([value, value, value, alpha], axis=-1).astype(np.uint8))
    png = io.BytesIO()
    layers.save(png, "png")
    np.testing.assert_array_equal(found, decode(png.getvalue())[..., 0])
    # Before anything is resized.
    assert text.index("picture.getPixels(") < text.index("= overWhite(pixels[at])") < text.index("across.sum(x)")
