# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio as a channel of `diffjscc.evaluate`: transmissions of images through flowgraphs, for tables.

The package `diffjscc` finds these classes as entry points of the group ``diffjscc.radios`` (see CMakeLists.txt). The same seed
gives the same transmission, bit for bit.
"""

import math
from dataclasses import dataclass

import numpy as np
import pmt
from gnuradio import blocks, channels, digital, gr

from diffjscc.air.gatherer import Gatherer
from diffjscc.air.header import unpack_image
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.preset import BANDWIDTH, find_preset
from diffjscc.snr import estimate_snr_db, noise_variance
from diffjscc.symbols import Reception

from .burst_rx import burst_rx
from .pdus import tags_by_offset

#: Of the air interface, as burst_tx has them.
PRESET, BURST_SYMBOLS, CLIP_DB, GAP = "ofdm256", 6144, 9.0, 64

#: Silence before and after a transmission, which lets filters and detectors run in and out, samples.
LEAD, TAIL = 512, 6000

#: The channel of `air`: echoes at these samples with these mean amplitudes, each with Rayleigh fading, one draw a transmission; a
#: carrier offset and a clock offset, uniform within ±.
ECHO_DELAYS, ECHO_AMPLITUDES = (0, 2, 5), (1.0, 0.6, 0.4)
MAX_CARRIER_OFFSET, MAX_CLOCK_PPM = 0.02, 20.0

#: Of the stock OFDM chain: subcarriers, and bytes of a packet.
STOCK_FFT, STOCK_PACKET = 64, 96

#: Samples at the beginning that channel_model's resampler does not give out.
SWALLOWED = 3

#: Oversampling before cubic interpolation: its error is then 70 dB below the signal.
OVERSAMPLING = 8

#: Bits per symbol of payloads that the stock chain has constellations for.
STOCK_BITS = (1, 2, 3)

_LENGTH = "packet_len"


class Flowgraph:
    """GNU Radio's channel model: white noise.

    Analog symbols are samples; the receiver estimates their SNR. Bits go through the stock OFDM chain.
    """

    def send_symbols(self, symbols, snr_db, seed):
        """`Symbols` → `Reception`."""
        count = len(symbols.values)
        received = _through(symbols.values, noise_variance(snr_db), seed, Impairments())[:count]
        return Reception.with_equal_noise(received, estimate_snr_db(received))

    def send_bits(self, bits, bits_per_symbol, snr_db, seed):
        """uint8 (N,) → float32 (N,): +1, −1, or 0 where a packet was lost; and details."""
        return _stock(bits, bits_per_symbol, snr_db, seed, Impairments())


class Air:
    """The whole air interface over GNU Radio's channel model with echoes, carrier and clock offset.

    Analog symbols go in bursts of preset ofdm256 and through burst_rx. Bits go through the stock OFDM chain, over the same channel.
    The SNR is the mean one, in the occupied bandwidth.
    """

    def send_symbols(self, symbols, snr_db, seed):
        """`Symbols` → `Reception`; what did not arrive is erased."""
        modulator = Modulator(find_preset(PRESET), CLIP_DB)
        parts = []
        for fragment, payload in fragments(symbols, BURST_SYMBOLS, seed % 32):
            parts += [modulator.fragment(fragment, payload), np.zeros(GAP, np.complex64)]
        received = _through(np.concatenate(parts), noise_variance(snr_db) / BANDWIDTH, seed, Impairments.draw(seed))
        gatherer, ended = Gatherer(), []
        for packed, values, noise_var, burst_snr_db in _bursts(received):
            try:
                fragment = unpack_image(packed, lambda number: symbols.header.codec)
                ended += gatherer.push(fragment, values, noise_var, burst_snr_db)
            except ValueError:
                # A header that is right by its checksum alone.
                continue
        count = len(symbols.values)
        for _, reception in ended + gatherer.flush():
            if len(reception.values) == count:
                return reception
        nothing = np.zeros(count, np.complex64)
        return Reception(nothing, np.full(count, np.inf, np.float32), float(snr_db))

    def send_bits(self, bits, bits_per_symbol, snr_db, seed):
        """uint8 (N,) → float32 (N,): +1, −1, or 0 where a packet was lost; and details."""
        return _stock(bits, bits_per_symbol, snr_db, seed, Impairments.draw(seed))


@dataclass(frozen=True)
class Impairments:
    """What happens to samples before the noise.

    taps            of the echoes, complex
    carrier_offset  cycles/sample
    clock_offset    the receiver's sampling period is 1 + this of the sender's

    Computed here and not by channel_model, whose filters round differently from run to run.
    """

    taps: tuple = (1.0,)
    carrier_offset: float = 0.0
    clock_offset: float = 0.0

    @classmethod
    def draw(cls, seed):
        """Those of one transmission of `Air`; the mean power gain over seeds is 1."""
        random = np.random.default_rng((seed, 1))
        amplitudes = np.array(ECHO_AMPLITUDES) / np.linalg.norm(ECHO_AMPLITUDES)
        taps = np.zeros(ECHO_DELAYS[-1] + 1, complex)
        taps[list(ECHO_DELAYS)] = amplitudes * (random.standard_normal((len(amplitudes), 2)) @ (1, 1j)) / math.sqrt(2)
        offset = random.uniform(-MAX_CARRIER_OFFSET, MAX_CARRIER_OFFSET)
        return cls(tuple(taps), offset, random.uniform(-MAX_CLOCK_PPM, MAX_CLOCK_PPM) * 1e-6)

    def __call__(self, samples):
        """complex64 (N,) → complex64 (N,)"""
        if self == Impairments():
            return samples
        echoed = np.convolve(samples.astype(complex), self.taps)[: len(samples)]
        turned = echoed * np.exp(2j * np.pi * self.carrier_offset * np.arange(len(echoed)))
        return _resampled(turned, self.clock_offset).astype(np.complex64)


def _resampled(samples, clock_offset):
    """What is read with a sampling period of 1 + clock_offset: oversampled, then cubic between samples."""
    spectrum, fine = np.fft.fft(samples), np.zeros(OVERSAMPLING * len(samples), complex)
    half = len(samples) // 2
    fine[:half], fine[half - len(samples) :] = spectrum[:half], spectrum[half:]
    fine = np.fft.ifft(fine) * OVERSAMPLING
    position = np.arange(len(samples)) * (1 + clock_offset) * OVERSAMPLING
    before = np.floor(position).astype(int)
    u = position - before
    # Lagrange's cubic through the points at -1, 0, 1 and 2.
    weights = (-u * (u - 1) * (u - 2) / 6, (u + 1) * (u - 1) * (u - 2) / 2, -(u + 1) * u * (u - 2) / 2, (u + 1) * u * (u - 1) / 6)
    return sum(weight * fine[(before + offset) % len(fine)] for weight, offset in zip(weights, (-1, 0, 1, 2)))


def _through(samples, variance, seed, impairments):
    """Samples through impairments and channel_model, with noise of this variance a complex sample; each keeps its place."""
    padded = np.concatenate((np.zeros(LEAD, np.complex64), samples, np.zeros(TAIL, np.complex64)))
    # Seed 0 would be the time of day.
    model = channels.channel_model(math.sqrt(variance), 0.0, 1.0, [1.0], seed % (1 << 30) + 1)
    flowgraph, sink = gr.top_block(), blocks.vector_sink_c()
    flowgraph.connect(blocks.vector_source_c(impairments(padded)), model, sink)
    flowgraph.run()
    begin = LEAD - SWALLOWED
    return np.array(sink.data(), np.complex64)[begin : begin + len(samples) + TAIL // 2]


def _bursts(samples):
    """(header's 11 bytes, symbols, noise variances, SNR) of each burst that burst_rx finds."""
    flowgraph, receiver = gr.top_block(), burst_rx(PRESET)
    symbols, noise_var = blocks.vector_sink_c(), blocks.vector_sink_f()
    flowgraph.connect(blocks.vector_source_c(samples), receiver, symbols)
    flowgraph.connect((receiver, 1), noise_var)
    flowgraph.connect((receiver, 2), blocks.null_sink(gr.sizeof_gr_complex))
    flowgraph.run()
    values, variances = np.array(symbols.data(), np.complex64), np.array(noise_var.data(), np.float32)
    for begin, fields in tags_by_offset(symbols.tags()).items():
        span = slice(begin, begin + pmt.to_long(fields["packet_len"]))
        yield bytes(pmt.u8vector_elements(fields["burst_header"])), values[span], variances[span], pmt.to_double(fields["snr_db"])


def _stock(bits, bits_per_symbol, snr_db, seed, impairments):
    """Bits in packets through digital.ofdm_tx, the channel and digital.ofdm_rx, which drops packets whose checksum is wrong."""
    if bits_per_symbol not in STOCK_BITS:
        raise ValueError(
            f"GNU Radio's stock OFDM chain has no constellation of {bits_per_symbol} bits: choose bpsk or qpsk, or radio: symbols"
        )
    modulation = {"fft_len": STOCK_FFT, "bps_header": 1, "bps_payload": bits_per_symbol}
    packed = np.packbits(np.pad(bits, (0, -len(bits) % (8 * STOCK_PACKET))))
    begins = range(0, len(packed), STOCK_PACKET)
    tags = [
        gr.tag_utils.python_to_tag((begin, pmt.intern(_LENGTH), pmt.from_long(STOCK_PACKET), pmt.intern("source")))
        for begin in begins
    ]
    flowgraph, sink = gr.top_block(), blocks.vector_sink_c()
    source = blocks.vector_source_b(packed.tolist(), False, 1, tags)
    flowgraph.connect(source, digital.ofdm_tx(packet_length_tag_key=_LENGTH, **modulation), sink)
    flowgraph.run()
    samples = np.array(sink.data(), np.complex64)
    power = float(np.mean(np.abs(samples) ** 2))
    received = _through(samples, power * noise_variance(snr_db) / BANDWIDTH, seed, impairments)

    flowgraph, sink = gr.top_block(), blocks.vector_sink_b()
    flowgraph.connect(blocks.vector_source_c(received), digital.ofdm_rx(packet_length_tag_key=_LENGTH, **modulation), sink)
    flowgraph.run()
    data = np.array(sink.data(), np.uint8)
    read = np.zeros(8 * len(packed), np.float32)
    arrived = set()
    for begin, fields in tags_by_offset(sink.tags()).items():
        number = pmt.to_long(fields["packet_num"]) if "packet_num" in fields else -1
        packet = data[begin : begin + STOCK_PACKET]
        if 0 <= number < len(begins) and len(packet) == STOCK_PACKET:
            arrived.add(number)
            span = slice(8 * STOCK_PACKET * number, 8 * STOCK_PACKET * (number + 1))
            read[span] = 2.0 * np.unpackbits(packet) - 1
    details = {"radio": "stock", "packets": len(begins), "packets_lost": len(begins) - len(arrived), "samples": len(samples)}
    return read[: len(bits)], details
