"""What the C++ programs decode, pixel by pixel against Python: with libjpeg-turbo, and without."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mscsa_deploy.imaging.decode import decode

EXAMPLES = Path(__file__).parents[3] / "examples"
SOURCES = ("jpeg.cpp", "orientation.cpp", "picture.cpp")
PICTURE = EXAMPLES / "images" / "river.jpg"
ORIENTATION = 0x0112
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def decoders(compiler, tmp_path_factory):
    """By library, what decodes a picture's file: a process with (H, W, 3) values, or the message."""
    folder = tmp_path_factory.mktemp("pixels")
    parts = [Path(__file__).with_name("pixels.cpp"), *(EXAMPLES / "cpp" / "src" / name for name in SOURCES)]
    common = [compiler, "-std=c++17", "-O0", "-w", f"-I{EXAMPLES / 'cpp' / 'src'}", *map(str, parts)]
    for name, switches in {"libjpeg": ("-DMSCSA_LIBJPEG", "-ljpeg"), "stb": ()}.items():
        subprocess.run([*common, *switches, "-o", str(folder / name)], check=True, timeout=200)

    def decoded(library, path):
        done = subprocess.run([folder / library, path], capture_output=True, timeout=60, check=False)
        if done.returncode:
            return done.stderr.decode()
        return np.frombuffer(done.stdout, np.uint8).astype(int)

    return decoded


def photo(size=(333, 217), mode="RGB"):
    with Image.open(PICTURE) as image:
        return image.convert(mode).resize(size)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        pytest.param("RGB", {"subsampling": "4:2:0"}, id="420"),
        pytest.param("RGB", {"subsampling": "4:2:2", "quality": 40}, id="422"),
        pytest.param("RGB", {"subsampling": "4:4:4", "progressive": True}, id="444-progressive"),
        pytest.param("RGB", {"keep_rgb": True}, id="stored-as-rgb"),
        pytest.param("L", {}, id="gray"),
        pytest.param("CMYK", {}, id="cmyk"),
    ],
)
def test_jpeg_has_the_values_of_python(decoders, tmp_path, mode, options):
    path = tmp_path / "picture.jpg"
    photo(mode=mode).save(path, **options)
    np.testing.assert_array_equal(decoders("libjpeg", path), decode(path).reshape(-1))


@pytest.mark.parametrize("path", sorted((EXAMPLES / "images").glob("*.jpg")), ids=lambda path: path.stem)
def test_jpeg_without_libjpeg_stays_within_what_the_readme_says(decoders, path):
    expected = decode(path).reshape(-1)
    np.testing.assert_array_equal(decoders("libjpeg", path), expected)
    difference = np.abs(decoders("stb", path) - expected)
    assert 0 < difference.max() <= 3
    assert (difference > 0).mean() < 0.06


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation_is_applied(decoders, tmp_path, ending, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    path = tmp_path / f"turned.{ending}"
    photo((60, 40)).save(path, exif=exif)
    assert decode(path).shape == ((60, 40, 3) if turn >= 5 else (40, 60, 3))
    np.testing.assert_array_equal(decoders("libjpeg", path), decode(path).reshape(-1))


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_refused(decoders, tmp_path, progressive):
    whole, part = tmp_path / "whole.jpg", tmp_path / "part.jpg"
    photo().save(whole, progressive=progressive)
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "is not a readable picture: the file is truncated" in decoders("libjpeg", part)


def test_picture_too_large_is_refused_by_its_header(decoders, tmp_path):
    path = tmp_path / "long.jpg"
    photo((64, 8)).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = (40_000).to_bytes(2, "big") * 2
    path.write_bytes(content)
    for library in ("libjpeg", "stb"):
        assert "has 40000x40000 pixels, expected at most 80 million" in decoders(library, path)


def test_png_whose_data_claim_gigabytes_is_refused(decoders, tmp_path):
    """stb_image fails then without telling why."""
    path = tmp_path / "claims.png"
    photo((64, 48)).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT")
    content[at - 4 : at] = (0xEE00_0000).to_bytes(4, "big")
    path.write_bytes(content)
    assert "is not a readable picture: " in decoders("libjpeg", path)
