# SPDX-License-Identifier: GPL-3.0-or-later
"""Carriers that are far away: how far a receiver looks, and what it needs for that."""

import numpy as np
import pytest
from air.signals import gaussian
from blocks.test_air_interface import bursts, loss_db, receive
from gnuradio.diffjscc.carrier_offset import max_offset, offset_source, wide_front_end
from gnuradio.diffjscc.radios import Radio

from diffjscc.air.preset import BANDWIDTH


def at_twice_the_rate(samples):
    spectrum = np.fft.fftshift(np.fft.fft(samples))
    padded = np.pad(spectrum, (len(samples) // 2, len(samples) - len(samples) // 2))
    return 2 * np.fft.ifft(np.fft.ifftshift(padded))


@pytest.mark.parametrize("offset", [-0.2, 0.0, 0.11, 0.2])
def test_a_radio_at_twice_the_rate_receives_what_is_a_fifth_of_the_rate_away(offset):
    """At 250 ksps that is 50 kHz."""
    samples, sent = bursts(4)
    wide = at_twice_the_rate(samples[: len(samples) // 2 * 2])
    shifted = wide * np.exp(1j * np.pi * offset * np.arange(len(wide)))
    # 15 dB in the occupied bandwidth, of twice the rate.
    noisy = shifted + gaussian(len(wide), 2 * 10**-1.5 / BANDWIDTH, seed=1)
    found, _, _ = receive(noisy, through=[wide_front_end(0.2)], max_offset=0.2)
    assert [header for header, _, _, _ in found] == [header for header, _, _ in sent]
    for (_, symbols, _, tags), (_, payload, _) in zip(found, sent):
        assert loss_db(symbols, payload, 15.0) < 2.0 and tags["cfo"] == pytest.approx(offset, abs=1e-4)


@pytest.mark.parametrize("share, most_db", [(0.1, 0.35), (0.2, 1.25)])
def test_what_the_wide_front_end_adds_to_the_noise(share, most_db):
    """On average over the carriers of a signal that is as far away as is looked for; it comes in again beyond half of the rate."""
    taps = np.array(wide_front_end(share).taps())

    def gain(frequency):
        return np.abs(np.exp(-1j * np.pi * np.outer(frequency, np.arange(len(taps)))) @ taps) ** 2

    signal = share + BANDWIDTH * np.linspace(-0.5, 0.5, 801)
    # Of the other place, one sample rate away, there is noise alone.
    noise = gain(signal) + gain(signal - np.where(signal > 0, 1, -1))
    added_db = 10 * np.log10(np.mean(noise / gain(signal)))
    assert 0 < added_db < most_db


def test_how_far_is_looked_by_default():
    """20 ppm of a device's frequency; as ever where that is less, or there is no oscillator."""
    assert max_offset(Radio("uhd", frequency=2.45e9, sample_rate=250e3)) == pytest.approx(49e3 / 250e3)
    assert max_offset(Radio("uhd", frequency=2.45e9, sample_rate=1e6)) == 0.05
    assert max_offset(Radio("uhd", frequency=5.8e9, sample_rate=250e3)) == 0.2
    assert max_offset(Radio("zmq", frequency=2.45e9, sample_rate=250e3)) == 0.05
    assert max_offset(Radio("zmq", sample_rate=250e3), 50e3) == 0.2


@pytest.mark.parametrize("hertz", [0.0, -1e3, 50.1e3, float("nan"), float("inf")])
def test_an_offset_that_cannot_be_looked_for_is_one_line(hertz):
    with pytest.raises(ValueError, match="at most 50000, a fifth of the sample rate; choose a higher sample rate"):
        max_offset(Radio("zmq", sample_rate=250e3), hertz)


def test_a_device_is_opened_at_twice_the_rate_where_that_is_needed():
    """No device is here; the error of one tells that it was asked for."""
    with pytest.raises(ValueError, match="radio soapy"):
        offset_source(Radio("soapy", "driver=absent", frequency=2.45e9, sample_rate=250e3), 0.2)
