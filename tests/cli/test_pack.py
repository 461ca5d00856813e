"""`pack` and `unpack`: one file, same bytes, whole or not at all."""

from __future__ import annotations

import zipfile

import pytest

from mscsa_deploy.workflow.pack import FORMATS

pytest.importorskip("onnx")


@pytest.fixture
def bundle(make, tmp_path):
    return make.bundle(tmp_path / "bundle")


def test_there_and_back_again(cli, bundle, tmp_path):
    packed = cli("pack", bundle, "-o", tmp_path / "a.zip", "--json").json
    assert packed["size_bytes"] == (tmp_path / "a.zip").stat().st_size
    outcome = cli("unpack", tmp_path / "a.zip", "-o", tmp_path / "again", "--json")
    assert (outcome.code, outcome.json["model"], outcome.json["task"]) == (0, "colors", "seg")
    files = {path.relative_to(bundle): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    again = tmp_path / "again"
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()} == files


def test_a_place_is_told_as_it_is_called_and_in_one_piece(cli, bundle, tmp_path):
    place = tmp_path / ("Büro [red] " + "long " * 30) / "a.zip"
    assert f"wrote {place} (" in cli("pack", bundle, "-o", place).out
    unpacked = place.parent / "[/bold]"
    assert cli("unpack", place, "-o", unpacked).out.rstrip().endswith(str(unpacked))


def test_equal_bundles_give_equal_files(cli, bundle, tmp_path):
    first = cli("pack", bundle, "-o", tmp_path / "a.zip", "--json").json["sha256"]
    assert cli("pack", bundle, "-o", tmp_path / "b.zip", "--json").json["sha256"] == first


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_writes_a_zip(cli, bundle, tmp_path, kind):
    outcome = cli("pack", bundle, "-o", tmp_path / "out.zip", "--format", kind, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["format"] == kind
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist()


def test_formats_of_the_option_are_those_that_exist(cli):
    text = cli("pack", "--help").out
    assert "|".join(FORMATS) in text


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_nothing_is_overwritten_without_force(cli, bundle, tmp_path, verb):
    cli("pack", bundle, "-o", tmp_path / "a.zip")
    if verb == "pack":
        arguments, place = ("pack", bundle, "-o", tmp_path / "b.zip"), tmp_path / "b.zip"
        place.write_text("precious")
    else:
        arguments, place = ("unpack", tmp_path / "a.zip", "-o", tmp_path / "out"), tmp_path / "out"
        place.mkdir()
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "already exists" in outcome.err
    assert place.is_dir() or place.read_text() == "precious"
    assert cli(*arguments, "--force").code == 0


def test_a_changed_bundle_is_not_packed(cli, bundle, tmp_path):
    (bundle / "model.onnx").write_bytes(b"other")
    outcome = cli("pack", bundle, "-o", tmp_path / "a.zip")
    assert outcome.code == 2
    assert "sha256 differs" in outcome.err
    assert not (tmp_path / "a.zip").exists()


def test_a_damaged_zip_leaves_nothing(cli, bundle, tmp_path):
    cli("pack", bundle, "-o", tmp_path / "a.zip")
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: len(data) // 2])
    outcome = cli("unpack", tmp_path / "a.zip", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("pack", "nowhere", "-o", "x.zip"), "is not there, expected a bundle directory", id="missing"),
        pytest.param(("pack", "file", "-o", "x.zip"), "is a file, expected a bundle directory", id="file"),
        pytest.param(("pack", "bundle", "-o", "folder"), "is a directory, expected a file", id="onto a directory"),
        pytest.param(("pack", "bundle", "-o", "bundle/x.zip"), "inside the bundle", id="into itself"),
        pytest.param(("pack", "folder", "-o", "x.zip"), "no bundle", id="no bundle"),
        pytest.param(("pack", "folder", "-o", "folder/x.zip"), "'folder' is no bundle", id="into no bundle"),
        pytest.param(("unpack", "nowhere.zip", "-o", "x"), "is not there, expected a bundle zip", id="no zip"),
        pytest.param(("unpack", "folder", "-o", "x"), "is a directory, expected a bundle zip", id="directory"),
        pytest.param(("unpack", "file", "-o", "x"), "not a valid bundle zip", id="no zip file"),
    ],
)
def test_mistakes_are_told(cli, bundle, tmp_path, monkeypatch, *, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert words in outcome.err
