#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images by sound: preset hf over short-wave channels, and preset room from WAV files of a recorded room.

    audio.py kodak/ [--bursts 200] [--images 24] [--only headers images room]

Everything crosses audio_modulator and audio_demodulator at 8 kHz; noise is added to the sound. SNR is the mean power of bursts over
the noise power in 3 kHz. Each burst is mistuned, by up to 100 Hz, and has its own timing and phase.

Short-wave channels are those of ITU-R F.1487 for middle latitudes: two paths of equal mean power that fade independently,
Rayleigh, with a Gaussian Doppler spectrum whose spread is 2σ (Watterson's model). moderate: 1 ms and 0.5 Hz; disturbed: 2 ms and
1 Hz. The SNR is the mean over the fading.

The ideal channel sends the codec's symbols in noise of the same SNR, with nothing else: no fading either.
"""

import argparse
import math
import tempfile
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
from air_interface_link import PADDING, delay, receive, white_noise
from gnuradio import blocks, diffjscc, filter, gr
from gnuradio.diffjscc.audio_radios import wav_source
from gnuradio.diffjscc.radios import SOUND_SILENCE
from gnuradio.diffjscc.sound import MISTUNED

from diffjscc.air.gatherer import Gatherer
from diffjscc.air.header import unpack_image
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.preset import SOUND_RATE, find_preset
from diffjscc.hub import DEFAULT_CODEC, load_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr
from diffjscc.snr import noise_variance
from diffjscc.symbols import Reception

#: Samples/s of the sound, and Hz in which its noise power is counted.
AUDIO_RATE, NOISE_BANDWIDTH = 8000, 3000.0

#: RMS of bursts before the modulator, which cuts at 1: short-wave receivers have an automatic gain, and fades go up too.
LEVEL = 0.05

#: Silence between bursts and at the end, samples of the baseband.
GAP, TAIL = 800, 7000

#: Peaks are cut here, dB: what diffjscc-tx does with a WAV file when it is told to, and what costs nothing.
CLIP_DB = 9.0

#: Bursts that one flowgraph receives.
BATCH = 25

#: Header bytes do not matter where only headers are counted; payload symbols then: about ten OFDM symbols.
SHORT = 480


class Watterson:
    """Two paths of equal power, ``delay_s`` apart, each fading with a Doppler spread (2σ) of ``spread_hz``."""

    def __init__(self, delay_s, spread_hz):
        self._delay, self._spread = delay_s * SOUND_RATE, spread_hz

    def __call__(self, samples, rng):
        """samples (N,) → (N,), mean power gain 1 over realisations."""
        paths = samples, delay(samples, -self._delay)
        return sum(self._tap(len(samples), rng) * path for path in paths).astype(np.complex64)

    def _tap(self, count, rng):
        """A realisation of a path's gain, complex (count,), mean power ½."""
        # Longer, because the shaped spectrum makes it periodic, and its lines must be close together.
        length = 8 * count
        frequency = np.fft.fftfreq(length, 1 / SOUND_RATE)
        shape = np.exp(-(frequency**2) / (4 * (self._spread / 2) ** 2))
        shape *= math.sqrt(0.5 / np.sum(shape**2))
        return np.fft.ifft(white_noise(length, 1.0, rng) * shape)[:count] * length


CHANNELS = {"AWGN": lambda samples, rng: samples, "moderate": Watterson(1e-3, 0.5), "disturbed": Watterson(2e-3, 1.0)}


def sound_of(samples, audio_rate):
    """Baseband, complex (N,) → what a sound card plays, float (M,)."""
    flowgraph, out, modulator = gr.top_block(), blocks.vector_sink_f(), diffjscc.audio_modulator(audio_rate, peak=1.0)
    flowgraph.connect(blocks.vector_source_c(samples), modulator, out)
    flowgraph.run()
    return np.array(out.data(), np.float32)


def heard(sound, audio_rate):
    """What a sound card hears, float (M,) → baseband, complex (N,)."""
    flowgraph, out, demodulator = gr.top_block(), blocks.vector_sink_c(), diffjscc.audio_demodulator(audio_rate)
    flowgraph.connect(blocks.vector_source_f(sound), demodulator, out)
    flowgraph.run()
    return np.array(out.data(), np.complex64)


def noise_for(sound, power, snr_db, audio_rate, rng):
    """``sound`` in white noise; ``power`` is that of bursts, as sound."""
    variance = power * 10 ** (-snr_db / 10) * (audio_rate / 2) / NOISE_BANDWIDTH
    # A flowgraph gives out a few samples more or less from run to run: that must not change what is drawn afterwards.
    rng = np.random.default_rng(rng.integers(1 << 62))
    return sound + rng.normal(0, math.sqrt(variance), len(sound)).astype(np.float32)


def over_the_air(bursts, channel, snr_db, rng):
    """Bursts of unit power → baseband of a receiver that is tuned to within 100 Hz."""
    pieces = []
    for burst in bursts:
        padded = delay(np.pad(burst, PADDING), rng.uniform(-0.5, 0.5))
        turns = rng.uniform(-MISTUNED, MISTUNED) / SOUND_RATE * np.arange(len(padded)) + rng.uniform()
        pieces += [np.zeros(GAP, np.complex64), channel(padded, rng) * np.exp(2j * np.pi * turns)]
    samples = np.concatenate((*pieces, np.zeros(TAIL, np.complex64))).astype(np.complex64)
    # Half of the power of a complex signal is in its real part.
    return heard(noise_for(sound_of(LEVEL * samples, AUDIO_RATE), LEVEL**2 / 2, snr_db, AUDIO_RATE, rng), AUDIO_RATE)


def headers(preset, channel, snr_db, count, seed=0, length=SHORT):
    """(Share of bursts whose header was read, headers that nobody sent)."""
    rng, modulator = np.random.default_rng(seed), Modulator(find_preset(preset), CLIP_DB)
    right = wrong = 0
    for begin in range(0, count, BATCH):
        sent = [rng.bytes(11) for _ in range(min(BATCH, count - begin))]
        bursts = [modulator(white_noise(length, 1.0, rng), image) for image in sent]
        for burst in receive(over_the_air(bursts, channel, snr_db, rng), preset):
            right += burst.image in sent
            wrong += burst.image not in sent
    return right / count, wrong


def images(preset, channel, snr_db, paths, seed=0, rate="1/128"):
    """(PSNR, dB, of each image or None where it did not come; PSNR over the ideal channel of the same SNR)."""
    rng, codec = np.random.default_rng(seed), load_codec(DEFAULT_CODEC)
    modulator, came, ideal = Modulator(find_preset(preset), CLIP_DB), [], []
    for index, path in enumerate(paths):
        image = to_tensor(read_image(path))
        symbols = codec.encode(image, snr_db, rate, image_id=index)
        bursts = [modulator.fragment(fragment, payload) for fragment, payload in fragments(symbols, 6144)]
        received = _gathered(receive(over_the_air(bursts, channel, snr_db, rng), preset))
        came.append(psnr(codec.decode(received[0][1], received[0][0]), image) if received else None)
        variance = noise_variance(snr_db)
        noise = white_noise(len(symbols.values), variance, rng)
        reception = Reception(symbols.values + noise, np.full(len(noise), variance, np.float32), snr_db)
        ideal.append(psnr(codec.decode(reception, symbols.header), image))
    return came, ideal


def room(paths, snr_db=5.0, ppm=200, echoes=((0.003, 0.5), (0.020, 0.5)), rate="1/128", seed=0):
    """As `images`, for preset room: a WAV file of 44.1 kHz, whose clock is ``ppm`` off, with echoes (s, amplitude) and noise."""
    rng, codec, came = np.random.default_rng(seed), load_codec(DEFAULT_CODEC), []
    modulator = Modulator(find_preset("room"), CLIP_DB)
    for index, path in enumerate(paths):
        image = to_tensor(read_image(path))
        symbols = codec.encode(image, snr_db, rate, image_id=index)
        bursts = [modulator.fragment(fragment, payload) for fragment, payload in fragments(symbols, 6144)]
        samples = LEVEL * np.concatenate([np.pad(burst, (GAP, 0)) for burst in bursts] + [np.zeros(GAP)]).astype(np.complex64)
        played = _resampled(sound_of(samples, 44100), 1 + ppm * 1e-6)
        in_room = np.copy(played)
        for after, amplitude in echoes:
            begin = round(after * 44100)
            in_room[begin:] += amplitude * played[:-begin]
        recorded = noise_for(in_room, LEVEL**2 / 2 * (1 + sum(a**2 for _, a in echoes)), snr_db, 44100, rng)
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            _write_wav(file.name, recorded, 44100)
            received = _gathered(receive(_read(file.name), "room"))
        came.append(psnr(codec.decode(received[0][1], received[0][0]), image) if received else None)
    return came


def air_time(width, height, rate="1/128", preset="hf"):
    """Seconds of an image in one burst and the silence after it."""
    return (find_preset(preset).burst_len(round(width * height * Fraction(rate))) + SOUND_SILENCE) / SOUND_RATE


def _gathered(bursts):
    """[(header, reception), …] of received bursts."""
    gatherer, ended = Gatherer(), []
    for burst in bursts:
        ended += gatherer.push(
            unpack_image(burst.image, lambda number: DEFAULT_CODEC), burst.symbols, burst.noise_var, burst.snr_db
        )
    return ended + gatherer.flush()


def _resampled(sound, ratio):
    flowgraph, out = gr.top_block(), blocks.vector_sink_f()
    flowgraph.connect(blocks.vector_source_f(np.append(sound, np.zeros(100, np.float32))), filter.mmse_resampler_ff(0, ratio), out)
    flowgraph.run()
    return np.array(out.data(), np.float32)


def _write_wav(path, sound, rate):
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.round(sound * 32767), -32768, 32767).astype("<i2").tobytes())


def _read(path):
    flowgraph, out, source = gr.top_block(), blocks.vector_sink_c(), wav_source(path)
    flowgraph.connect(source, out)
    flowgraph.run()
    return np.array(out.data(), np.complex64)


def _mean(values):
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else math.nan


def _report(name, came, ideal):
    pairs = [(got, best) for got, best in zip(came, ideal) if got is not None]
    loss = _mean([best - got for got, best in pairs])
    print(f"| {name} | {len(pairs)} of {len(came)} | {_mean(ideal):.2f} | {_mean(came):.2f} | {loss:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kodak", type=Path, help="folder of images")
    parser.add_argument("--bursts", type=int, default=200, help="for the share of headers (default: %(default)s)")
    parser.add_argument("--images", type=int, default=24, help="for PSNR (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=("headers", "images", "room"), default=("headers", "images", "room"))
    arguments = parser.parse_args()
    paths = find_images(arguments.kodak)[: arguments.images]
    print(f"768×512 at R = 1/128, preset hf: {air_time(768, 512):.2f} s; room: {air_time(768, 512, preset='room'):.2f} s")
    if "headers" in arguments.only:
        print("\n| preset hf, channel | SNR, dB | headers read |\n|---|---|---|")
        for name, snrs in (("AWGN", (-4, -2, 0)), ("moderate", (0, 5, 10)), ("disturbed", (5, 10))):
            for snr_db in snrs:
                share, wrong = headers("hf", CHANNELS[name], snr_db, arguments.bursts)
                print(f"| {name} | {snr_db} | {share:.1%}{f', {wrong} wrong' if wrong else ''} |", flush=True)
    if "images" in arguments.only:
        print("\n| preset hf, channel and SNR | images | ideal, dB | received, dB | loss, dB |\n|---|---|---|---|---|")
        for name, snrs in (("AWGN", (0, 5, 10)), ("moderate", (5, 10)), ("disturbed", (10,))):
            for snr_db in snrs:
                _report(f"{name}, {snr_db} dB", *images("hf", CHANNELS[name], float(snr_db), paths))
    if "room" in arguments.only:
        came = room(paths)
        count = sum(value is not None for value in came)
        print(f"\nroom, 44.1 kHz, 200 ppm, echoes of 3 and 20 ms, 5 dB: {count} of {len(came)} images, {_mean(came):.2f} dB")


if __name__ == "__main__":
    main()
