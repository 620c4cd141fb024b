# SPDX-License-Identifier: GPL-3.0-or-later
"""The LDPC codes of IEEE 802.11n with blocks of 1944 bits.

A prototype matrix has a row for 81 parity checks and a column for 81 bits. An entry s ≥ 0 stands for the identity matrix with its
columns shifted cyclically by s, a dot for zeros (IEEE 802.11-2012, annex F, table F-3).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

#: Rows and columns of a block of the prototypes.
LIFTING = 81

#: Bits of a code word.
BLOCK_BITS = 24 * LIFTING

_PROTOTYPES = {
    "1/2": """
        57  .  .  . 50  . 11  . 50  . 79  .  1  0  .  .  .  .  .  .  .  .  .  .
         3  . 28  .  0  .  .  . 55  7  .  .  .  0  0  .  .  .  .  .  .  .  .  .
        30  .  .  . 24 37  .  . 56 14  .  .  .  .  0  0  .  .  .  .  .  .  .  .
        62 53  .  . 53  .  .  3 35  .  .  .  .  .  .  0  0  .  .  .  .  .  .  .
        40  .  . 20 66  .  . 22 28  .  .  .  .  .  .  .  0  0  .  .  .  .  .  .
         0  .  .  .  8  . 42  . 50  .  .  8  .  .  .  .  .  0  0  .  .  .  .  .
        69 79 79  .  .  . 56  . 52  .  .  .  0  .  .  .  .  .  0  0  .  .  .  .
        65  .  .  . 38 57  .  . 72  . 27  .  .  .  .  .  .  .  .  0  0  .  .  .
        64  .  .  . 14 52  .  . 30  .  . 32  .  .  .  .  .  .  .  .  0  0  .  .
         . 45  . 70  0  .  .  . 77  9  .  .  .  .  .  .  .  .  .  .  .  0  0  .
         2 56  . 57 35  .  .  .  .  . 12  .  .  .  .  .  .  .  .  .  .  .  0  0
        24  . 61  . 60  .  . 27 51  .  . 16  1  .  .  .  .  .  .  .  .  .  .  0
    """,
    "2/3": """
        61 75  4 63 56  .  .  .  .  .  .  8  .  2 17 25  1  0  .  .  .  .  .  .
        56 74 77 20  .  .  . 64 24  4 67  .  7  .  .  .  .  0  0  .  .  .  .  .
        28 21 68 10  7 14 65  .  .  . 23  .  .  . 75  .  .  .  0  0  .  .  .  .
        48 38 43 78 76  .  .  .  .  5 36  . 15 72  .  .  .  .  .  0  0  .  .  .
        40  2 53 25  . 52 62  . 20  .  . 44  .  .  .  .  0  .  .  .  0  0  .  .
        69 23 64 10 22  . 21  .  .  .  .  . 68 23 29  .  .  .  .  .  .  0  0  .
        12  0 68 20 55 61  . 40  .  .  . 52  .  .  . 44  .  .  .  .  .  .  0  0
        58  8 34 64 78  .  . 11 78 24  .  .  .  .  . 58  1  .  .  .  .  .  .  0
    """,
    "3/4": """
        48 29 28 39  9 61  .  .  . 63 45 80  .  .  . 37 32 22  1  0  .  .  .  .
         4 49 42 48 11 30  .  .  . 49 17 41 37 15  . 54  .  .  .  0  0  .  .  .
        35 76 78 51 37 35 21  . 17 64  .  .  . 59  7  .  . 32  .  .  0  0  .  .
         9 65 44  9 54 56 73 34 42  .  .  . 35  .  .  . 46 39  0  .  .  0  0  .
         3 62  7 80 68 26  . 80 55  . 36  . 26  .  9  . 72  .  .  .  .  .  0  0
        26 75 33 21 69 59  3 38  .  .  . 35  . 62 36 26  .  .  1  .  .  .  .  0
    """,
    "5/6": """
        13 48 80 66  4 74  7 30 76 52 37 60  . 49 73 31 74 73 23  .  1  0  .  .
        69 63 74 56 64 77 57 65  6 16 51  . 64  . 68  9 48 62 54 27  .  0  0  .
        51 15  0 80 24 25 42 54 44 71 71  9 67 35  . 58  . 29  . 53  0  .  0  0
        16 29 36 41 44 56 59 37 50 24  . 65  4 65 52  .  4  . 73 52  1  .  .  0
    """,
}

#: Code rates, ascending.
RATES = tuple(_PROTOTYPES)


def prototype(rate: str) -> np.ndarray:
    """Shifts, int (rows, 24), −1 for zeros."""
    rows = [row.replace(".", "-1").split() for row in _PROTOTYPES[rate].strip().splitlines()]
    return np.array(rows, int)


@lru_cache(maxsize=4)
def parity_check_matrix(rate: str) -> np.ndarray:
    """H, float32 (1944 · (1 − rate), 1944), of zeros and ones."""
    shifts = prototype(rate)
    row, column = np.nonzero(shifts >= 0)
    inner = np.arange(LIFTING)
    matrix = np.zeros((len(shifts) * LIFTING, BLOCK_BITS), np.float32)
    matrix[row[:, None] * LIFTING + inner, column[:, None] * LIFTING + (inner + shifts[row, column][:, None]) % LIFTING] = 1
    matrix.setflags(write=False)
    return matrix


def encode(rate: str, bits: np.ndarray) -> np.ndarray:
    """Systematic code words, uint8 (N, 1944), of information bits, uint8 (N, 1944 · rate).

    Column by column, the parity part of a prototype is w, then a staircase of identity matrices: Σ of all rows leaves only the
    first parity block, and each row then gives the next one.
    """
    shifts = prototype(rate)
    rows, known = len(shifts), 24 - len(shifts)
    blocks = bits.reshape(len(bits), known, LIFTING)
    sums = np.zeros((len(bits), rows, LIFTING), np.uint8)
    for row, column in zip(*np.nonzero(shifts[:, :known] >= 0)):
        sums[:, row] ^= np.roll(blocks[:, column], -shifts[row, column], axis=1)
    parity = np.zeros((len(bits), rows, LIFTING), np.uint8)
    # Two of the three entries of the first parity column are equal and cancel; the third has shift 0.
    parity[:, 0] = np.bitwise_xor.reduce(sums, axis=1)
    for row in range(rows - 1):
        first = shifts[row, known]
        value = sums[:, row] if first < 0 else sums[:, row] ^ np.roll(parity[:, 0], -first, axis=1)
        parity[:, row + 1] = value if row == 0 else value ^ parity[:, row]
    return np.concatenate((bits, parity.reshape(len(bits), -1)), axis=1)


def decode(rate: str, llrs: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Belief propagation, for receivers that have to keep up with a live flowgraph: float32 (N, 1944) → bits, and which are right.

    llrs        ln p(1)/p(0) of each bit
    iterations  at most; a word that satisfies all checks is not decoded further
    returns     uint8 (N, 1944), bool (N,)

    The sum-product algorithm, layered: a row of the prototype is 81 checks that share no bit, and each row works with what the
    rows before have found, which takes half the iterations of updating all checks at once.
    """
    beliefs = -llrs.astype(np.float32)
    decided = (beliefs < 0).astype(np.uint8)
    layers = _layers(rate)
    open_words = np.flatnonzero(_violated(decided, layers))
    messages = [np.zeros((len(open_words), *layer.shape), np.float32) for layer in layers]
    beliefs = beliefs[open_words]
    for _ in range(iterations):
        if not len(open_words):
            break
        for number, layer in enumerate(layers):
            incoming = beliefs[:, layer] - messages[number]
            messages[number] = _check_nodes(incoming)
            beliefs[:, layer] = incoming + messages[number]
        decided[open_words] = beliefs < 0
        left = _violated(decided[open_words], layers)
        open_words, beliefs = open_words[left], beliefs[left]
        messages = [message[left] for message in messages]
    right = np.ones(len(llrs), bool)
    right[open_words] = False
    return decided, right


def _check_nodes(incoming: np.ndarray) -> np.ndarray:
    """What each check tells each of its bits, from what the others tell it: ln p(0)/p(1), float32 (N, bits of a check, 81)."""
    negative = incoming < 0
    uncertainty = _phi(np.abs(incoming))
    others = _phi(uncertainty.sum(axis=1, keepdims=True) - uncertainty)
    odd = np.logical_xor.reduce(negative, axis=1, keepdims=True) ^ negative
    return np.where(odd, -others, others)


def _phi(value: np.ndarray) -> np.ndarray:
    """−ln tanh(x/2), which is its own inverse."""
    return -np.log(np.tanh(np.clip(value, 1e-6, 30.0) / 2))


def _violated(bits: np.ndarray, layers: list[np.ndarray]) -> np.ndarray:
    """Which words violate a check, bool (N,)."""
    violated = np.zeros(len(bits), bool)
    for layer in layers:
        violated |= np.bitwise_xor.reduce(bits[:, layer], axis=1).any(axis=1)
    return violated


@lru_cache(maxsize=4)
def _layers(rate: str) -> list[np.ndarray]:
    """For each row of the prototype the positions of the bits of its 81 checks, int (bits of a check, 81)."""
    inner = np.arange(LIFTING)
    return [
        np.stack([column * LIFTING + (inner + row[column]) % LIFTING for column in np.flatnonzero(row >= 0)])
        for row in prototype(rate)
    ]
