"""Where finished work is kept, and outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mscsa_deploy.core.files import cache_root, content_key, output_directory, output_file, refuse_existing
from mscsa_deploy.errors import StageError, UserError


def test_a_cache_that_cannot_be_made_is_told_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be made") as caught:
        cache_root()
    assert "MSCSA_DEPLOY_CACHE" in caught.value.hint


def test_the_key_changes_with_any_part_and_not_with_their_order():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1, "b": 2}) != content_key({"a": 1, "b": 3})


@pytest.mark.parametrize("output", [output_directory, output_file])
def test_a_full_disk_leaves_nothing_and_keeps_what_stood_there(output, tmp_path):
    place = tmp_path / "out"
    with output(place) as work:
        (work / "manifest.json" if work.is_dir() else work).write_text('{"made_by": "us"}')
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fail():
        with output(place, force=True):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StageError, match="No space left"):
        fail()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def write_to(output, place, *, force=False):
    with output(place, force=force) as work:
        (work / "a" if work.is_dir() else work).write_text("new")


@pytest.mark.parametrize("manifest", [None, '{"name": "my browser extension"}'])
def test_force_replaces_no_directory_that_is_not_ours(tmp_path, manifest):
    mine = tmp_path / "project"
    mine.mkdir()
    (mine / "thesis.tex").write_text("precious")
    if manifest is not None:
        (mine / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="something else than an output of mscsa-deploy"):
        write_to(output_directory, mine, force=True)
    assert (mine / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("content", [None, '{"schema_version": 1}', '{"made_by": "mscsa-deploy 0.1.0"}'])
def test_force_replaces_what_is_empty_or_ours(tmp_path, content):
    (tmp_path / "out").mkdir()
    if content is not None:
        (tmp_path / "out" / "manifest.json").write_text(content)
    write_to(output_directory, tmp_path / "out", force=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_here_is_a_place_like_any_other(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_to(output_directory, Path(), force=True)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("here"), Path("here/a")]


@pytest.mark.parametrize("output", [output_directory, output_file])
def test_a_place_that_cannot_be_written_is_the_users_mistake(output, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"'.*file' is a file, expected a directory"):
        write_to(output, tmp_path / "file" / "deep" / "out")
    # Nobody can make a file there, not even who may do everything.
    with pytest.raises(UserError, match="cannot write in '/proc': "):
        write_to(output, Path("/proc/out"))


def test_a_file_does_not_replace_a_directory(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is a directory, expected a file"):
        write_to(output_file, tmp_path / "out", force=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_place_is_told_before_the_work(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(UserError, match=r"cannot write in .*locked.*permission"):
        refuse_existing(tmp_path / "locked" / "deep" / "out", force=False)


def test_only_a_full_disk_asks_for_space(tmp_path):
    with pytest.raises(StageError, match=r"gone\.npy") as caught, output_directory(tmp_path / "out"):
        (tmp_path / "gone.npy").read_bytes()
    assert "space" not in str(caught.value)


@pytest.mark.parametrize("output", [output_directory, output_file])
def test_what_another_process_made_meanwhile_is_not_replaced(output, tmp_path):
    place = tmp_path / "out"
    with pytest.raises(UserError, match="already exists"), output(place):
        place.write_text("theirs")
    assert place.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [place]


def test_a_directory_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch):
    place = tmp_path / "out"
    write_to(output_directory, place)
    (place / "manifest.json").write_text('{"made_by": "mscsa-deploy"}')
    rename = Path.rename

    def failing(path, target):
        if target == place and path.name != "was":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StageError, match="cross-device"):
        write_to(output_directory, place, force=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "manifest.json", "out"]
