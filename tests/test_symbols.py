# SPDX-License-Identifier: GPL-3.0-or-later
"""Headers, rates and receptions."""

import math
from fractions import Fraction

import numpy as np
import pytest

from diffjscc.symbols import ImageHeader, Reception, parse_rate, rate_channels

GOOD = {"image_id": 3, "width": 768, "height": 512, "codec": "lite", "rate": "1/128", "tx_snr_db": 1.0}


def test_a_kodak_image_at_1_128_is_3072_symbols():
    assert ImageHeader(**GOOD).symbol_count == 3072


def test_the_papers_rates_are_4_8_16_and_32_channels():
    assert [rate_channels(parse_rate(rate)) for rate in ("1/128", 1 / 64, Fraction(1, 32), "1/16")] == [4, 8, 16, 32]


def test_padding_counts_as_symbols():
    assert ImageHeader(**{**GOOD, "width": 33, "height": 32}).symbol_count == 3 * 2 * 2


@pytest.mark.parametrize("rate", ["fast", "1/0", "0", "-1/128", "1/100", None, math.nan, math.inf, "1/512"])
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        parse_rate(rate)


def test_headers_survive_as_plain_values():
    header = ImageHeader(**GOOD)
    assert ImageHeader.from_dict(header.to_dict() | {"snr_db": 3.0}) == header
    assert all(type(value) in (int, float, str) for value in header.to_dict().values())


@pytest.mark.parametrize(
    "field, value",
    [
        ("image_id", -1), ("image_id", 1 << 32), ("image_id", 1.5), ("width", 0), ("width", 31), ("width", "768"), ("width", True),
        ("height", 1 << 40), ("codec", ""), ("codec", None), ("rate", "1/3"), ("tx_snr_db", math.nan), ("tx_snr_db", math.inf),
        ("tx_snr_db", "loud"),
    ],
)  # fmt: skip
def test_impossible_headers_are_refused(field, value):
    with pytest.raises(ValueError):
        ImageHeader.from_dict({**GOOD, field: value})


def test_a_header_must_be_whole():
    with pytest.raises(ValueError, match="lacks width, rate"):
        ImageHeader.from_dict({k: v for k, v in GOOD.items() if k not in ("width", "rate")})


def test_a_reception_has_a_variance_for_every_symbol():
    with pytest.raises(ValueError, match=r"\(5,\) symbols and \(4,\) noise variances"):
        Reception(np.zeros(5, np.complex64), np.zeros(4, np.float32), 1.0)
    with pytest.raises(ValueError, match="not an SNR"):
        Reception(np.zeros(5, np.complex64), np.zeros(5, np.float32), math.nan)


@pytest.mark.parametrize("snr_db, variance", [(10.0, 0.1), (0.0, 1.0), (-3.0103, 2.0), (7.0, 0.199526)])
def test_equal_noise_has_the_variance_of_its_snr_on_every_symbol(snr_db, variance):
    reception = Reception.with_equal_noise(np.array([1, 1j, -1]), snr_db)
    assert reception.noise_var == pytest.approx(np.full(3, variance), rel=1e-5)
    assert reception.values.tolist() == [1, 1j, -1]
    assert (reception.values.dtype, reception.noise_var.dtype) == (np.complex64, np.float32)
    assert (reception.snr_db, reception.fading) == (snr_db, 1)


def test_equal_noise_needs_a_finite_snr():
    with pytest.raises(ValueError, match="not an SNR"):
        Reception.with_equal_noise(np.zeros(3), math.inf)
