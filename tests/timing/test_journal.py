"""What a kept measurement is a measurement of."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from mscsa_deploy.timing.journal import file_hash, row_key


def test_a_row_is_known_by_what_its_files_hold_and_not_by_where_they_lie(acting, tmp_path: Path) -> None:
    row = acting("row")
    key = row_key(row)
    moved = shutil.copy(row.path, tmp_path / "elsewhere.fake")
    assert row_key(msgspec.structs.replace(row, path=str(moved))) == key
    assert row_key(msgspec.structs.replace(row, threads=2)) != key
    Path(row.path).write_text('{"name": "row", "ms": [0.3]}')
    assert row_key(row) != key


def test_weights_beside_a_model_are_part_of_what_a_row_is_known_by(acting, tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.write_text("<net/>")
    weights = path.with_suffix(".bin")
    weights.write_bytes(b"\x00\x01")
    row = msgspec.structs.replace(acting("row"), path=str(path))
    key = row_key(row)
    assert row_key(row) == key
    weights.write_bytes(b"\x01\x00")
    os.utime(weights, ns=(1, 1))
    assert row_key(row) != key
    path.unlink()
    assert file_hash(str(path)) == ""
