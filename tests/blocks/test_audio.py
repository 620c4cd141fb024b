# SPDX-License-Identifier: GPL-3.0-or-later
"""audio_modulator and audio_demodulator: bursts as sound, at every rate of sound cards, with what microphones and rooms add."""

import math

import numpy as np
import pytest
from air.signals import gaussian
from blocks.flowgraphs import SymbolSource
from gnuradio import blocks, diffjscc, filter, gr
from gnuradio.diffjscc.leads import PAUSE, burst_lead

from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import SOUND_PRESETS, SOUND_RATE, find_preset

#: Samples that flush the detector and every filter.
TAIL = np.zeros(6000, np.complex64)

#: Peaks of the bursts here.
CLIP_DB = 9.0


def bursts(preset, count=2, length=500, gap=720):
    """Unit-power bursts: (samples, payloads, first samples)."""
    modulator, samples, payloads, begins = Modulator(find_preset(preset), CLIP_DB), [np.zeros(200, np.complex64)], [], []
    for index in range(count):
        payloads.append(gaussian(length, seed=index))
        begins.append(sum(map(len, samples)))
        samples += [modulator(payloads[-1], bytes(11)), np.zeros(gap, np.complex64)]
    return np.concatenate(samples), payloads, begins


def as_sound(samples, audio_rate, begins=(), **options):
    """What a sound card would play."""
    flowgraph, out = gr.top_block(), blocks.vector_sink_f()
    source = SymbolSource(samples * 10 ** (-CLIP_DB / 20), [(begin, "tx_sob", True) for begin in begins])
    modulator = diffjscc.audio_modulator(audio_rate, **options)
    flowgraph.connect(source, modulator, out)
    flowgraph.run()
    return np.array(out.data(), np.float32)


def baseband(sound, audio_rate):
    flowgraph, out = gr.top_block(), blocks.vector_sink_c()
    flowgraph.connect(blocks.vector_source_f(sound.tolist()), diffjscc.audio_demodulator(audio_rate), out)
    flowgraph.run()
    return np.array(out.data(), np.complex64)


def received(sound, audio_rate, preset):
    """[the symbols of each burst, …]"""
    flowgraph, symbols = gr.top_block(), blocks.vector_sink_c()
    receiver = diffjscc.burst_rx(preset)
    flowgraph.connect(blocks.vector_source_f(sound.tolist()), diffjscc.audio_demodulator(audio_rate), receiver, symbols)
    flowgraph.connect((receiver, 1), blocks.null_sink(gr.sizeof_float))
    flowgraph.run()
    begins = sorted(tag.offset for tag in symbols.tags() if str(tag.key) == "packet_len")
    return np.split(np.array(symbols.data()), begins[1:])


def snr_db(symbols, payload):
    return -10 * math.log10(np.mean(np.abs(symbols - payload) ** 2))


@pytest.mark.parametrize("preset", SOUND_PRESETS)
@pytest.mark.parametrize("audio_rate", [8000, 11025, 44100, 48000])
def test_bursts_cross_sound_at_every_rate_within_a_voice_channel(preset, audio_rate):
    samples, payloads, _ = bursts(preset)
    sound = as_sound(np.concatenate((samples, TAIL)), audio_rate)
    assert len(sound) == pytest.approx((len(samples) + len(TAIL)) / SOUND_RATE * audio_rate, rel=0.01)
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequency = np.fft.rfftfreq(len(sound), 1 / audio_rate)
    assert power[(frequency > 300) & (frequency < 2700)].sum() > 0.99 * power.sum()
    assert power[frequency < 60].sum() < 2e-4 * power.sum()
    for symbols, payload in zip(received(sound, audio_rate, preset), payloads, strict=True):
        # At 9 dB few peaks are cut.
        assert snr_db(symbols, payload) > 24


def test_the_level_is_that_of_the_peaks_and_nothing_exceeds_full_scale():
    samples, _, _ = bursts("hf", 1, 3000)
    for peak in (0.25, 0.7):
        # Between its samples the signal is a little higher than on them.
        assert 0.9 * peak < np.abs(as_sound(samples, 48000, peak=peak)).max() < 1.2 * peak
    assert np.abs(as_sound(samples, 48000, peak=10)).max() == pytest.approx(1.0)


@pytest.mark.parametrize("mistuned", [-100, 100])
def test_hum_and_an_offset_do_not_matter_and_mistuning_is_undone(mistuned):
    samples, payloads, _ = bursts("hf")
    samples = np.concatenate((samples, TAIL))
    samples = samples * np.exp(2j * np.pi * mistuned / SOUND_RATE * np.arange(len(samples))).astype(np.complex64)
    sound = as_sound(samples, 44100)
    time = np.arange(len(sound)) / 44100
    # Four times as strong as the signal, with a harmonic.
    hum = 0.3 + 0.3 * np.sin(2 * np.pi * 50 * time) + 0.1 * np.sin(2 * np.pi * 100 * time)
    heard = baseband((sound + hum).astype(np.float32), 44100)
    assert np.mean(np.abs(heard[-500:]) ** 2) < 1e-6
    for symbols, payload in zip(received((sound + hum).astype(np.float32), 44100, "hf"), payloads, strict=True):
        assert snr_db(symbols, payload) > 22


def test_a_tone_precedes_each_transmission_and_not_each_burst():
    samples, _, begins = bursts("hf", 3, gap=64)
    pause = np.zeros(round(PAUSE * SOUND_RATE), np.complex64)
    begins.append(len(samples) + len(pause))
    samples = np.concatenate((samples, pause, samples[200:3000]))
    plain, keyed = as_sound(samples, 8000), as_sound(samples, 8000, begins, vox=0.5)
    assert len(keyed) - len(plain) == pytest.approx(2 * 0.5 * 8000, abs=10)
    tone = keyed[round(200 / SOUND_RATE * 8000) + 200 :][:3600]
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone))))
    assert np.argmax(spectrum) * 8000 / len(tone) == pytest.approx(1500, abs=3)
    # As loud as the bursts.
    assert np.std(tone) == pytest.approx(np.std(plain[800:2000]), rel=0.1)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 30])
def test_leads_do_not_depend_on_how_the_stream_is_cut(chunk):
    samples, _, begins = bursts("hf", 2, 10)
    source = SymbolSource(samples, [(begin, "tx_sob", True) for begin in begins], chunk)
    flowgraph, out = gr.top_block(), blocks.vector_sink_c()
    lead = burst_lead(0.1, tone=False)
    flowgraph.connect(source, lead, out)
    flowgraph.run()
    silence = np.zeros(288)
    expected = [samples[: begins[0]], silence, samples[begins[0] : begins[1]], silence, samples[begins[1] :]]
    assert np.array_equal(out.data(), np.concatenate(expected).astype(np.complex64))
    assert [tag.offset for tag in out.tags()] == [begins[0] + 288, begins[1] + 576]


def test_sound_cards_apart_and_an_echo_in_the_room():
    """A recording at 44.1 kHz, 200 ppm off, an echo of 20 ms, and noise at 5 dB: every header, and the SNR that is left."""
    samples, payloads, _ = bursts("room", 4, 3072)
    sound = as_sound(np.concatenate((samples, TAIL)), 44100)
    echo = np.zeros_like(sound)
    echo[882:] = 0.6 * sound[:-882]
    flowgraph, out = gr.top_block(), blocks.vector_sink_f()
    flowgraph.connect(blocks.vector_source_f((sound + echo).tolist()), filter.mmse_resampler_ff(0, 1.0002), out)
    flowgraph.run()
    heard = np.array(out.data(), np.float32)
    # Noise of the same density as in the band of 2340 Hz, which has 5 dB.
    power = np.mean(heard[np.abs(heard) > 0] ** 2) / 10**0.5 * 22050 / 2340
    heard += np.random.default_rng(0).normal(0, math.sqrt(power), len(heard)).astype(np.float32)
    symbols = received(heard, 44100, "room")
    assert len(symbols) == 4
    for values, payload in zip(symbols, payloads):
        # Where the echo cancels the signal it is lost.
        assert np.median(np.abs(values - payload) ** 2) < 1.0


@pytest.mark.parametrize("audio_rate", [5999, 192001, 8000.5, None])
def test_a_rate_that_cannot_be_is_one_line(audio_rate):
    for block in (diffjscc.audio_modulator, diffjscc.audio_demodulator):
        with pytest.raises(ValueError, match="audio_rate = .*: must be a whole number of samples/s, 6000 to 192000"):
            block(audio_rate)
