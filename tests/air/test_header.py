# SPDX-License-Identifier: GPL-3.0-or-later
"""The burst header: what it can say, and what it refuses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjscc.air.header import (
    Fragment,
    codec_number,
    convolutional_code,
    crc24,
    header_bits,
    header_elements,
    pack_image,
    unpack_image,
)
from diffjscc.air.preset import HEADER_ELEMENTS, PRESETS
from diffjscc.symbols import ImageHeader


def lite_only(number):
    if number != codec_number("lite"):
        raise ValueError(f"codec number {number} is not installed")
    return "lite"


@given(
    image_id=st.integers(0, 2**32 - 1),
    width=st.integers(32, 1024),
    height=st.integers(32, 1024),
    rate=st.sampled_from(["1/256", "1/128", "1/64", "1/32", "1/16", "3/256"]),
    snr_db=st.floats(-24, 39.5),
    session=st.integers(0, 31),
    data=st.data(),
)
def test_a_header_comes_back_as_it_was_sent(image_id, width, height, rate, snr_db, session, data):
    header = ImageHeader(image_id, width, height, "lite", rate, snr_db)
    count = data.draw(st.integers(-(-header.symbol_count // 8191), min(64, header.symbol_count)))
    sent = Fragment(header, data.draw(st.integers(0, count - 1)), count, session)
    packed = pack_image(sent)
    assert len(packed) == 11
    got = unpack_image(packed, lite_only)
    assert (got.index, got.count, got.session, got.length) == (sent.index, sent.count, sent.session, sent.length)
    assert got.header.image_id == image_id % 65536
    assert (got.header.width, got.header.height, got.header.rate) == (width, height, Fraction(rate))
    assert abs(got.header.tx_snr_db - snr_db) <= 0.25


def test_fragments_share_an_image_without_gaps():
    header = ImageHeader(0, 768, 512, "lite", "1/32", 1.0)
    parts = [Fragment(header, index, 7) for index in range(7)]
    assert parts[0].begin == 0 and parts[-1].begin + parts[-1].length == header.symbol_count
    assert all(a.begin + a.length == b.begin for a, b in zip(parts, parts[1:]))
    assert max(part.length for part in parts) - min(part.length for part in parts) <= 1


@pytest.mark.parametrize(
    "index, count, session, width, message",
    [
        (0, 65, 0, 768, "1 to 64 fragments"),
        (3, 3, 0, 768, "fragment 3 of 3"),
        (-1, 3, 0, 768, "fragment -1 of 3"),
        (0, 3, 32, 768, "session 32"),
        (0, 1, 0, 768, "a burst carries 1 to 8191"),
        (0, 64, 0, 16416, "sides up to 16384"),
    ],
)
def test_what_the_air_interface_cannot_carry_is_refused(index, count, session, width, message):
    with pytest.raises(ValueError, match=message):
        Fragment(ImageHeader(0, width, 512, "lite", "1/32", 1.0), index, count, session)


def test_random_headers_are_refused_unless_a_transmitter_could_have_sent_them():
    """A million headers whose checksum would be right: none is accepted but those that pack to the same bytes again."""
    random = np.random.default_rng(1)
    accepted = 0
    for packed in random.bytes(11 * 500_000), _plausible(random, 500_000):
        for start in range(0, len(packed), 11):
            one = packed[start : start + 11]
            try:
                fragment = unpack_image(one, lite_only)
            except ValueError:
                continue
            accepted += 1
            assert pack_image(fragment) == one
            assert 1 <= fragment.length <= 8191 and fragment.index < fragment.count <= 64
            assert min(fragment.header.width, fragment.header.height) >= 32
    assert accepted > 100


def _plausible(random, count):
    """Headers that name the right model, so that the other fields are what is judged."""
    fields = np.frombuffer(random.bytes(11 * count), np.uint8).reshape(count, 11)
    number = codec_number("lite") << 27
    return b"".join(((int.from_bytes(one.tobytes(), "big") & ~(0xFFF << 27)) | number).to_bytes(11, "big") for one in fields)


def test_the_checksum_is_that_of_rfc_4880():
    # The check value of CRC-24/OPENPGP.
    assert crc24(b"123456789") == 0x21CF02


def test_the_code_is_tail_biting_and_linear():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 2, (2, 128)).astype(np.uint8)
    assert np.array_equal(convolutional_code(a) ^ convolutional_code(b), convolutional_code(a ^ b))
    assert np.array_equal(convolutional_code(np.roll(a, 5)), np.roll(convolutional_code(a), 15))
    # Every single bit leaves as many ones as the generators have.
    one = np.zeros(128, np.uint8)
    one[77] = 1
    assert convolutional_code(one).sum() == sum(bin(g).count("1") for g in (0o133, 0o171, 0o165))


def test_every_coded_bit_is_sent_four_times_on_other_carriers():
    for preset in PRESETS.values():
        bits = header_bits(3072, bytes(11))
        elements = header_elements(bits, np.ones(HEADER_ELEMENTS, np.complex64)).reshape(4, 192)
        carriers = np.arange(HEADER_ELEMENTS).reshape(4, 192) % preset.data_per_symbol
        origins = [np.roll(np.arange(192), -61 * copy) for copy in range(4)]
        for copy in range(1, 4):
            assert np.array_equal(elements[copy], elements[0][origins[copy]])
            assert not (carriers[copy] == carriers[0][origins[copy]]).any()
        assert np.abs(elements) == pytest.approx(1)


@pytest.mark.parametrize("length", [0, 8192, -1])
def test_a_payload_length_that_does_not_fit_is_refused(length):
    with pytest.raises(ValueError, match="a burst carries 1 to 8191"):
        header_bits(length, bytes(11))
