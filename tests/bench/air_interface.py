#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How good the air interface is: a table of what was measured beside what is asked for, and a plot.

    air_interface.py --kodak kodak/ --plot docs/images/air_interface.webp
    air_interface.py --only detection false_alarms --full

Every row has its own fixed seeds. GNU Radio's stock OFDM chain meets the same channel in the same run. Rows of images want
--kodak; rows of throughput want a machine that does nothing else.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import air_interface_link as link
import air_interface_stock as stock
import numpy as np
from gnuradio import analog, blocks, diffjscc, gr

from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import BANDWIDTH, find_preset

DETECTION_SNRS = (-9, -8, -7, -6, -5, -4, -3, -1, 0, 2)
DETECTION_GOALS = {0: 0.999, -3: 0.99, -5: 0.9}
EQUALISATION_SNRS = (0, 3.5, 7, 10.5, 14)
ESTIMATE_SNRS = (-3, 1, 5, 10, 15, 20)
STOCK_SNRS = (0, 2, 4, 6, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22)

#: Payloads of an image at 1/128, and of the bursts that burst_tx makes by default.
SHORT, LONG = 3072, 6144

#: Of an oscillator whose phase the receiver must follow, of the sample rate: 1 kHz at 1 Msps.
LINEWIDTH = 1e-3


@dataclass
class Row:
    """One line of the table; met is None where nothing is asked for."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None

    def __str__(self):
        verdict = {True: "yes", False: "**no**", None: ""}[self.met]
        return f"| {self.what} | {self.measured} | {self.goal} | {verdict} |"


class Bench:
    """Measures rows; what they leave in ``curves`` is plotted: {panel: {label: [(snr_db, value)]}}."""

    def __init__(self, bursts, full, passes, kodak):
        self._bursts, self._full, self._passes, self._kodak = bursts, full, passes, kodak
        self._images = None
        self.curves = {"headers": {}, "losses": {}}

    def detection(self):
        """Detected, header right: AWGN, carrier offset and timing random."""
        for preset in link.RADIO_PRESETS:
            points = self._points(preset, SHORT, map(link.Channel, DETECTION_SNRS))
            self.curves["headers"][preset] = [(snr, point.right / point.sent) for snr, point in points.items()]
            for snr_db, goal in DETECTION_GOALS.items():
                share = points[snr_db].right / points[snr_db].sent
                yield Row(f"{preset}: header right at {snr_db} dB", f"{share:.2%}", f"≥ {goal:.1%}", share >= goal)
            wrong = sum(point.wrong for point in points.values())
            yield Row(f"{preset}: headers accepted that nobody sent", f"{wrong} in {len(points) * self._bursts}")

    def false_alarms(self):
        """The detector alone on white noise."""
        count = 3 * 10**9 if self._full else 3 * 10**8
        found = false_alarms(diffjscc.burst_detector(), count)
        # No event in n trials: the rate is below 3/n with 95 % confidence.
        bound = f", so below {3 / count:.0e} with 95 % confidence" if found == 0 else ""
        yield Row("false alarms a sample of noise", f"{found} in {count:.0e}{bound}", "≤ 1e-08", found / count <= 1e-8)
        found = false_alarms(diffjscc.burst_detector(1e-6), count // 10)
        yield Row("the same, 1e-06 asked for", f"{found / count * 10:.1e}", "≤ 1e-06", found / count * 10 <= 1e-6)

    def equalisation(self):
        """Channel's SNR less that of the payload."""
        kinds = (("AWGN", 0.8, {"max_cfo": 0}), ("±40 ppm, carrier offset", 1.5, {"clock_ppm": 40}))
        for (preset, length), (kind, goal, options) in itertools.product(
            (("ofdm64", SHORT), ("ofdm256", SHORT), ("ofdm256", LONG)), kinds
        ):
            points = self._points(preset, length, (link.Channel(snr, **options) for snr in EQUALISATION_SNRS))
            losses = {snr: point.loss_db for snr, point in points.items()}
            label = f"{preset}, {length} symbols, {kind}"
            self.curves["losses"][label] = list(losses.items())
            what = f"{label}: SNR lost at {joined(losses)} dB"
            yield Row(what, f"{joined(f'{loss:.2f}' for loss in losses.values())} dB", f"≤ {goal} dB", max(losses.values()) <= goal)

    def snr_estimate(self):
        """rms error of the estimate."""
        for preset in link.RADIO_PRESETS:
            points = self._points(preset, SHORT, map(link.Channel, ESTIMATE_SNRS))
            errors = [point.error_db for point in points.values()]
            what = f"{preset}: SNR estimate's rms error at {joined(points)} dB"
            yield Row(what, f"{joined(f'{error:.2f}' for error in errors)} dB", "≤ 0.7 dB", max(errors) <= 0.7)

    def multipath(self):
        """Three Rayleigh taps, 10 dB on average."""
        fadings = {"static": link.Fading(), "10 Hz Doppler": link.Fading(doppler=10.0)}
        for preset, (name, fading) in itertools.product(link.RADIO_PRESETS, fadings.items()):
            point = self._points(preset, SHORT, [link.Channel(10, fading=fading)])[10]
            share = point.right / point.sent
            yield Row(f"{preset}, multipath, {name}, 10 dB: header right", f"{share:.1%}", "≥ 99 %", share >= 0.99)
        for rate in ("1/32", "1/128"):
            still = self._air(rate, link.Channel(10))
            for name, fading in fadings.items():
                loss = np.mean(still) - np.mean(
                    [self._air(rate, link.Channel(10, fading=fading), seed) for seed in range(self._passes)]
                )
                what = f"multipath, {name}, 10 dB, R = {rate}: PSNR below AWGN's"
                yield Row(what, f"{loss:.2f} dB", "≤ 1.5 dB", loss <= 1.5)

    def images(self):
        """The whole air interface against the ideal symbol channel."""
        for rate, snr_db in itertools.product(("1/32", "1/128"), (1, 7, 13)):
            ideal = self._kodak_images().ideal(rate, snr_db)
            air = self._air(rate, link.Channel(snr_db))
            loss = np.mean(ideal - air)
            measured = (
                f"{np.mean(air):.2f} dB, {loss:.2f} dB below {np.mean(ideal):.2f} dB (worst image {np.max(ideal - air):.2f} dB)"
            )
            yield Row(f"images, R = {rate}, {snr_db} dB", measured, "≤ 0.4 dB below", loss <= 0.4)

    def losses(self):
        """Every tenth burst never arrives."""
        for burst_symbols in (LONG, 1229):
            images, channel = self._kodak_images(), link.Channel(7)
            whole, _ = images.air("1/32", channel, np.random.default_rng(1), burst_symbols)
            holed, touched = images.air("1/32", channel, np.random.default_rng(1), burst_symbols, lost_every=10)
            loss = whole - holed
            measured = (
                f"{np.mean(loss):.2f} dB over all, {np.mean(loss[touched]):.2f} dB over the {touched.sum()} that lost some, "
                f"at most {np.max(loss):.2f} dB"
            )
            what = f"one burst of ten lost, bursts of {burst_symbols}, R = 1/32, 7 dB: PSNR loss"
            yield Row(what, measured, "≤ 1.5 dB", np.mean(loss) <= 1.5)

    def overhead(self):
        """Share of the occupied time and bandwidth that is not payload; silence between bursts left out."""
        for symbols, goal in ((3072, 0.45), (12288, 0.25)):
            count = -(-symbols // LONG)
            samples = count * find_preset("ofdm256").burst_len(symbols // count)
            share = 1 - symbols / (samples * BANDWIDTH)
            yield Row(f"ofdm256: overhead at {symbols} symbols", f"{share:.1%}", f"≤ {goal:.0%}", share <= goal)

    def throughput(self):
        """Million samples a second on one CPU."""
        rng = np.random.default_rng(1)
        noise = link.white_noise(1 << 20, 1.0, rng)
        speed = throughput(our_receiver, noise, 20)
        yield Row("receiver, one core: searching", f"{speed:.1f} Msps", "≥ 15 Msps", speed >= 15)
        modulator = Modulator(find_preset("ofdm256"), link.CLIP_DB)
        for length in (SHORT, LONG):
            bursts = [modulator(link.white_noise(length, 1.0, rng), rng.bytes(11)) for _ in range(100)]
            speed = throughput(our_receiver, back_to_back(bursts, 10, rng), 15)
            yield Row(f"receiver, one core: bursts of {length} back to back, 10 dB", f"{speed:.1f} Msps", "≥ 6 Msps", speed >= 6)
            if length == SHORT:
                turned = back_to_back([turn(burst, rng) for burst in bursts], 10, rng)
                speed = throughput(our_receiver, turned, 1)
                yield Row(f"receiver, one core: the same with phase noise, {LINEWIDTH:g} of the sample rate", f"{speed:.2f} Msps")
        speed = throughput(stock_receiver, noise, 10)
        yield Row("stock chain, one core: searching", f"{speed:.1f} Msps")
        for size in (stock.PACKET, stock.LONG_PACKET):
            packets = stock.modulate(stock.draw_packets(200, rng, size))
            speed = throughput(stock_receiver, back_to_back(packets, 25, rng), 5)
            yield Row(f"stock chain, one core: packets of {size} bytes back to back, 25 dB", f"{speed:.1f} Msps")

    def clipping(self):
        """What the clip level costs and gives."""
        for clip_db in (6.0, 8.0, 9.0, 10.0, float("inf")):
            channels = [link.Channel(snr) for snr in (14, 20)]
            points = self._points("ofdm256", SHORT, channels, clip_db)
            lost = joined(f"{point.loss_db:.2f}" for point in points.values())
            what = f"clip_db = {clip_db:g}: SNR lost at 14, 20 dB; peak over mean power"
            yield Row(what, f"{lost} dB; {peak_to_average(clip_db):.1f} dB")

    def stock(self):
        """Packets that the stock chain delivers."""
        points = {snr: stock.delivery(snr, self._bursts, np.random.default_rng(1)) for snr in STOCK_SNRS}
        weakest = stock.preamble_level_db()
        self.curves["headers"]["stock OFDM chain"] = list(points.items())
        self.curves["headers"]["stock, by its preamble's SNR"] = [(snr + weakest, share) for snr, share in points.items()]
        shares = joined(f"{share:.0%}" for share in points.values())
        yield Row(f"stock chain: packets delivered at {joined(points)} dB", shares)
        yield Row("stock chain: power of its preamble over its packets'", f"{weakest:.1f} dB")

    def _points(self, preset, length, channels, clip_db=link.CLIP_DB):
        rng = np.random.default_rng(1)
        return {c.snr_db: link.measure(preset, length, c, self._bursts, rng, clip_db) for c in channels}

    def _kodak_images(self):
        if self._images is None:
            from air_interface_images import Images

            self._images = Images(self._kodak, "ofdm256")
        return self._images

    def _air(self, rate, channel, seed=1):
        return self._kodak_images().air(rate, channel, np.random.default_rng(seed))[0]


ROWS = (
    "detection",
    "false_alarms",
    "equalisation",
    "snr_estimate",
    "multipath",
    "images",
    "losses",
    "overhead",
    "throughput",
    "clipping",
    "stock",
)
OF_IMAGES = {"multipath", "images", "losses"}


def joined(values):
    return ", ".join(map(str, values))


def false_alarms(detector, count):
    """What the detector finds in so many samples of noise."""
    flowgraph = gr.top_block()
    noise = analog.fastnoise_source_c(analog.GR_GAUSSIAN, 1.0, 1, 1 << 16)
    flowgraph.connect(noise, blocks.head(gr.sizeof_gr_complex, count), detector, blocks.null_sink(gr.sizeof_gr_complex))
    flowgraph.run()
    return detector.detected()


def peak_to_average(clip_db):
    """Mean over bursts of their highest sample's power over their mean power, dB."""
    rng = np.random.default_rng(1)
    modulator = Modulator(find_preset("ofdm256"), clip_db)
    powers = [np.abs(modulator(link.white_noise(SHORT, 1.0, rng), rng.bytes(11))) ** 2 for _ in range(200)]
    return 10 * np.log10(np.mean([np.max(power) / np.mean(power) for power in powers]))


def our_receiver():
    return diffjscc.burst_rx("ofdm256"), (gr.sizeof_gr_complex, gr.sizeof_float, gr.sizeof_gr_complex)


def stock_receiver():
    return stock.receiver(), (gr.sizeof_char,)


def back_to_back(bursts, snr_db, rng):
    samples = np.concatenate(bursts)
    return samples + link.white_noise(len(samples), np.mean(np.abs(samples) ** 2) * 10 ** (-snr_db / 10) / BANDWIDTH, rng)


def turn(burst, rng):
    """A burst with the phase noise of an oscillator of `LINEWIDTH`, a Wiener process."""
    return burst * np.exp(1j * np.cumsum(rng.normal(0, math.sqrt(2 * math.pi * LINEWIDTH), len(burst))))


def throughput(make_receiver, samples, repeats, runs=5):
    """Msps, median over runs, of a receiver that meets ``samples`` over and over; every thread on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        return statistics.median(_speed(make_receiver, samples, repeats) for _ in range(runs))
    finally:
        os.sched_setaffinity(0, allowed)


def _speed(make_receiver, samples, repeats):
    flowgraph, (receiver, sizes) = gr.top_block(), make_receiver()
    count = len(samples) * repeats
    source = blocks.vector_source_c(samples, True)
    flowgraph.connect(source, blocks.head(gr.sizeof_gr_complex, count), receiver)
    for port, size in enumerate(sizes):
        flowgraph.connect((receiver, port), blocks.null_sink(size))
    start = time.perf_counter()
    flowgraph.run()
    return count / (time.perf_counter() - start) / 1e6


def plot(curves, path):
    """Header success and what equalisation loses, over SNR."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    figure, (headers, losses) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for label, points in curves["headers"].items():
        style = {"color": "0.4", "linestyle": "--" if "preamble" in label else "-"} if "stock" in label else {}
        headers.plot(*zip(*points), marker=".", label=label, **style)
    headers.plot(list(DETECTION_GOALS), list(DETECTION_GOALS.values()), "k^", label="goal")
    headers.set(xlabel="SNR, dB", ylabel="share received", title="Header right (ours), packet delivered (stock)")
    for label, points in curves["losses"].items():
        losses.plot(*zip(*points), marker=".", linestyle="--" if "ppm" in label else "-", label=label)
    losses.set(
        xlabel="SNR of the channel, dB", ylabel="SNR lost, dB", title="Channel's SNR less the payload's (goals: 0.8 dB, 1.5 dB)"
    )
    losses.set_ylim(bottom=0)
    # Between the receivers' curves, which leave it little room.
    for axes, place in ((headers, (0.32, 0.3)), (losses, "best")):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="x-small", loc=place)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").save(path, lossless=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=f"rows: {joined(ROWS)}")
    parser.add_argument("--bursts", type=int, default=1000, help="bursts, or packets, a point (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=3, help="fading channels an image (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="false alarms over ten times as many samples")
    parser.add_argument("--kodak", type=Path, help="folder of the 24 images")
    parser.add_argument("--plot", type=Path, help="image to write")
    arguments = parser.parse_args()
    if arguments.kodak is None and OF_IMAGES & set(arguments.only):
        parser.error(f"{joined(sorted(OF_IMAGES & set(arguments.only)))}: give the images with --kodak FOLDER")
    # Blocks log to the standard output, where the table is to be. At -9 dB some bursts are unreadable, and that is a warning.
    gr.logging().set_default_level(gr.log_levels.err)
    bench = Bench(arguments.bursts, arguments.full, arguments.passes, arguments.kodak)
    print("| | measured | goal | met |\n|---|---|---|---|")
    for name in arguments.only:
        start = time.perf_counter()
        for row in getattr(bench, name)():
            print(row, flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if arguments.plot is not None:
        plot(bench.curves, arguments.plot)


if __name__ == "__main__":
    main()
