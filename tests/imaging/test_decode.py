from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from mscsa_deploy.errors import UserError
from mscsa_deploy.imaging import decode as module
from mscsa_deploy.imaging.dataset import read_mask
from mscsa_deploy.imaging.decode import decode, is_readable


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_png_comes_back_unchanged(gradient, tmp_path):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png"), gradient)
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes()), gradient)


def test_result_is_contiguous_and_writable(gradient):
    image = decode(encoded(Image.fromarray(gradient)))
    assert image.flags.c_contiguous
    assert image.flags.writeable


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        pytest.param(3, lambda a: a[::-1, ::-1], id="upside-down"),
        pytest.param(6, lambda a: np.rot90(a, -1), id="turned-left"),
        pytest.param(8, lambda a: np.rot90(a, 1), id="turned-right"),
        pytest.param(2, lambda a: a[:, ::-1], id="mirrored"),
    ],
)
def test_exif_orientation_is_applied(gradient, orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(Image.fromarray(gradient), exif=exif)), undo(gradient))


def test_gray_becomes_three_equal_channels(gradient):
    image = decode(encoded(Image.fromarray(gradient[..., 0])))
    assert np.array_equal(image, np.repeat(gradient[..., :1], 3, axis=2))


def test_sixteen_bit_gray_keeps_the_upper_byte(gradient):
    wide = gradient[..., 0].astype(np.uint16) * 257
    assert np.array_equal(decode(encoded(Image.fromarray(wide)))[..., 1], gradient[..., 0])


def test_sixteen_bit_tiff_is_not_clipped():
    wide = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = decode(encoded(Image.fromarray(wide), "TIFF"))
    assert np.array_equal(image[..., 0], (wide >> 8).astype(np.uint8))


def test_palette_becomes_its_colors():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    assert decode(encoded(picture)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_transparent_pixels_are_laid_over_white():
    pixels = np.array([[[200, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    # Half of black over white: 255 * (1 - 128 / 255).
    assert decode(encoded(Image.fromarray(pixels))).tolist() == [[[200, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_transparent_palette_entry_is_laid_over_white():
    picture = Image.new("P", (1, 1))
    picture.putpalette([1, 2, 3])
    assert decode(encoded(picture, transparency=0)).tolist() == [[[255, 255, 255]]]


def test_cmyk_jpeg_becomes_rgb():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = decode(encoded(cyan, "JPEG", quality=100))[4, 4].tolist()
    # JPEG rounding may move a level or two.
    assert red <= 3
    assert min(green, blue) >= 252


def test_one_bit_picture_is_black_and_white():
    assert decode(encoded(Image.fromarray(np.array([[True, False]])))).tolist() == [[[255] * 3, [0] * 3]]


def test_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 40], ids=["empty", "text", "broken"])
def test_what_is_no_picture_is_a_user_error(data):
    with pytest.raises(UserError, match="not a readable picture"):
        decode(data)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", ["exif.jpg", "exif.webp", "strips.tiff"])
def test_damage_that_pillow_trips_over_is_a_user_error(name):
    # Pillow raises a TypeError for each of them, which is no word on a picture.
    path = Path(__file__).parent / "damaged" / name
    with pytest.raises(UserError, match="not a readable picture"):
        decode(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_file_is_named(gradient, tmp_path, kind):
    data = encoded(Image.fromarray(np.kron(gradient, np.ones((8, 8, 1), np.uint8))), kind)
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cut' is not a readable picture"):
        decode(tmp_path / "cut")
    assert not is_readable(tmp_path / "cut")


@pytest.mark.parametrize(("kind", "damage"), [("PNG", bytes(40)), ("JPEG", b"\xff\xc8")])
def test_a_damaged_middle_is_found_before_the_picture_is_needed(tmp_path, kind, damage):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    middle = len(data) // 2
    (tmp_path / "hurt").write_bytes(data[:middle] + damage + data[middle + len(damage) :])
    with pytest.raises(UserError, match="hurt' is not a readable picture"):
        decode(tmp_path / "hurt")
    assert not is_readable(tmp_path / "hurt")


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        decode(tmp_path / "none.png")


def test_directory_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        decode(tmp_path)


def test_huge_declared_size_is_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 63)
    with pytest.raises(UserError, match="8x8 pixels"):
        decode(encoded(Image.new("RGB", (8, 8))))


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_a_picture_longer_than_any_model_sees_is_refused_before_decoding(monkeypatch, tmp_path, size):
    data = encoded(Image.new("L", size))
    (tmp_path / "long.png").write_bytes(data)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} pixels, expected at most 65535 on a side"):
        decode(data)
    assert not is_readable(tmp_path / "long.png")
    with pytest.raises(UserError, match=r"mask '.*long.png' has .* expected at most 65535 on a side"):
        read_mask(tmp_path / "long.png")


def test_float_picture_is_refused():
    with pytest.raises(UserError, match="floating-point"):
        decode(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


def test_thirty_two_bit_values_are_refused():
    with pytest.raises(UserError, match="32-bit"):
        decode(encoded(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"))


def test_whole_files_are_readable(gradient, tmp_path):
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        (tmp_path / kind).write_bytes(encoded(Image.fromarray(gradient), kind))
        assert is_readable(tmp_path / kind)
