# SPDX-License-Identifier: GPL-3.0-or-later
"""Images from outside: the right ones arrive unchanged, the wrong ones cost neither memory nor the server."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffjscc.serve.images import check_pixels, thumbnail, to_bytes, to_pixels


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(width, height, data=b""):
    """A PNG file that claims a size, with ``data`` compressed inside."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@given(height=st.integers(16, 70), width=st.integers(16, 70), encoding=st.sampled_from(["raw", "png"]), flipped=st.booleans())
def test_raw_and_png_are_lossless_at_any_size_and_in_any_memory_order(height, width, encoding, flipped):
    pixels = noise(height, width)[::-1, ::-1] if flipped else noise(height, width)
    assert np.array_equal(to_pixels(to_bytes(pixels, encoding), width, height, encoding), pixels)


def test_jpeg_is_within_a_decibel_of_40():
    row = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(row, (48, 1))] * 3, axis=2)
    back = to_pixels(to_bytes(pixels, "jpeg"), 64, 48, "jpeg")
    assert 10 * np.log10(255**2 / np.mean((back.astype(float) - pixels) ** 2)) > 40


def test_a_grey_png_becomes_rgb():
    file = io.BytesIO()
    Image.new("L", (20, 16), 77).save(file, "PNG")
    assert (to_pixels(file.getvalue(), 20, 16, "png") == 77).all()


@pytest.mark.parametrize(
    "data, encoding, words",
    [
        (b"nonsense", "png", "not a png file"),
        (bytes(to_bytes(noise(16, 20), "png"))[:300], "png", "damaged or cut short"),
        (to_bytes(noise(16, 20), "jpeg"), "png", "not a png file"),
        (to_bytes(noise(16, 21), "png"), "png", "image is 21×16, declared as 20×16"),
        (png(20, 16, b"short"), "png", "damaged or cut short"),
        (bytes(959), "raw", "expected 960"),
        (b"", "jpeg", "empty"),
    ],
)
def test_a_wrong_image_is_refused_in_one_line(data, encoding, words):
    with pytest.raises(ValueError) as caught:
        to_pixels(data, 20, 16, encoding)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("declared", [(20, 16), (40_000, 36_000)])
def test_a_png_of_4_gb_inside_a_few_kilobytes_is_never_inflated(declared):
    begin = 4_000_000
    bomb = png(40_000, 36_000, bytes(begin))
    tracemalloc.start()
    with pytest.raises(ValueError):
        to_pixels(bomb, *declared, "png")
    assert tracemalloc.get_traced_memory()[1] < begin / 4
    tracemalloc.stop()


@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_a_damaged_file_is_an_image_or_a_value_error(position, value, cut):
    for encoding in ("png", "jpeg"):
        data = bytearray(to_bytes(noise(16, 20), encoding))
        data[position % len(data)] = value
        try:
            assert to_pixels(bytes(data[: len(data) - cut]), 20, 16, encoding).shape == (16, 20, 3)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("pixels", [None, np.zeros((16, 16, 3)), np.zeros((16, 16), np.uint8), np.zeros((3, 16, 16), np.uint8)])
def test_what_is_no_image_is_refused(pixels):
    with pytest.raises(ValueError, match="expected uint8"):
        check_pixels(pixels)


def test_a_thumbnail_is_a_small_jpeg():
    with Image.open(io.BytesIO(thumbnail(noise(512, 768), 320))) as image:
        assert image.format == "JPEG" and image.size == (320, 213)
