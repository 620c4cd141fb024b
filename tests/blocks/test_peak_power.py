# SPDX-License-Identifier: GPL-3.0-or-later
"""At equal peak power: what lowered peaks give behind the receiver."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from peak_power import effective_snr


@pytest.mark.parametrize("preset", ["ofdm64", "ofdm256"])
def test_at_14_db_of_peak_snr_lowered_peaks_give_three_decibels(preset):
    """Images that are encoded for 1 dB gain at least 3 dB, and those for 13 dB lose nothing."""
    before, share, _ = effective_snr(preset, 9.0, 1.0, 14.0, 10)
    assert share == 1
    for encoded, least in ((1.0, 2.9), (13.0, 0.0)):
        after, share, error = effective_snr(preset, "auto", encoded, 14.0, 10)
        assert after - before > least and share == 1
        # The receiver knows of the distortion.
        assert abs(error) < 0.4


def test_where_today_s_peaks_give_13_db_lowered_ones_give_no_less():
    assert effective_snr("ofdm256", "auto", 13.0, 22.2, 10)[0] > effective_snr("ofdm256", 9.0, 13.0, 22.2, 10)[0] + 1.5
