#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What receivers meet on the air, a row each: what it costs, and what the receiver counts.

    impairments.py kodak/
    impairments.py kodak/ --only cw phase --images 4

Images are encoded for 15 dB at R = 1/32 and sent by the air interface in bursts of 3072 symbols; noise is white, at 15 dB in the
occupied band. Each burst has its own timing, phase and carrier offset. The same bursts in the same noise are received twice, with
and without the impairment; the loss is the difference of the images' mean PSNR. An image that does not come counts as what the
codec makes of nothing but erasures. The receiver is jscc_rx, and knows nothing of the impairment but, where the row says so, the
largest carrier offset.

Levels in dB are over the mean power of the bursts' samples. Frequencies are given in Hz at a sample rate.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pmt
import torch
from air_interface_link import CLIP_DB, TAIL, delay, white_noise
from gnuradio import blocks, diffjscc, gr
from gnuradio.diffjscc.pdus import BURST_HEADER_TAG, image_from_pdu

from diffjscc.air.header import unpack_image
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.preset import BANDWIDTH, PRESETS, find_preset
from diffjscc.hub import DEFAULT_CODEC, load_codec
from diffjscc.images import find_images, read_image, to_tensor
from diffjscc.metrics import psnr
from diffjscc.symbols import Reception

SNR_DB, RATE = 15.0, "1/32"

#: Symbols in a burst: of most rows, and of those that the issue of slow radios brought up.
SHORT, LONG = 3072, 6144

#: Sample rates that rows speak of, samples/s.
MEDIUM, NARROW = 1e6, 250e3

#: Silence between bursts, samples: lowest and highest.
GAPS = (200, 2000)

#: Silence around a burst before it is delayed, so that nothing of it wraps around, samples.
PADDING = 64

#: Carrier offsets are uniform within ± this, cycles/sample, where a row says nothing else.
MAX_CFO = 0.01

#: Image ids of a second transmitter, which are not measured, begin here.
OTHERS = 1000


@dataclass
class Air:
    """Bursts on the air, without noise.

    samples  complex (n,)
    spans    (first sample, number) of each burst
    """

    samples: np.ndarray
    spans: list[tuple[int, int]]


# Impairments: of the signal before noise is added, Air → complex (n,); or of what is received, (samples, spans) → samples.


def carrier(air, rng, level_db, frequency=0.1234):
    """A carrier in the band, cycles/sample; 0 for a receiver's DC."""
    turns = frequency * np.arange(len(air.samples)) + rng.uniform()
    return air.samples + 10 ** (level_db / 20) * np.exp(2j * np.pi * turns)


def packets(air, rng, level_db, duty, mean=1000):
    """Another system's packets, wider than the band, as WiFi's are: white noise that is switched on and off.

    Lengths of packets and pauses are exponential, ``mean`` samples for packets.
    """
    on = np.zeros(len(air.samples), bool)
    begin = 0
    while begin < len(on):
        end = begin + int(rng.exponential(mean)) + 1
        on[begin:end] = True
        begin = end + int(rng.exponential(mean * (1 - duty) / duty)) + 1
    return air.samples + on * white_noise(len(on), 10 ** (level_db / 10), rng)


def impulses(air, rng, level_db, share):
    """Bernoulli-Gaussian noise, as ignitions and motors make it (Ghosh, IEEE Trans. Commun. 44(2), 1996)."""
    hit = rng.random(len(air.samples)) < share
    return air.samples + hit * white_noise(len(hit), 10 ** (level_db / 10), rng)


def phase_noise(air, rng, linewidth):
    """A free-running oscillator's Wiener phase, of variance 2π·linewidth a sample (Pollet et al., IEEE Trans. Commun. 43, 1995).

    linewidth  cycles/sample
    """
    steps = rng.standard_normal(len(air.samples)) * np.sqrt(2 * np.pi * linewidth)
    return air.samples * np.exp(1j * np.cumsum(steps))


def hum(air, rng, rate, swing):
    """Mains hum on an oscillator's supply: the frequency moves by ±``swing`` at ``rate``, sinusoidally, both in cycles/sample."""
    turn = 2 * np.pi * rate * np.arange(len(air.samples)) + rng.uniform(0, 2 * np.pi)
    return air.samples * np.exp(1j * swing / rate * np.sin(turn))


def rayleigh(count, doppler, rng, sinusoids=32):
    """Rayleigh fading with Jakes' spectrum by a sum of sinusoids (Zheng and Xiao, IEEE Trans. Commun. 51(6), 2003): complex (n,).

    doppler  largest, cycles/sample

    The power over the realisation is 1.
    """
    turn = 2 * np.pi * doppler * np.arange(count)
    gain = np.zeros(count, complex)
    shift = rng.uniform(-np.pi, np.pi)
    for n in range(sinusoids):
        angle = (2 * np.pi * (n + 0.5) + shift) / (4 * sinusoids)
        inphase, quadrature = rng.uniform(-np.pi, np.pi, 2)
        gain += np.cos(turn * np.cos(angle) + inphase) + 1j * np.cos(turn * np.sin(angle) + quadrature)
    return gain / np.sqrt(np.mean(np.abs(gain) ** 2))


def fading(air, rng, doppler, delays=(0,), gains=(1.0,)):
    """Independent Rayleigh fading on taps at whole samples; mean power gain 1."""
    gains = np.array(gains) / np.linalg.norm(gains)
    taps = (g * rayleigh(len(air.samples), doppler, rng) * np.roll(air.samples, d) for d, g in zip(delays, gains))
    return sum(taps)


def missing(samples, spans, rng, count, every):
    """Samples that a radio or its driver lost, in one burst of ``every``, somewhere in its payload."""
    kept = np.ones(len(samples), bool)
    for index, (first, length) in enumerate(spans):
        if index % every == every // 2:
            at = first + int(length * rng.uniform(0.3, 0.7))
            kept[at : at + count] = False
    return samples[kept]


def as_it_is(samples, spans, rng):
    """Nothing happens to what is received."""
    return samples


def overlapping(air, rng, other, level_db, duty):
    """A second transmitter that does not listen before it sends: the bursts of ``other`` are on the air ``duty`` of the time."""
    added = np.zeros(len(air.samples), complex)
    begin = 0
    for first, count in itertools.cycle(other.spans):
        begin += int(count * (1 - duty) / duty * rng.uniform(0.5, 1.5))
        if begin + count > len(added):
            break
        added[begin : begin + count] += other.samples[first : first + count]
        begin += count
    return air.samples + 10 ** (level_db / 20) * added


@dataclass(frozen=True)
class Row:
    """One line of the table.

    group          for --only
    what           in words
    asked          largest loss, dB; None where nothing is asked for
    on_air         the impairment before noise is added
    received       the impairment of what is received
    burst_symbols  of the bursts
    cfo            carrier offset of all bursts in place of random ones, cycles/sample; its sign alternates
    max_offset     of the receiver; None for its default
    second         level of a second transmitter, dB; None where there is none
    duty           how much of the time that one is on the air, at any time; None where both take turns
    """

    group: str
    what: str
    asked: float | None
    on_air: Callable | None = None
    received: Callable = as_it_is
    burst_symbols: int = SHORT
    cfo: float | None = None
    max_offset: float | None = None
    second: float | None = None
    duty: float | None = None

    @property
    def plain(self):
        """The same without the impairment."""
        return Row(self.group, "", None, burst_symbols=self.burst_symbols)


_TAPS = {"delays": (0, 2, 5), "gains": (1.0, 0.6, 0.4)}

ROWS = (
    Row("cw", "a carrier in band, 0 dB", 0.5, partial(carrier, level_db=0)),
    Row("cw", "a carrier in band, +10 dB", 1.5, partial(carrier, level_db=10)),
    Row("packets", "packets like WiFi's, 0 dB, half of the time", 1.2, partial(packets, level_db=0, duty=0.5)),
    Row("impulses", "impulses, one sample in 1000, +20 dB", 0.2, partial(impulses, level_db=20, share=1e-3)),
    Row("phase", "phase noise, 100 Hz at 1 Msps", 0.3, partial(phase_noise, linewidth=100 / MEDIUM)),
    Row("phase", "phase noise, 1 kHz at 1 Msps", 2.0, partial(phase_noise, linewidth=1e3 / MEDIUM)),
    Row("phase", "phase noise, 10 Hz at 250 ksps", 0.3, partial(phase_noise, linewidth=10 / NARROW), burst_symbols=LONG),
    Row("phase", "phase noise, 100 Hz at 250 ksps", 2.0, partial(phase_noise, linewidth=100 / NARROW), burst_symbols=LONG),
    Row("hum", "hum, 50 Hz, ±100 Hz, at 250 ksps", 0.5, partial(hum, rate=50 / NARROW, swing=100 / NARROW), burst_symbols=LONG),
    Row("doppler", "Doppler 500 Hz at 1 Msps, flat", 2.0, partial(fading, doppler=500 / MEDIUM)),
    Row("doppler", "Doppler 500 Hz at 1 Msps, three taps", 2.0, partial(fading, doppler=500 / MEDIUM, **_TAPS)),
    Row("doppler", "Doppler 68 Hz at 250 ksps, flat", 2.0, partial(fading, doppler=68 / NARROW), burst_symbols=LONG),
    Row("second", "a second transmitter, −6 dB, always on", 1.5, duty=0.98, second=-6.0),
    Row("second", "a second transmitter, −6 dB, a third of the time", 1.5, duty=1 / 3, second=-6.0),
    Row("turns", "a second transmitter, −6 dB, taking turns", 0.1, second=-6.0),
    Row("missing", "10 samples missing in one burst of four", 1.0, received=partial(missing, count=10, every=4)),
    Row("missing", "1000 samples missing in one burst of four", 1.0, received=partial(missing, count=1000, every=4)),
    Row("dc", "DC at −10 dB, carrier offset 1 %", 0.1, partial(carrier, level_db=-10, frequency=0.0), cfo=0.01),
    Row("offset", "carrier offset ±6 %, the block's default", None, cfo=0.06),
    Row("offset", "carrier offset ±6 %, max_offset 0.1", 0.1, cfo=0.06, max_offset=0.1),
    Row("offset", "carrier offset ±9.9 %, max_offset 0.1", 0.2, cfo=0.099, max_offset=0.1),
    Row("offset", "carrier offset ±20 %, max_offset 0.2", 0.2, cfo=0.2, max_offset=0.2),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What was received of one Air.

    psnr       of each image, dB
    whole      images that came, and were not truncated
    truncated  and those that were
    headers    bursts whose header was read
    counters   of jscc_rx
    """

    psnr: np.ndarray
    whole: int
    truncated: int
    headers: int
    counters: dict


class Bench:
    """Measures rows.

    folder  of the images
    number  how many of them
    preset  of the air interface
    seed    of noise and impairments
    """

    def __init__(self, folder, number, preset, seed):
        self._images = [to_tensor(read_image(path)) for path in find_images(folder)[:number]]
        self._seed, self._preset, self._codec = seed, preset, load_codec(DEFAULT_CODEC)
        self._modulator = Modulator(find_preset(preset), CLIP_DB)

    def measure(self, row):
        """(Outcome, number of bursts sent, loss in dB)."""
        bursts = self._bursts(row.burst_symbols)
        plain = self._plain(row.plain)
        outcome = self._receive(row)
        return outcome, len(bursts), float(np.mean(plain.psnr) - np.mean(outcome.psnr))

    @lru_cache(maxsize=8)  # noqa: B019 (one object a run)
    def _plain(self, row):
        return self._receive(row)

    @cached_property
    def _encoded(self):
        return [self._codec.encode(image, SNR_DB, RATE, image_id=index) for index, image in enumerate(self._images)]

    @cached_property
    def _others(self):
        return [self._codec.encode(image, SNR_DB, RATE, image_id=OTHERS + index) for index, image in enumerate(self._images[::-1])]

    @lru_cache(maxsize=4)  # noqa: B019 (one object a run)
    def _bursts(self, burst_symbols, other=False):
        sent = self._others if other else self._encoded
        parts = (part for symbols in sent for part in fragments(symbols, burst_symbols, session=int(other)))
        return [self._modulator.fragment(fragment, payload) for fragment, payload in parts]

    def _place(self, bursts, row, rng):
        """Bursts in a row, with gaps."""
        pieces, spans, position = [], [], 0
        for index, burst in enumerate(bursts):
            gap = int(rng.integers(*GAPS))
            offset = rng.uniform(-MAX_CFO, MAX_CFO)
            if row.cfo is not None:
                offset = row.cfo * (-1) ** index
            padded = delay(np.pad(burst, PADDING), rng.uniform(-0.5, 0.5))
            turns = offset * np.arange(len(padded)) + rng.uniform()
            pieces += [np.zeros(gap, np.complex64), (padded * np.exp(2j * np.pi * turns)).astype(np.complex64)]
            spans.append((position + gap + PADDING, len(burst)))
            position += gap + len(padded)
        return Air(np.concatenate((*pieces, np.zeros(TAIL, np.complex64))), spans)

    def _receive(self, row):
        rng, impairment, noise = (np.random.default_rng(self._seed + n) for n in range(3))
        bursts, others = self._bursts(row.burst_symbols), self._bursts(row.burst_symbols, other=True)
        if row.second is not None and row.duty is None:
            weak = [10 ** (row.second / 20) * burst for burst in others]
            bursts = [burst for turn in zip(bursts, weak) for burst in turn]
        air = self._place(bursts, row, rng)
        samples = air.samples
        if row.duty is not None:
            samples = overlapping(air, impairment, self._place(others, row, impairment), row.second, row.duty)
        if row.on_air is not None:
            samples = row.on_air(air, impairment)
        variance = 10 ** (-SNR_DB / 10) / BANDWIDTH
        samples = samples + white_noise(len(samples), variance, noise)
        return self._outcome(row.received(samples, air.spans, impairment).astype(np.complex64), row)

    def _outcome(self, samples, row):
        options = {} if row.max_offset is None else {"max_offset": row.max_offset}
        receiver = diffjscc.jscc_rx(self._preset, self._codec, deadline=None, **options)
        flowgraph, symbols, images = gr.top_block(), blocks.vector_sink_c(), blocks.message_debug(False)
        flowgraph.connect(blocks.vector_source_c(samples), receiver, symbols)
        flowgraph.connect((receiver, 1), blocks.null_sink(gr.sizeof_gr_complex))
        flowgraph.msg_connect((receiver, "images"), (images, "store"))
        flowgraph.run()
        ours = {}
        for index in range(images.num_messages()):
            pixels, metadata = image_from_pdu(images.get_message(index))
            number = metadata["image_id"]
            if number < OTHERS:
                # An image that was given out in pieces counts by the best of them.
                quality = psnr(to_tensor(pixels), self._images[number]), not metadata["truncated"]
                ours[number] = max(quality, ours.get(number, quality))
        values = [ours[index][0] if index in ours else self._blank(index) for index in range(len(self._images))]
        whole = sum(complete for _, complete in ours.values())
        counters = receiver.counters()
        return Outcome(np.array(values), whole, len(ours) - whole, self._headers(symbols.tags()), counters)

    def _headers(self, tags):
        """Bursts of the measured transmitter's that came with their header."""
        packed = [bytes(pmt.u8vector_elements(tag.value)) for tag in tags if pmt.eq(tag.key, BURST_HEADER_TAG)]
        found = {unpack_image(image, lambda number: self._codec.name) for image in packed}
        return sum(fragment.header.image_id < OTHERS for fragment in found)

    @lru_cache(maxsize=64)  # noqa: B019 (one object a run)
    def _blank(self, index):
        """PSNR of an image of which nothing came."""
        header = self._encoded[index].header
        count = header.symbol_count
        nothing = Reception(np.zeros(count, np.complex64), np.full(count, np.inf, np.float32), SNR_DB)
        with torch.inference_mode():
            return psnr(self._codec.decode(nothing, header), self._images[index])


def counted(counters):
    """What the receiver says went wrong, in words."""
    numbers = counters["bursts"] | counters
    shown = {name: numbers[name] for name in ("rejected", "interrupted", "truncated", "late") if numbers[name]}
    shown |= {f"dropped: {reason}": number for reason, number in counters["dropped"].items()}
    return ", ".join(f"{name} {number}" for name, number in shown.items()) or "nothing"


def line(row, outcome, sent, images, loss):
    """A row of the Markdown table."""
    asked, met = "", ""
    if row.asked is not None:
        asked, met = f"≤ {row.asked:g}", "yes" if loss <= row.asked else "**no**"
    lost = images - outcome.whole - outcome.truncated
    return (
        f"| {row.what} | {outcome.headers}/{sent} | {outcome.whole}, {outcome.truncated}, {lost} | {loss:.2f} | {asked} | {met} "
        f"| {counted(outcome.counters)} |"
    )


def main():
    groups = tuple(dict.fromkeys(row.group for row in ROWS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kodak", type=Path, help="folder of images")
    parser.add_argument("--only", nargs="+", choices=groups, default=groups, metavar="ROWS", help=f"of {', '.join(groups)}")
    parser.add_argument("--images", type=int, default=10, metavar="N", help="how many are sent (default: %(default)s)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="ofdm256", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of noise and impairments (default: %(default)s)")
    arguments = parser.parse_args()
    # Blocks log to the standard output, where the table is to be.
    gr.logging().set_default_level(gr.log_levels.err)
    bench = Bench(arguments.kodak, arguments.images, arguments.preset, arguments.seed)
    print("| | headers | images whole, truncated, lost | loss, dB | asked | met | counted |\n|---|---|---|---|---|---|---|")
    for row in ROWS:
        if row.group in arguments.only:
            start = time.perf_counter()
            outcome, sent, loss = bench.measure(row)
            print(line(row, outcome, sent, arguments.images, loss), flush=True)
            print(f"{row.what}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
