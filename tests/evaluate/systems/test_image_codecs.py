# SPDX-License-Identifier: GPL-3.0-or-later
"""The image codecs of separate coding."""

import sys

import numpy as np
import pytest
from skimage.data import astronaut, chelsea

from diffjscc.evaluate.systems.image_codecs import IMAGE_CODECS, encode_within, find_image_codec
from diffjscc.evaluate.systems.image_codecs.base import MID_GREY, salvaged
from diffjscc.images import to_tensor
from diffjscc.metrics import psnr

CODECS = ("hevc", "av1", "jpeg2000")

PHOTOGRAPH = astronaut()[:192, 128:384]


def quality(codec, data, pixels):
    return psnr(to_tensor(codec.decode(data, *pixels.shape[:2])), to_tensor(pixels))


def nal_units(data):
    """Types of the units of an HEVC stream in Annex B's format."""
    starts = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\0\0\1"]
    return [(data[start + 3] >> 1) & 63 for start in starts]


@pytest.mark.parametrize("name", CODECS)
def test_the_finest_setting_that_fits_is_found(name):
    codec = find_image_codec(name)
    settings = list(codec.settings())
    for limit in (700, 2500):
        encoded = encode_within(codec, PHOTOGRAPH, limit)
        finer = settings[settings.index(encoded.setting) + 1]
        assert len(encoded.data) <= limit < len(codec.encode(PHOTOGRAPH, finer))


@pytest.mark.parametrize("name", CODECS)
def test_more_bytes_are_more_quality_and_too_few_are_none(name):
    codec = find_image_codec(name)
    values = [quality(codec, encode_within(codec, PHOTOGRAPH, limit).data, PHOTOGRAPH) for limit in (700, 2500, 9000)]
    assert values[0] + 2 < values[1] and values[1] + 2 < values[2]
    assert encode_within(codec, PHOTOGRAPH, 20) is None


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("height", "width"), [(33, 47), (65, 130)])
def test_images_of_any_size_keep_it(name, height, width):
    codec = find_image_codec(name)
    pixels = chelsea()[:height, :width]
    encoded = encode_within(codec, pixels, 4000)
    assert codec.decode(encoded.data, height, width).shape == (height, width, 3)
    assert quality(codec, encoded.data, pixels) > 28


@pytest.mark.parametrize("name", CODECS)
def test_the_same_image_gives_the_same_bytes(name):
    codec = find_image_codec(name)
    assert codec.encode(PHOTOGRAPH, codec.coarsest) == codec.encode(PHOTOGRAPH, codec.coarsest)


def test_hevc_is_parameter_sets_and_one_slice_and_nothing_else():
    data = find_image_codec("hevc").encode(PHOTOGRAPH, 40)
    # VPS, SPS, PPS and an IDR frame; no SEI (39, 40) and no access unit delimiter (35).
    assert nal_units(data) in ([32, 33, 34, 19], [32, 33, 34, 20])


def test_hevc_has_the_bytes_and_the_quality_that_were_measured_for_it():
    """Of astronaut at QP 51 and 43: kept here so that a change of the encoder's options shows."""
    codec, pixels = find_image_codec("hevc"), astronaut()
    for setting, size, db in ((51, 1199, 22.41), (43, 3447, 26.73)):
        data = codec.encode(pixels, setting)
        assert len(data) == pytest.approx(size, rel=0.02)
        assert quality(codec, data, pixels) == pytest.approx(db, abs=0.05)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_of_hevc_that_ends_early_the_beginning_is_shown_and_the_rest_is_even(share):
    codec, pixels = find_image_codec("hevc"), astronaut()
    data = encode_within(codec, pixels, 4000).data
    shown, any_of_it = salvaged(codec, data[: int(share * len(data))], *pixels.shape[:2])
    again, _ = salvaged(codec, data[: int(share * len(data))], *pixels.shape[:2])
    whole = codec.decode(data, *pixels.shape[:2])
    assert any_of_it and np.array_equal(shown, again)
    # The first coding tree unit is right but for the filters at its border.
    assert np.abs(shown[:48, :48].astype(int) - whole[:48, :48]).max() <= 2
    assert np.ptp(shown[-64:, -64:].reshape(-1, 3), axis=0).max() == 0


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", ["empty", "noise", "beginning"])
def test_of_what_cannot_be_decoded_a_grey_image_is_shown(name, kind):
    codec = find_image_codec(name)
    whole = encode_within(codec, PHOTOGRAPH, 2500).data
    data = {"empty": b"", "noise": np.random.default_rng(0).bytes(500), "beginning": whole[:30]}[kind]
    shown, any_of_it = salvaged(codec, data, *PHOTOGRAPH.shape[:2])
    assert not any_of_it
    assert shown.shape == PHOTOGRAPH.shape and (shown == MID_GREY).all()


def test_hevc_survives_bytes_of_every_kind():
    codec = find_image_codec("hevc")
    whole = bytearray(encode_within(codec, PHOTOGRAPH, 1500).data)
    random = np.random.default_rng(1)
    for _ in range(25):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 8):
            damaged[place] = random.integers(256)
        shown, _ = salvaged(codec, bytes(damaged), *PHOTOGRAPH.shape[:2])
        assert shown.shape == PHOTOGRAPH.shape and shown.dtype == np.uint8


def test_bpg_is_refused_where_its_tools_are_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="^image codec 'bpg' needs bpgenc, which is not on the PATH"):
        IMAGE_CODECS["bpg"]()


#: A tool with bpgenc's and bpgdec's options, which writes JPEG: QP 51 is quality 1.
TOOL = """#!{python}
import sys
from PIL import Image
options = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2]))
image = Image.open(sys.argv[-1]).convert("RGB")
if "-q" in options:
    image.save(options["-o"], "JPEG", quality=100 - 99 * int(options["-q"]) // 51)
else:
    image.save(options["-o"], "PNG")
"""


def test_bpg_calls_the_tools_with_their_options(tmp_path, monkeypatch):
    for name in ("bpgenc", "bpgdec"):
        tool = tmp_path / name
        tool.write_text(TOOL.format(python=sys.executable))
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    codec = IMAGE_CODECS["bpg"]()
    encoded = encode_within(codec, PHOTOGRAPH, 4000)
    assert len(encoded.data) <= 4000
    assert quality(codec, encoded.data, PHOTOGRAPH) > 20
    with pytest.raises(ValueError, match="^bpgdec: "):
        codec.decode(b"nothing", *PHOTOGRAPH.shape[:2])


def test_a_missing_codec_is_named_in_one_line():
    with pytest.raises(ValueError, match=r"^no image codec is called 'hvec' \(did you mean 'hevc'\?\)"):
        find_image_codec("hvec")
