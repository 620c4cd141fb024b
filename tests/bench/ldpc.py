#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block error rates of the channel codes of `diffjscc.evaluate.systems.separate`.

    python tests/bench/ldpc.py            the IEEE 802.11n codes with BPSK beside published curves
    python tests/bench/ldpc.py --table    measures the table by which `code: best` chooses, and stores it in the package

The SNR of this project, γ, is that of a complex symbol: Es/N0. With R·m information bits a symbol, Eb/N0 = γ − 10 log₁₀(R·m).
BPSK uses the real part alone, with noise of N0/2 there, so that its Eb/N0 is that of the textbooks.
"""

import argparse
import json
import math
import sys

import numpy as np
import torch
from tqdm import tqdm

from diffjscc.channel import transmit_values
from diffjscc.evaluate.systems.channel_codes import ITERATIONS, ChannelCode, WifiCode, find_code
from diffjscc.evaluate.systems.error_rates import TABLE
from diffjscc.evaluate.systems.modulation import CONSTELLATIONS, demodulate, modulate

#: Eb/N0 in dB at which the block error rate is 10⁻², block 1944, BPSK or QPSK, 20 iterations of the sum-product algorithm: read off
#: the curves of Tavildar's implementation (github.com/tavildar/LDPC, results/wifi_ldpc_qpsk.png), 50 000 blocks a point.
PUBLISHED = {"1/2": 1.72, "2/3": 2.32, "3/4": 2.84}
PUBLISHED_ITERATIONS = 20

#: The block error rate at which curves are compared.
TARGET = 1e-2

#: Coded bits of the 5G blocks of the table; longer ones fail less often.
NR_CODED_BITS = 3072

#: Curves of the table; those of BPSK follow from QPSK's. Other rates of a constellation lose against another constellation.
CURVES = (
    *((f"wifi-{rate}", c) for rate in ("1/2", "2/3", "3/4", "5/6") for c in ("qpsk", "16qam", "64qam")),
    *((f"nr-{rate}", "qpsk") for rate in ("1/3", "2/5", "9/20", "1/2", "3/5", "2/3")),
    *((f"nr-{rate}", "16qam") for rate in ("9/20", "1/2", "3/5", "2/3")),
    *((f"nr-{rate}", "64qam") for rate in ("1/2", "3/5", "2/3", "3/4", "5/6")),
)

#: Of the table: step in dB, and the rate at which a curve ends.
STEP_DB, LOWEST = 0.5, 1e-2


def block_errors(code: ChannelCode, constellation, snr_db, blocks, enough, seed=0, batch=100):
    """(errors, blocks) of random blocks over AWGN; ends early after ``enough`` errors."""
    bits_per_symbol = CONSTELLATIONS[constellation]
    length = 1944 if code.name.startswith("wifi") else NR_CODED_BITS
    (one,) = code.split(length // bits_per_symbol, bits_per_symbol)
    random = np.random.default_rng(seed)
    errors = sent = 0
    while sent < blocks and errors < enough:
        parts = [one] * min(batch, blocks - sent)
        bits = random.integers(0, 2, one.bits * len(parts), dtype=np.uint8)
        symbols = modulate(code.encode(bits, parts, bits_per_symbol), constellation)
        llrs = demodulate(transmit_values(symbols, snr_db, seed=seed * 100_003 + sent), constellation)
        decided, _ = code.decode(llrs, parts, bits_per_symbol)
        errors += int((decided != bits).reshape(len(parts), -1).any(axis=1).sum())
        sent += len(parts)
    return errors, sent


def crossing(snrs, rates, target):
    """The SNR at which a falling curve crosses the target, by interpolation in the logarithm."""
    return float(np.interp(-math.log10(target), -np.log10(np.maximum(rates, 1e-9)), snrs))


def compare(blocks):
    """Prints the table, and returns the largest distance from a published curve at the same number of iterations, dB."""
    few, many = PUBLISHED_ITERATIONS, max(ITERATIONS)
    print(f"| rate, BPSK | Eb/N0 at 10⁻², published | measured, {few} iterations | as in `separate`, {many} |")
    print("|---|---|---|---|")
    worst = 0.0
    for rate, published in PUBLISHED.items():
        measured = []
        for code in (WifiCode(rate, (PUBLISHED_ITERATIONS,)), WifiCode(rate)):
            grid = published + np.arange(-0.4, 0.21, 0.1)
            rates = []
            for ebn0 in tqdm(grid, desc=rate, unit="point", leave=False):
                errors, sent = block_errors(code, "bpsk", ebn0 + 10 * math.log10(code.rate), blocks, enough=100)
                rates.append(max(errors, 0.5) / sent)
                if rates[-1] < TARGET / 2:
                    break
            measured.append(crossing(grid[: len(rates)], rates, TARGET))
        worst = max(worst, abs(measured[0] - published))
        es = (f"{value:.2f} dB (γ = {value + 10 * math.log10(code.rate):.2f} dB)" for value in measured)
        print(f"| {rate} | {published:.2f} dB | {' | '.join(es)} |", flush=True)
    return worst


def table(blocks):
    """Measures the curves that the stored table lacks, and stores it after each."""
    rates = json.loads(TABLE.read_text())["rates"] if TABLE.is_file() else {}
    for code, constellation in tqdm(CURVES, unit="curve"):
        curves = rates.setdefault(code, {})
        if constellation in curves:
            continue
        curves[constellation] = points = curve(find_code(code), constellation, blocks)
        if constellation == "qpsk":
            # Each of its two dimensions is BPSK with half the power.
            curves["bpsk"] = [[round(snr - 10 * math.log10(2), 3), rate] for snr, rate in points]
        TABLE.write_text(_written(rates, blocks))


def curve(code, constellation, blocks):
    """[[SNR in dB, block error rate], …] from where little arrives to where little fails."""
    # Nothing arrives below capacity, and little just above it.
    limit = 10 * math.log10(2 ** (float(code.rate) * CONSTELLATIONS[constellation]) - 1)
    snr_db = STEP_DB * math.ceil((limit + 0.5) / STEP_DB)
    points = []
    while not points or points[-1][1] > LOWEST:
        errors, sent = block_errors(code, constellation, snr_db, blocks, enough=20, batch=20)
        rate = max(errors, 0.5) / sent
        # Of the points at which nothing arrives the last is enough.
        if len(points) == 1 and points[0][1] == 1 and rate == 1:
            points = []
        points.append([snr_db, round(rate, 5)])
        snr_db += STEP_DB
    return points


def _written(rates, blocks):
    curves = ",\n".join(
        f'  "{code}": {{\n' + ",\n".join(f'   "{name}": {json.dumps(points)}' for name, points in curves.items()) + "\n  }"
        for code, curves in rates.items()
    )
    about = f"SNR in dB and block error rate over AWGN, at most {blocks} blocks a point: python tests/bench/ldpc.py --table"
    return f'{{\n "about": {json.dumps(about)},\n "rates": {{\n{curves}\n }}\n}}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, help="blocks a point (default: 2000; for the table 160)")
    parser.add_argument("--table", action="store_true", help="measure the curves that the table of `code: best` lacks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        table(arguments.blocks or 160)
    elif compare(arguments.blocks or 2000) > 0.3:
        sys.exit("a code is more than 0.3 dB off the published curve")


if __name__ == "__main__":
    main()
