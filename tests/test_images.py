# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in and out, the odd ones above all."""

import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image
from skimage import data

from diffjscc.images import find_images, read_image, to_pixels, to_tensor, unused_path, write_image

PHOTO = data.astronaut()[:64, :96]


def test_what_is_written_is_read_back_and_leaves_nothing_else(tmp_path):
    write_image(tmp_path / "new" / "photo.png", PHOTO)
    assert np.array_equal(read_image(tmp_path / "new" / "photo.png"), PHOTO)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["photo.png"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_image(tmp_path / "photo.png", PHOTO)
    with pytest.raises(TypeError):
        write_image(tmp_path / "photo.png", PHOTO.astype(np.float64))
    assert np.array_equal(read_image(tmp_path / "photo.png"), PHOTO)
    assert len(list(tmp_path.iterdir())) == 1


def test_tensors_and_pixels_are_inverse():
    tensor = to_tensor(PHOTO)
    assert tensor.shape == (3, 64, 96) and tensor.max() <= 1
    assert np.array_equal(to_pixels(tensor), PHOTO)


def test_a_truncated_png_is_refused(tmp_path):
    write_image(tmp_path / "photo.png", PHOTO)
    whole = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "photo.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"photo\.png: damaged or cut short"):
        read_image(tmp_path / "photo.png")


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_a_16_bit_tiff_is_scaled_to_8_bits(tmp_path, mode):
    grey = (PHOTO[..., 0].astype(np.uint16) * 257).astype(np.uint16 if mode == "I;16" else np.int32)
    Image.fromarray(grey).save(tmp_path / "deep.tiff")
    assert np.array_equal(read_image(tmp_path / "deep.tiff"), np.repeat(PHOTO[..., :1], 3, axis=2))


def test_greyscale_becomes_three_equal_channels(tmp_path):
    Image.fromarray(PHOTO[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(PHOTO[..., :1], 3, axis=2))


def test_transparency_is_laid_over_white(tmp_path):
    alpha = np.zeros(PHOTO.shape[:2], np.uint8)
    alpha[:32] = 255
    Image.fromarray(np.dstack((PHOTO, alpha))).save(tmp_path / "rgba.png")
    pixels = read_image(tmp_path / "rgba.png")
    assert np.array_equal(pixels[:32], PHOTO[:32])
    assert (pixels[32:] == 255).all()


def test_a_palette_image_becomes_rgb(tmp_path):
    Image.fromarray(PHOTO).quantize(64).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == PHOTO.shape


def test_exif_orientation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (96, 64, 3)


def test_a_1x1_image_is_refused(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(ValueError, match="dot.png: image is 1×1 pixels: both sides must be at least 32"):
        read_image(tmp_path / "dot.png")


def test_a_small_file_that_claims_a_gigapixel_is_refused_before_it_is_unpacked(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ValueError, match="megapixels"):
        read_image(tmp_path / "bomb.png")


def test_text_under_an_image_name_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match="not an image that Pillow can read"):
        read_image(tmp_path / "notes.png")
    with pytest.raises(ValueError, match="no such file"):
        read_image(tmp_path / "absent.png")


def test_a_folder_is_searched_for_images_alone(tmp_path):
    write_image(tmp_path / "b.png", PHOTO)
    write_image(tmp_path / "a.PNG", PHOTO)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "sub.png").mkdir()
    assert [p.name for p in find_images(tmp_path)] == ["a.PNG", "b.png"]
    assert find_images(tmp_path / "b.png") == [tmp_path / "b.png"]
    assert [p.name for p in find_images(f"{tmp_path}/*.png")] == ["b.png"]


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no images in this folder"):
        find_images(tmp_path)
    with pytest.raises(ValueError, match="no such file, folder or pattern"):
        find_images(f"{tmp_path}/*.png")


def test_no_image_overwrites_another(tmp_path):
    for _ in range(3):
        write_image(unused_path(tmp_path, "000007"), PHOTO)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000007-2.png", "000007-3.png", "000007.png"]


def test_writing_changes_no_other_threads_file_modes(tmp_path):
    """The umask belongs to the process: reading it by setting it would open what other threads write meanwhile."""
    pixels, stop, modes = np.zeros((32, 32, 3), np.uint8), threading.Event(), set()

    def others():
        while not stop.is_set():
            path = tmp_path / "other"
            path.touch()
            modes.add(path.stat().st_mode & 0o777)
            path.unlink()

    before = os.umask(0o077)
    try:
        thread = threading.Thread(target=others)
        thread.start()
        for number in range(200):
            write_image(tmp_path / f"{number}.bmp", pixels)
        stop.set()
        thread.join()
    finally:
        os.umask(before)
    assert modes == {0o600}
    assert (tmp_path / "0.bmp").stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 200
