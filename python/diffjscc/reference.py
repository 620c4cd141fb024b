# SPDX-License-Identifier: GPL-3.0-or-later
"""Known symbols behind each burst: they tell whether symbols arrive as they were sent.

jscc_sink cannot undo a phase turn, a gain or a resampler: it decodes such symbols to a wrong image and takes them for clean,
because it estimates the SNR from their power. So jscc_source begins the silence behind each burst with a known sequence.

A reference s of R symbols of unit power is received as r = h s + w. The least-squares estimate h = s'r/R has the variance
σ²/R, and for symbols that arrive as sent h = 1. So T = R |h − 1|²/σ², with σ² estimated from the R − 1 degrees of freedom that
the fit leaves, exceeds t with the probability (1 + t/(R − 1))^(1 − R), at any SNR. The evidence against h = 1 is E, the negative
logarithm of that probability for the t that was found: exponential with mean 1 where h = 1. One burst at −5 dB tells little, so
the E of the last bursts are added: their sum has a gamma distribution, whose mean and variance are the number of bursts.
"""

from collections import deque

import numpy as np
import pmt

from diffjscc.air.sequences import qpsk_sequence

from .pdus import REFERENCE_TAG

#: Seed of the sequence: see `qpsk_sequence`. The air interface has 1 to 3.
SEED = 4

#: Symbols of a reference, at least and at most; and those of the silence behind it: at a stream's end filters swallow some, and
#: blocks that work on eight samples at a time do too.
SHORTEST, LONGEST, SILENCE = 16, 64, 16

#: Symbols before and after its place in which a reference is looked for, to tell by how much the stream was moved. Channel Model
#: keeps the stream's last three, and four of the silence are still to come then.
REACH, BEHIND = 8, 4

#: Bursts whose evidence is added.
REMEMBERED = 16

#: |h − 1|² below which nobody would see it in the image: at 15 dB the noise is as large.
HARMLESS = 0.03

#: Evidence that is enough: the sum's mean, this many standard deviations, and a constant. For one burst that is 16, which
#: symbols that arrive as sent reach once in 10⁷ bursts.
DEVIATIONS, CONSTANT = 7.0, 8.0

#: Power of a reference over the noise in its estimate from which on it has been found; and from which on that cannot be chance.
FOUND, CERTAIN = 9.0, 25.0

_NAME = pmt.symbol_to_string(REFERENCE_TAG)


def reference_length(guard):
    """Symbols of the reference in a guard: 0 where there is no room for one."""
    length = min(guard - SILENCE, LONGEST)
    return length if length >= SHORTEST else 0


def reference(length):
    """complex64 (length,) of unit power."""
    return qpsk_sequence(length, SEED)


class ReferenceCheck:
    """Compares what follows each burst with what jscc_source has sent there.

    distorted   references that were not received as they were sent
    """

    def __init__(self):
        self.distorted = 0
        self.restart()

    def restart(self):
        """A new stream begins."""
        # Symbols that may still be needed, and the absolute index behind the last.
        self._recent, self._end = np.zeros(0, np.complex64), 0
        self._announced = deque()
        self._evidence = deque(maxlen=REMEMBERED)

    def push(self, symbols, offset, tags):
        """Takes complex64 (n,), the absolute index of the first and their tags; returns [what happened to a reference, …]."""
        for tag in tags:
            if pmt.symbol_to_string(tag.key) == _NAME and pmt.is_integer(tag.value):
                length = pmt.to_long(tag.value)
                if SHORTEST <= length <= LONGEST:
                    self._announced.append((tag.offset, length))
        # Without a reference only the last symbols are kept: work may be called with very many.
        kept = symbols if self._announced else symbols[-REACH:]
        self._recent = np.concatenate((self._recent, kept)) if len(kept) == len(symbols) else np.array(kept)
        end = offset + len(symbols)
        found = []
        while self._announced and sum(self._announced[0]) + BEHIND <= end:
            found += self._check(*self._announced.popleft(), end)
        needed = (self._announced[0][0] if self._announced else end) - REACH
        self._recent, self._end = self._recent[max(0, len(self._recent) - (end - needed)) :], end
        return found

    def flush(self):
        """The stream is over: the same for references that have come whole and lack only what follows them."""
        found = []
        while self._announced:
            found += self._check(*self._announced.popleft(), self._end)
        return found

    def _check(self, offset, length, end):
        """``end``: the absolute index behind the last symbol that has come."""
        sent = reference(length)
        at = offset - (end - len(self._recent))
        fits = {}
        for lag in range(-REACH, BEHIND + 1):
            received = self._recent[max(0, at + lag) : at + lag + length].astype(complex)
            if at + lag >= 0 and len(received) == length and np.isfinite(received).all():
                gain = np.vdot(sent, received) / length
                left = float(np.mean(np.abs(received - gain * sent) ** 2)) * length / (length - 1)
                fits[lag] = gain, max(left, 1e-6)
        if 0 not in fits:
            return []
        gain, noise_var = fits[0]
        lag, power = _strongest(fits, length)
        if power > CERTAIN:
            # Beside its place: what is left there is the reference itself, and no noise.
            noise_var = fits[lag][1]
        error = abs(gain - 1) ** 2
        evidence = (length - 1) * np.log1p(length * error / noise_var / (length - 1))
        self._evidence.append((evidence, error - noise_var / length))
        count = len(self._evidence)
        sums = np.sum(self._evidence, 0)
        if sums[0] < count + DEVIATIONS * count**0.5 + CONSTANT or sums[1] < HARMLESS * count:
            return []
        self._evidence.clear()
        self.distorted += 1
        return [_describe(fits, length)]


def _strongest(fits, length):
    """Where the reference is most clearly, of {lag: (gain, noise variance)}: (lag, its power over the noise in its estimate)."""
    powers = {lag: length * abs(gain) ** 2 / noise_var for lag, (gain, noise_var) in fits.items()}
    lag = max(powers, key=powers.get)
    return lag, powers[lag]


def _describe(fits, length):
    """What a channel did to a reference, in words, from {lag: (gain, noise variance)}."""
    lag, power = _strongest(fits, length)
    gain, _ = fits[lag]
    if power < FOUND:
        return "cannot be found: they were resampled, filtered or lost, or a carrier offset or fading turns them"
    words = []
    if lag:
        words.append(f"come {abs(lag)} symbols {'early' if lag < 0 else 'late'}")
    level = 20 * np.log10(abs(gain))
    if abs(level) > 1:
        words.append(f"are {abs(level):.0f} dB too {'weak' if level < 0 else 'strong'}")
    turn = np.degrees(np.angle(gain))
    if abs(turn) > 10:
        words.append(f"are turned by {turn:.0f}°")
    return " and ".join(words) or "are changed a little"
