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
from diffjscc.evaluate.systems.channel_codes import CODES, find_code
from diffjscc.evaluate.systems.error_rates import TABLE
from diffjscc.evaluate.systems.modulation import CONSTELLATIONS, demodulate, modulate

#: Eb/N0 in dB at which the block error rate is 10⁻², block 1944, BPSK or QPSK, belief propagation: read off the curves of 50 000
#: blocks a point that accompany Tavildar's implementation (github.com/tavildar/LDPC, results/wifi_ldpc_qpsk.png).
PUBLISHED = {"wifi-1/2": 1.72, "wifi-2/3": 2.32, "wifi-3/4": 2.84}

#: The block error rate at which curves are compared.
TARGET = 1e-2

#: Coded bits of the 5G blocks of the table; longer ones fail less often.
NR_CODED_BITS = 3072

#: Of the table: step in dB, and the rate at which a curve ends.
STEP_DB, LOWEST = 0.25, 3e-3


def block_errors(code, constellation, snr_db, blocks, enough, seed=0, batch=40):
    """(errors, blocks) of random blocks over AWGN; ends early after ``enough`` errors."""
    code, bits_per_symbol = find_code(code), CONSTELLATIONS[constellation]
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
    print("| code, BPSK | published Eb/N0 at 10⁻² | measured Eb/N0 | γ = Es/N0 | blocks a point |\n|---|---|---|---|---|")
    worst = 0.0
    for code, published in PUBLISHED.items():
        shift = 10 * math.log10(find_code(code).rate)
        grid = published + np.arange(-0.3, 0.21, 0.1)
        rates = []
        for ebn0 in tqdm(grid, desc=code, unit="point", leave=False):
            errors, sent = block_errors(code, "bpsk", ebn0 + shift, blocks, enough=400)
            rates.append(max(errors, 0.5) / sent)
        measured = crossing(grid, rates, TARGET)
        worst = max(worst, abs(measured - published))
        print(f"| {code} | {published:.2f} dB | {measured:.2f} dB | {measured + shift:.2f} dB | {blocks} |", flush=True)
    return worst


def table(blocks):
    rates = {}
    pairs = [(code, c) for code in CODES for c in CONSTELLATIONS if code.startswith("wifi") or c != "bpsk"]
    for code, constellation in tqdm(pairs, unit="curve"):
        efficiency = float(find_code(code).rate) * CONSTELLATIONS[constellation]
        # Nothing arrives below capacity.
        snr_db = STEP_DB * math.ceil(10 * math.log10(2**efficiency - 1) / STEP_DB)
        points = []
        while not points or points[-1][1] > LOWEST:
            errors, sent = block_errors(code, constellation, snr_db, blocks, enough=max(20, blocks // 10))
            rate = max(errors, 0.5) / sent
            # Of the points at which nothing arrives the last is enough.
            if len(points) == 1 and points[0][1] == 1 and rate == 1:
                points = []
            points.append([snr_db, round(rate, 5)])
            snr_db += STEP_DB
        rates.setdefault(code, {})[constellation] = points
        tqdm.write(f"{code} {constellation} {points}")
    TABLE.write_text(_written(rates, blocks))


def _written(rates, blocks):
    curves = ",\n".join(
        f'  "{code}": {{\n' + ",\n".join(f'   "{name}": {json.dumps(points)}' for name, points in curves.items()) + "\n  }"
        for code, curves in rates.items()
    )
    about = f"SNR in dB and block error rate over AWGN, at most {blocks} blocks a point: python tests/bench/ldpc.py --table"
    return f'{{\n "about": {json.dumps(about)},\n "rates": {{\n{curves}\n }}\n}}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, help="blocks a point (default: 4000; for the table 400)")
    parser.add_argument("--table", action="store_true", help="measure the table that `code: best` uses")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        table(arguments.blocks or 400)
    elif compare(arguments.blocks or 4000) > 0.3:
        sys.exit("a code is more than 0.3 dB off the published curve")


if __name__ == "__main__":
    main()
