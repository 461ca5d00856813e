"""Where finished work is kept, and outputs that appear whole or not at all."""

from __future__ import annotations

import errno

import pytest

from mscsa_deploy.core.files import cache_root, content_key, output_directory, output_file
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
        (work / "a" if work.is_dir() else work).write_text("first")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fail():
        with output(place, force=True):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StageError, match="No space left"):
        fail()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
