# SPDX-License-Identifier: GPL-3.0-or-later
"""Bursts over a simulated channel into the receiver, for air_interface.py.

SNR is in the occupied bandwidth everywhere: the mean power of samples within bursts, over the noise variance of a sample times
the share of the sample rate that carriers occupy.
"""

from dataclasses import dataclass

import numpy as np
import pmt
from gnuradio import blocks, channels, diffjscc, gr

from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import BANDWIDTH, find_preset

#: Those of radios. The presets for sound are the same waveforms at a low sample rate; tests/bench/audio.py measures them.
RADIO_PRESETS = ("ofdm64", "ofdm256")

#: What burst_tx does unless told otherwise.
CLIP_DB = 9.0

#: Largest carrier offset, cycles/sample: two oscillators of ±20 ppm at 2.4 GHz and 1 Msps.
MAX_CFO = 0.05

#: Silence around a burst before it is delayed and faded, so that nothing of it wraps around or is cut, samples.
PADDING = 64

#: Silence between bursts, samples: lowest and highest.
GAPS = (50, 2000)

#: Silence at the end, so that filters and detectors run out, samples.
TAIL = 6000

#: Oversampling before cubic interpolation: its error is then 70 dB below the signal.
OVERSAMPLING = 8

#: Bursts that one flowgraph receives; bounds memory.
BATCH = 100


@dataclass(frozen=True)
class Fading:
    """GNU Radio's selective fading model, Rayleigh, three taps of which the last comes 5.1 samples after the first.

    doppler  Hz at 1 Msps; 0 for a channel that stands still
    """

    doppler: float = 0.0
    delays = (0.0, 2.4, 5.1)
    gains = (1.0, 0.6, 0.4)
    filter_len = 12

    def __call__(self, samples, seed):
        """One realisation, mean power gain 1 over realisations."""
        mags = np.array(self.gains) / np.linalg.norm(self.gains)
        model = channels.selective_fading_model(
            8, self.doppler / 1e6, False, 1.0, seed, self.delays, mags.tolist(), self.filter_len
        )
        flowgraph, sink = gr.top_block(), blocks.vector_sink_c()
        flowgraph.connect(blocks.vector_source_c(samples), model, sink)
        flowgraph.run()
        return np.array(sink.data(), np.complex64)


@dataclass(frozen=True)
class Channel:
    """What bursts meet; each draws its own timing (whole and fractional), carrier offset and phase.

    snr_db     mean SNR, dB
    max_cfo    carrier offsets are uniform within ± this, cycles/sample
    cfo        carrier offset of all bursts, in place of the random ones
    clock_ppm  clock offset, its sign drawn for each burst
    fading     a realisation for each burst; None for a gain of 1
    """

    snr_db: float
    max_cfo: float = MAX_CFO
    cfo: float | None = None
    clock_ppm: float = 0.0
    fading: Fading | None = None

    def __call__(self, bursts, rng, lost=()):
        """Samples of bursts (complex64 arrays) → samples of all of them in noise; those ``lost`` (indices) are not sent."""
        pieces = []
        for index, burst in enumerate(bursts):
            pieces.append(np.zeros(rng.integers(*GAPS), np.complex64))
            piece = self._impair(burst, rng)
            pieces.append(np.zeros_like(piece) if index in lost else piece)
        samples = np.concatenate((*pieces, np.zeros(TAIL, np.complex64)))
        power = np.mean([np.mean(np.abs(burst) ** 2) for burst in bursts])
        return samples + white_noise(len(samples), power * 10 ** (-self.snr_db / 10) / BANDWIDTH, rng)

    def _impair(self, burst, rng):
        padded = np.pad(burst, PADDING)
        padded = delay(padded, rng.uniform(-0.5, 0.5), self.clock_ppm * rng.choice((-1, 1)) * 1e-6)
        if self.fading is not None:
            padded = self.fading(padded, int(rng.integers(1 << 30)))
        cfo = rng.uniform(-self.max_cfo, self.max_cfo) if self.cfo is None else self.cfo
        turns = cfo * np.arange(len(padded)) + rng.uniform()
        return (padded * np.exp(2j * np.pi * turns)).astype(np.complex64)


def white_noise(count, variance, rng):
    """complex64 (count,), ``variance`` that of a complex sample."""
    pairs = rng.standard_normal((count, 2), np.float32)
    return np.sqrt(variance / 2, dtype=np.float32) * pairs.view(np.complex64)[:, 0]


def delay(samples, by, clock_offset=0.0):
    """Band-limited: what a receiver reads ``by`` samples early, whose sampling period is 1 + clock_offset of the sender's."""
    count = 1024 * -(-len(samples) // 1024)
    spectrum = np.fft.fft(samples, count)
    frequency = np.fft.fftfreq(count)
    spectrum *= np.exp(2j * np.pi * frequency * by)
    if clock_offset == 0:
        return np.fft.ifft(spectrum)[: len(samples)].astype(np.complex64)
    wide = np.zeros(count * OVERSAMPLING, complex)
    wide[: count // 2], wide[-count // 2 :] = spectrum[: count // 2], spectrum[-count // 2 :]
    fine = np.fft.ifft(wide) * OVERSAMPLING
    position = np.arange(len(samples)) * (1 + clock_offset) * OVERSAMPLING
    before = position.astype(int)
    u = position - before
    # Lagrange's cubic through the points at -1, 0, 1 and 2.
    weights = (-u * (u - 1) * (u - 2) / 6, (u + 1) * (u - 1) * (u - 2) / 2, -(u + 1) * u * (u - 2) / 2, (u + 1) * u * (u - 1) / 6)
    points = (fine[(before + offset) % len(fine)] for offset in (-1, 0, 1, 2))
    return sum(weight * point for weight, point in zip(weights, points)).astype(np.complex64)


@dataclass(frozen=True)
class Received:
    """One burst as burst_rx gives it; image is the header's 11 bytes."""

    image: bytes
    symbols: np.ndarray
    noise_var: np.ndarray
    snr_db: float
    cfo: float
    clock_offset: float


def receive(samples, preset):
    """[Received] of all bursts that burst_rx finds."""
    flowgraph, receiver = gr.top_block(), diffjscc.burst_rx(preset)
    symbols, noise_var = blocks.vector_sink_c(), blocks.vector_sink_f()
    flowgraph.connect(blocks.vector_source_c(samples), receiver, symbols)
    flowgraph.connect((receiver, 1), noise_var)
    flowgraph.connect((receiver, 2), blocks.null_sink(gr.sizeof_gr_complex))
    flowgraph.run()
    values, variances = np.array(symbols.data(), np.complex64), np.array(noise_var.data(), np.float32)
    tags = {}
    for tag in symbols.tags():
        tags.setdefault(tag.offset, {})[pmt.symbol_to_string(tag.key)] = tag.value
    bursts = []
    for begin, fields in sorted(tags.items()):
        span = slice(begin, begin + pmt.to_long(fields["packet_len"]))
        image = bytes(pmt.u8vector_elements(fields["burst_header"]))
        numbers = (pmt.to_double(fields[name]) for name in ("snr_db", "cfo", "clock_offset"))
        bursts.append(Received(image, values[span], variances[span], *numbers))
    return bursts


@dataclass(frozen=True)
class Point:
    """What came of many bursts at one SNR.

    sent       bursts
    right      of them detected, with header right
    wrong      headers accepted that nobody sent
    loss_db    channel's SNR less that after equalisation
    error_db   rms error of the SNR estimate
    """

    sent: int
    right: int
    wrong: int
    loss_db: float
    error_db: float


def measure(preset, length, channel, bursts, rng, clip_db=CLIP_DB):
    """The Point of so many bursts of ``length`` random symbols through ``channel``."""
    modulator = Modulator(find_preset(preset), clip_db)
    right = wrong = 0
    power = error = estimate = 0.0
    for begin in range(0, bursts, BATCH):
        sent = {}
        for _ in range(min(BATCH, bursts - begin)):
            sent[rng.bytes(11)] = white_noise(length, 1.0, rng)
        samples = channel([modulator(payload, image) for image, payload in sent.items()], rng)
        for burst in receive(samples, preset):
            payload = sent.pop(burst.image, None)
            if payload is None or len(payload) != len(burst.symbols):
                wrong += 1
                continue
            right += 1
            power += np.mean(np.abs(payload) ** 2)
            error += np.mean(np.abs(burst.symbols - payload) ** 2)
            estimate += (burst.snr_db - channel.snr_db) ** 2
    if right == 0:
        return Point(bursts, 0, wrong, np.nan, np.nan)
    return Point(bursts, right, wrong, channel.snr_db - 10 * np.log10(power / error), np.sqrt(estimate / right))
