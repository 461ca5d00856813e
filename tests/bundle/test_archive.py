"""Zips: the same bytes for the same bundle, and no crafted archive gets past the door."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile

import pytest

from mscsa_deploy.bundle import archive as module
from mscsa_deploy.bundle import store
from mscsa_deploy.bundle.archive import pack, unpack
from mscsa_deploy.bundle.store import read_bundle
from mscsa_deploy.errors import UserError


@pytest.fixture
def packed(bundle, tmp_path):
    return pack(bundle.root, tmp_path / "bundle.zip")


def rewritten(packed, out, change=lambda _, data: data, extra=()):
    """The zip with its members changed, and further (name or ZipInfo, data) members."""
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            data = change(info.filename, source.read(info))
            if data is not None:
                target.writestr(info.filename, data)
        for name, data in extra:
            target.writestr(name, data)
    return out


def refused(path, tmp_path, message):
    with pytest.raises(UserError, match=message):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [place.name for place in tmp_path.iterdir() if place.name.startswith(".out")] == []


def test_pack_unpack_round_trip(bundle, packed, tmp_path):
    assert unpack(packed, tmp_path / "out") == bundle.manifest
    again = read_bundle(tmp_path / "out")
    assert again.manifest == bundle.manifest
    names = sorted(path.relative_to(bundle.root) for path in bundle.root.rglob("*"))
    assert sorted(path.relative_to(again.root) for path in again.root.rglob("*")) == names


def test_pack_twice_gives_equal_bytes(bundle, packed, tmp_path):
    for path in bundle.root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert pack(bundle.root, tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_pack_leaves_unlisted_files_behind(bundle, tmp_path):
    (bundle.root / "private.txt").write_text("mine")
    with zipfile.ZipFile(pack(bundle.root, tmp_path / "x.zip")) as archive:
        assert archive.namelist()[0] == "manifest.json"
        assert "private.txt" not in archive.namelist()


def test_pack_existing_file_refused_unless_forced(bundle, packed):
    with pytest.raises(UserError, match="already exists"):
        pack(bundle.root, packed)
    pack(bundle.root, packed, force=True)


def test_pack_changed_bundle_refused(bundle, tmp_path):
    bundle.file("model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="sha256 differs"):
        pack(bundle.root, tmp_path / "x.zip")
    assert list(tmp_path.glob("*.zip")) == []


def test_read_bundle_zip_is_unpacked_into_the_cache_once(bundle, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    first = read_bundle(packed)
    assert first.root.is_relative_to(tmp_path / "cache")
    stamp = first.file("model.onnx").stat().st_mtime_ns
    assert read_bundle(packed).file("model.onnx").stat().st_mtime_ns == stamp
    first.file("model.onnx").write_bytes(b"tampered")
    assert read_bundle(packed).file("model.onnx").read_bytes() == bundle.file("model.onnx").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/evil",
        "..\\evil",
        "C:\\evil",
        "C:evil",
        "a//b",
        "./a",
        "a/./b",
        "x\n",
        "dot./a",
        "",
        "a\x7fb",
        "gpj\u202eexe",
    ],
)
def test_unpack_unsafe_name_refused(packed, tmp_path, name):
    refused(rewritten(packed, tmp_path / "x.zip", extra=[(zipfile.ZipInfo(name), b"x")]), tmp_path, "unsafe file name")
    assert not (tmp_path / "evil").exists()


def test_unpack_name_with_hidden_tail_refused(packed, tmp_path):
    # zipfile cuts names at a NUL byte; what comes after it must not go unseen.
    path = rewritten(packed, tmp_path / "x.zip", extra=[("aXb", b"x")])
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    refused(path, tmp_path, "unsafe file name")


@pytest.mark.parametrize("header", ["PK\x01\x02", "PK\x03\x04"], ids=["directory", "before the file"])
def test_unpack_name_that_is_not_the_utf8_it_claims_refused(packed, tmp_path, header):
    content = bytearray(packed.read_bytes())
    place = content.rindex(header.encode())
    flags, name = (8, 46) if header == "PK\x01\x02" else (6, 30)
    content[place + flags + 1] |= 8
    content[place + name] = 0xFF
    (tmp_path / "x.zip").write_bytes(bytes(content))
    refused(tmp_path / "x.zip", tmp_path, "not a valid bundle zip: 'utf-8' codec")


def test_unpack_long_name_refused(packed, tmp_path):
    refused(rewritten(packed, tmp_path / "x.zip", extra=[("n" * 256, b"x")]), tmp_path, "too long")


def test_unpack_file_in_place_of_a_folder_refused(packed, tmp_path):
    def listed(name, data):
        if name != "manifest.json":
            return data
        plain = json.loads(data)
        plain["files"] += [{**plain["files"][0], "path": path} for path in ("a", "a/b")]
        return json.dumps(plain).encode()

    path = rewritten(packed, tmp_path / "x.zip", listed, extra=[("a", b"x"), ("a/b", b"x")])
    refused(path, tmp_path, "'a' as a file and as a folder")


def test_unpack_name_and_folder_alike_refused(packed, tmp_path):
    refused(rewritten(packed, tmp_path / "x.zip", extra=[("readme.md/", b"")]), tmp_path, "twice")


def test_unpack_damaged_place_of_a_file_refused(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 42 : place + 46] = struct.pack("<I", len(content) + 1000)
    (tmp_path / "x.zip").write_bytes(bytes(content))
    refused(tmp_path / "x.zip", tmp_path, "not a valid bundle zip")


def test_unpack_link_refused(packed, tmp_path):
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(rewritten(packed, tmp_path / "x.zip", extra=[(info, b"/etc/passwd")]), tmp_path, "link or a special file")


@pytest.mark.parametrize("name", ["README.md", "readme.MD"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unpack_repeated_name_refused(packed, tmp_path, name):
    refused(rewritten(packed, tmp_path / "x.zip", extra=[(name, b"x")]), tmp_path, "twice")


def test_unpack_unlisted_file_refused(packed, tmp_path):
    refused(rewritten(packed, tmp_path / "x.zip", extra=[("run.sh", b"x")]), tmp_path, "does not list: run.sh")


def test_unpack_missing_file_refused(packed, tmp_path):
    path = rewritten(packed, tmp_path / "x.zip", lambda name, data: None if name == "model.onnx" else data)
    refused(path, tmp_path, f"'model.onnx' is missing from the bundle '{path}'")


def test_unpack_changed_file_refused(packed, tmp_path):
    path = rewritten(packed, tmp_path / "x.zip", lambda name, data: data[::-1] if name == "README.md" else data)
    refused(path, tmp_path, f"of the bundle '{path}' is not .* \\(sha256 differs\\)")


def test_unpack_longer_file_than_listed_stops_early(packed, tmp_path):
    path = rewritten(packed, tmp_path / "x.zip", lambda name, data: data * 9 if name == "README.md" else data)
    refused(path, tmp_path, "longer than its manifest says")


def test_unpack_bomb_refused_before_it_is_unpacked(packed, tmp_path):
    bomb = rewritten(packed, tmp_path / "x.zip", extra=[("zeros", bytes(module.ALWAYS_ALLOWED_BYTES + 1))])
    assert bomb.stat().st_size < 1 << 20
    refused(bomb, tmp_path, "more than a bundle does")


def test_unpack_bomb_that_lies_about_its_size_refused(packed, tmp_path):
    data = bytes(1 << 20)
    path = rewritten(packed, tmp_path / "x.zip", extra=[("zeros", data)])
    content = bytearray(path.read_bytes())
    place = content.rindex(struct.pack("<I", len(data)))  # the size in the central directory
    content[place : place + 4] = struct.pack("<I", 10)
    path.write_bytes(bytes(content))
    refused(path, tmp_path, "does not list: zeros|not a valid bundle zip")


def test_unpack_many_files_refused(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 3)
    refused(packed, tmp_path, "holds at most 3")


def test_unpack_encrypted_refused(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    (tmp_path / "x.zip").write_bytes(bytes(content))
    refused(tmp_path / "x.zip", tmp_path, "encrypted")


def test_unpack_without_manifest_at_the_top_refused(bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(bundle.root / "manifest.json", "folder/manifest.json")
    refused(tmp_path / "x.zip", tmp_path, "no manifest.json at its top")


def test_unpack_newer_version_refused(packed, tmp_path):
    def newer(name, data):
        return json.dumps(json.loads(data) | {"schema_version": 9}).encode() if name == "manifest.json" else data

    refused(rewritten(packed, tmp_path / "x.zip", newer), tmp_path, "schema version 9")


@pytest.mark.parametrize("cut", [0.3, 0.98])
def test_unpack_truncated_refused(packed, tmp_path, cut):
    content = packed.read_bytes()
    (tmp_path / "x.zip").write_bytes(content[: int(len(content) * cut)])
    refused(tmp_path / "x.zip", tmp_path, "not a valid bundle zip")


def test_unpack_damaged_data_refused(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    for place in range(200, 400):
        content[place] ^= 0x5A
    (tmp_path / "x.zip").write_bytes(bytes(content))
    refused(tmp_path / "x.zip", tmp_path, "valid")


def test_read_bundle_zip_that_others_just_unpacked_is_left_alone(bundle, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("MSCSA_DEPLOY_CACHE", str(tmp_path / "cache"))
    inodes = []

    def overtaken(path, place, **given):
        """Another process ends first."""
        unpack(path, place, **given)
        inodes.append(place.stat().st_ino)
        return unpack(path, place, **given)

    monkeypatch.setattr(store, "unpack", overtaken)
    read = read_bundle(packed)
    assert read.manifest == bundle.manifest
    assert [read.root.stat().st_ino] == inodes


def test_unpack_plain_zip_of_the_folder_is_fine(bundle, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(bundle.root.rglob("*")):
            archive.write(path, path.relative_to(bundle.root))
    assert unpack(tmp_path / "x.zip", tmp_path / "out") == bundle.manifest


def test_unpack_missing_file_named(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        unpack(tmp_path / "none.zip", tmp_path / "out")
