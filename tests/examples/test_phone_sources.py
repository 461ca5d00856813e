"""The sources for phones are not built here; that they are Kotlin and Swift at all can be seen from a parser."""

from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift

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
