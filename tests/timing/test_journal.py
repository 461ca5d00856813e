"""What a kept measurement is a measurement of."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from mscsa_deploy.timing.journal import row_key


def test_a_row_is_known_by_what_its_files_hold_and_not_by_where_they_lie(acting, tmp_path: Path) -> None:
    row = acting("row")
    key = row_key(row)
    moved = shutil.copy(row.path, tmp_path / "elsewhere.fake")
    assert row_key(msgspec.structs.replace(row, path=str(moved))) == key
    assert row_key(msgspec.structs.replace(row, threads=2)) != key
    Path(row.path).write_text('{"name": "row", "ms": [0.3]}')
    assert row_key(row) != key
