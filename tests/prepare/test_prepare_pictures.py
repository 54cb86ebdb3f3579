"""Pictures as they come: right colours or a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from recbole_prism.prepare.pictures import Unusable, decode
from tests.prepare.pictures_made import encode, jpeg  # skips without Pillow


def rgb(data):
    picture, _ = decode(data)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def test_transparency_lies_on_white():
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    layer.putpixel((0, 0), (0, 0, 255, 255))
    layer.putpixel((1, 0), (0, 0, 0, 128))
    pixels = rgb(encode(layer, "PNG"))
    assert pixels[3, 3].tolist() == [255, 255, 255] and pixels[0, 0].tolist() == [0, 0, 255]
    assert abs(pixels[0, 1] - 127).max() <= 1


def test_palette_with_and_without_transparency():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30] + [0] * 762)
    assert rgb(encode(picture, "PNG"))[0, 0].tolist() == [10, 200, 30]
    assert rgb(encode(picture, "PNG", transparency=1))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey(mode):
    picture = Image.new("L", (4, 4), 255 if mode == "1" else 90).convert(mode)
    assert set(rgb(encode(picture, "PNG")).ravel()) == {255 if mode == "1" else 90}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16).repeat(4, axis=0)
    pixels = rgb(encode(Image.fromarray(values), kind))[0, :, 0]
    assert pixels.tolist() == [0, 1, 128, 255]


def test_16_bit_colour_png():
    row = b"\0" + struct.pack(">3H", 65535, 32768, 0) * 2
    chunks = [(b"IHDR", struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * 2)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert rgb(data)[0, 0].tolist() == [255, 128, 0]


def test_cmyk_jpeg_is_not_inverted():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = rgb(encode(red, "JPEG", quality=95))[8, 8]
    assert pixels[0] > 240 and pixels[1] < 15 and pixels[2] < 15


def test_broken_colour_profile_is_no_reason_to_fail():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert rgb(encode(red, "JPEG", quality=95, icc_profile=b"not a profile"))[8, 8][0] > 240
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert rgb(encode(Image.new("RGB", (8, 8), (9, 99, 199)), "PNG", icc_profile=profile))[0, 0].tolist() == [
        9,
        99,
        199,
    ]


def test_exif_orientation_turns_the_picture():
    picture = Image.new("RGB", (20, 10), (0, 0, 0))
    picture.paste((255, 0, 0), (0, 0, 10, 10))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = rgb(encode(picture, "JPEG", exif=exif, quality=95))
    assert pixels.shape[:2] == (20, 10) and pixels[2, 5][0] > 200 and pixels[17, 5][0] < 60


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
        assert rgb(data)[0, 0].tolist() == [255, 0, 0]


def test_webp_and_bmp():
    for kind in ("WEBP", "BMP"):
        assert abs(rgb(encode(Image.new("RGB", (8, 8), (200, 20, 20)), kind))[4, 4] - [200, 20, 20]).max() < 12


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>no</html>", "not an image of a known format"),
        (jpeg()[:300], "damaged|not an image"),
        (jpeg()[:-100], "damaged: image file is truncated"),
        (encode(Image.new("RGB", (50, 50)), "PNG")[:-30], "damaged"),
        (encode(Image.new("L", (3000, 10)), "PNG"), "sides too unequal"),
        (encode(Image.new("F", (4, 4)), "TIFF"), "pixel format F has no certain colours"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    ],
)
def test_unusable_pictures_have_a_reason(data, reason):
    with pytest.raises(Unusable, match=reason):
        decode(data)


def test_a_bomb_is_not_decoded():
    """A header that promises more pixels than any memory has, and one that is merely too large."""
    header = struct.pack(">2I5B", 300_000, 300_000, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    data += struct.pack(">I", 4) + b"IDAT" + b"\0" * 8
    with pytest.raises(Unusable, match="bomb|pixels, more than"):
        decode(data)
    with pytest.raises(Unusable, match="100 x 100 pixels, more than 9999"):
        decode(encode(Image.new("RGB", (100, 100)), "PNG"), max_pixels=9999)


def test_a_file_or_no_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert decode(tmp_path / "a.jpg")[1] == "JPEG"
    with pytest.raises(Unusable, match="damaged"):
        decode(tmp_path / "b.jpg")


@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_damaged_bytes_never_raise_anything_else(kind, damage):
    data = bytearray(encode(Image.new("RGB", (20, 20), (1, 2, 3)), ["JPEG", "PNG", "GIF", "TIFF"][kind]))
    for place, value in damage:
        data[place % len(data)] = value
    try:
        assert decode(bytes(data))[0].mode == "RGB"
    except Unusable as error:
        assert str(error)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes_never_raise_anything_else(data):
    try:
        decode(io.BytesIO(data).getvalue())
    except Unusable as error:
        assert str(error)
