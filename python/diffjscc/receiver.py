# SPDX-License-Identifier: GPL-3.0-or-later
"""Bursts to images, with an account of every one: what jscc_sink and jscc_decoder share."""

import collections
import math
import threading

import numpy as np

from diffjscc.air.header import codec_number
from diffjscc.hub import find_model, list_models
from diffjscc.snr import estimate_snr_db, noise_variance
from diffjscc.symbols import ImageHeader, Reception, parse_snr_db

#: A burst of which less than this share arrived is not worth decoding.
MIN_SHARE = 0.1


class Dropped(Exception):
    """A burst that cannot be decoded. ``reason`` is its counter's name, the message one line for the log."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


class Counters:
    """received, decoded, truncated, and dropped by reason; counted from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts = collections.Counter()
        self._dropped = collections.Counter()

    def count(self, name, number=1):
        with self._lock:
            self._counts[name] += number

    def drop(self, reason):
        with self._lock:
            self._dropped[reason] += 1

    def snapshot(self):
        """{"received": n, "decoded": n, "truncated": n, "dropped": {reason: n, …}}."""
        with self._lock:
            return {name: self._counts[name] for name in ("received", "decoded", "truncated")} | {"dropped": dict(self._dropped)}


class Receiver:
    """Decodes what bursts hold; loads codecs when the first burst asks for them.

    codec    the codec that bursts must name, by name or folder; "" for whichever installed codec they name
    snr_db   SNR at the receiver, dB; None to take the burst's own tag, or to estimate it from the symbols
    device   where to decode, as torch writes it

    Raises ValueError for a codec that does not exist, or an SNR that is not finite.
    """

    def __init__(self, codec, snr_db, device):
        if codec:
            # One that does not exist is refused when the flowgraph is built, not with the first image.
            find_model(codec)
        self._codec_name, self._device = str(codec), device
        self._codecs = {}
        self.set_snr_db(snr_db)

    def set_snr_db(self, snr_db):
        self.snr_db = None if snr_db is None else parse_snr_db(snr_db)

    def decode(self, values, header: ImageHeader, snr_db=None):
        """complex64 (≤ K,) → (pixels uint8 (H, W, 3), SNR in dB, truncated). Raises Dropped."""
        expected = header.symbol_count
        if len(values) > expected:
            raise Dropped("length", f"burst of {len(values)} symbols, but its header asks for {expected}")
        self._check_share(len(values), expected)
        snr_db = self.snr_db_of(values, snr_db)
        # A lost tail is an erasure: the image is decoded from the rest.
        noise_var = np.full(expected, np.inf, np.float32)
        noise_var[: len(values)] = noise_variance(snr_db)
        padded = np.zeros(expected, np.complex64)
        padded[: len(values)] = values
        return self.decode_reception(Reception(padded, noise_var, snr_db), header)

    def decode_reception(self, reception: Reception, header: ImageHeader):
        """The same for symbols whose noise is known, one by one; +inf marks those that are missing."""
        from diffjscc.images import to_pixels

        arrived = int(np.isfinite(reception.noise_var).sum())
        self._check_share(arrived, header.symbol_count)
        try:
            image = self._codec(header.codec).decode(reception, header)
        except ValueError as error:
            raise Dropped("header", str(error)) from None
        return to_pixels(image), reception.snr_db, arrived < header.symbol_count

    def find_codec(self, number):
        """Id of the codec with this number on the air. Raises ValueError where none that may be used has it."""
        names = [find_model(self._codec_name).name] if self._codec_name else [entry.name for entry in list_models() if entry.codec]
        for name in names:
            if codec_number(name) == number:
                return name
        raise ValueError(f"burst was encoded by codec number {number}, this receiver decodes {', '.join(names)}")

    def _check_share(self, arrived, expected):
        if arrived < MIN_SHARE * expected:
            raise Dropped("too short", f"only {arrived} of the image's {expected} symbols arrived")

    def snr_db_of(self, values, tagged):
        """The SNR of symbols, dB: as set, as tagged, or estimated."""
        if self.snr_db is not None:
            return self.snr_db
        if tagged is not None and math.isfinite(tagged):
            return tagged
        return estimate_snr_db(values)

    def _codec(self, name):
        from diffjscc.hub import load_codec

        if name in self._codecs:
            return self._codecs[name]
        if self._codec_name:
            expected = find_model(self._codec_name).name
            if name != expected:
                raise Dropped("codec", f"burst was encoded by codec '{name}', this receiver decodes '{expected}'")
            self._codecs[name] = load_codec(self._codec_name, self._device)
        else:
            # Names from the air are looked up among installed models only; they never become paths.
            if name not in {entry.name for entry in list_models()}:
                raise Dropped("codec", f"burst was encoded by codec '{name}', which is not installed: see `diffjscc models`")
            self._codecs[name] = load_codec(name, self._device)
        return self._codecs[name]
