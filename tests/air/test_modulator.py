# SPDX-License-Identifier: GPL-3.0-or-later
"""The transmitter of the air interface, in NumPy."""

import math

import numpy as np
import pytest
from air.signals import gaussian

from diffjscc.air.header import Fragment
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.preset import BANDWIDTH, PRESETS, Preset, find_preset
from diffjscc.air.sequences import mix, qpsk_sequence, scattered_order
from diffjscc.air.vectors import WAVEFORMS
from diffjscc.symbols import ImageHeader, Symbols


def image(rate="1/32", width=768, height=512):
    header = ImageHeader(7, width, height, "lite", rate, 1.0)
    return Symbols(gaussian(header.symbol_count, seed=3), header)


@pytest.mark.parametrize("name", WAVEFORMS)
def test_bursts_have_unit_power_within_their_bandwidth(name):
    preset = PRESETS[name]
    samples = Modulator(preset)(gaussian(4000), bytes(11))
    assert len(samples) == preset.burst_len(4000) and samples.dtype == np.complex64
    assert np.mean(np.abs(samples) ** 2) == pytest.approx(1, rel=0.03)
    assert np.abs(samples[:256]) == pytest.approx(1)
    spectrum = np.mean(np.abs(np.fft.fft(samples[: len(samples) // 512 * 512].reshape(-1, 512) * np.hanning(512))) ** 2, 0)
    outside = np.abs(np.fft.fftfreq(512)) > BANDWIDTH / 2 + 0.03
    assert spectrum[outside].max() < 0.05 * np.median(spectrum[~outside])


@pytest.mark.parametrize("name", WAVEFORMS)
def test_carriers_read_what_was_sent(name):
    """An FFT behind the prefix of a payload symbol gives payload and pilots back."""
    preset, payload = PRESETS[name], gaussian(1000)
    samples = Modulator(preset)(payload, bytes(11))
    row = preset.header_symbols + 2
    begin = 256 + row * (preset.fft_len + preset.cp_len) + preset.cp_len
    values = np.fft.fft(samples[begin : begin + preset.fft_len])[preset.carriers] * np.sqrt(len(preset.carriers)) / preset.fft_len
    pilots = preset.pilot_positions[row % 13]
    assert values[pilots] == pytest.approx(preset.pilot_values[row % 13], abs=1e-4)
    data = np.delete(values, pilots)
    window = slice(2 * len(data), 3 * len(data))
    assert data * qpsk_sequence(1000, 3)[window].conj() == pytest.approx(payload[window], abs=1e-4)


def test_symbols_that_are_all_alike_make_no_peak():
    """A clear sky is one value many times over."""
    samples = Modulator(PRESETS["ofdm256"])(np.ones(3072, np.complex64), bytes(11))
    assert np.abs(samples).max() ** 2 < 10**1.2


def test_pilots_visit_every_carrier():
    for preset in PRESETS.values():
        visited = np.sort(preset.pilot_positions.reshape(-1))
        assert np.array_equal(visited, np.arange(len(preset.carriers)))


@pytest.mark.parametrize("clip_db", [6.0, 9.0])
def test_no_sample_exceeds_the_clip_level(clip_db):
    samples = Modulator(PRESETS["ofdm256"], clip_db)(gaussian(6000), bytes(11))
    assert 20 * math.log10(np.abs(samples).max()) <= clip_db + 1e-3
    unclipped = Modulator(PRESETS["ofdm256"])(gaussian(6000), bytes(11))
    assert 20 * math.log10(np.abs(unclipped).max()) > clip_db


def test_overhead_is_what_the_specification_says():
    def overhead(symbols, bursts):
        preset = PRESETS["ofdm256"]
        return 1 - symbols / (bursts * preset.burst_len(symbols // bursts) * BANDWIDTH)

    assert overhead(3072, 1) <= 0.45
    assert overhead(12288, 2) <= 0.25


def test_fragments_carry_every_symbol_once():
    symbols = image()
    parts = list(fragments(symbols, 5000))
    assert [fragment.count for fragment, _ in parts] == [3, 3, 3]
    together = np.empty_like(symbols.values)
    together[scattered_order(len(together))] = np.concatenate([payload for _, payload in parts])
    assert np.array_equal(together, symbols.values)


def test_a_lost_fragment_costs_every_part_of_the_image_a_little():
    """Of every 16×16 neighbourhood of blocks, and of every channel, about its share is lost."""
    header = image().header
    lost = np.zeros(header.symbol_count)
    part = Fragment(header, 1, 4)
    lost[scattered_order(len(lost))[part.begin : part.begin + part.length]] = 1
    by_place = lost.reshape(-1, 32, 48)
    assert by_place.mean((1, 2)) == pytest.approx(0.25, abs=0.07)
    assert by_place.reshape(-1, 2, 16, 3, 16).mean((0, 2, 4)) == pytest.approx(0.25, abs=0.05)


def test_an_image_too_large_for_64_bursts_is_refused():
    with pytest.raises(ValueError, match="at most 64 are allowed"):
        list(fragments(image("1/16"), 300))


def test_sequences_are_fixed_for_all_time():
    """What other receivers rely on: docs/air-interface.md gives the same numbers."""
    assert mix(np.array([1, 2, 3])).tolist() == [0x514E28B7, 0x30F4C306, 0x85F0B427]
    assert scattered_order(8).tolist() == [6, 3, 1, 7, 0, 5, 2, 4]
    assert np.round(qpsk_sequence(3, 1) * 2**0.5).tolist() == [1 + 1j, 1 - 1j, -1 + 1j]


def test_wrong_parameters_are_refused():
    for make, message in [
        (lambda: Preset(128), "fft_len = 128"),
        (lambda: Preset(64, 32), "cp_len = 32"),
        (lambda: find_preset("ofdm128"), "is not one of ofdm64, ofdm256, hf, fm, room"),
        (lambda: Modulator(PRESETS["ofdm64"], 0.0), "clip_db = 0.0"),
        (lambda: list(fragments(image(), 9000)), "burst_symbols = 9000"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
