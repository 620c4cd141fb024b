# SPDX-License-Identifier: GPL-3.0-or-later
"""Bursts to images: what jscc_sink and jscc_decoder share."""

import logging
import math

import numpy as np

from diffjscc.air.header import codec_number
from diffjscc.hub import find_model, list_models
from diffjscc.snr import estimate_snr_db, noise_variance
from diffjscc.symbols import ImageHeader, Reception

from . import arguments
from .bursts import Dropped

logger = logging.getLogger(__name__)

#: A burst of which less than this share arrived is not worth decoding.
MIN_SHARE = 0.1


class Receiver:
    """Decodes what bursts hold; loads a codec when the first burst asks for it.

    codec    the codec that bursts must name, by name or folder; "" for whichever codec they name of those that are installed
             when the receiver is made; or an object with `name` and `decode` as a Codec has them. Where it has `whole`, that
             says whether the last image came whole
    snr_db   SNR at the receiver, dB; None to take the burst's own tag, or to estimate it from the symbols
    device   where to decode, as torch writes it

    Raises ValueError for a codec that does not exist, or an SNR that is not finite.
    """

    def __init__(self, codec, snr_db, device):
        # Names from the air are looked up in these tables and nowhere else: they never become paths, and no burst causes a
        # look at the disk. A codec that does not exist is refused when the flowgraph is built.
        self._codecs = {codec.name: codec} if arguments.is_codec(codec) else {}
        if self._codecs:
            names = list(self._codecs)
        else:
            names = [entry.name for entry in ([find_model(codec)] if codec else list_models()) if entry.codec]
        # {name: what load_codec is given}
        self._names = {name: codec or name for name in names}
        self._numbers = {}
        for name in names:
            first = self._numbers.setdefault(codec_number(name), name)
            if first != name:
                logger.warning("codec '%s' is never decoded: on the air it has the number of '%s'", name, first)
        self._device = device
        self.set_snr_db(snr_db)

    def load(self):
        """Loads the codec that bursts must name now, not with the first burst; nothing where they may name any."""
        if len(self._names) == 1:
            self._codec(next(iter(self._names)))

    def set_snr_db(self, snr_db):
        self.snr_db = None if snr_db is None else arguments.snr_db("snr_db", snr_db)

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
        codec = self._codec(header.codec)
        try:
            image = codec.decode(reception, header)
        except ValueError as error:
            raise Dropped("header", str(error)) from None
        truncated = arrived < header.symbol_count or not getattr(codec, "whole", True)
        return to_pixels(image), reception.snr_db, truncated

    def find_codec(self, number):
        """Id of the codec with this number on the air. Raises Dropped where this receiver decodes none with it."""
        try:
            return self._numbers[number]
        except KeyError:
            raise Dropped("codec", f"burst was encoded by codec number {number}, this receiver decodes {self._known()}") from None

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

        if name not in self._names:
            raise Dropped("codec", f"burst was encoded by codec '{name}', this receiver decodes {self._known()}")
        if name not in self._codecs:
            self._codecs[name] = load_codec(self._names[name], self._device)
        return self._codecs[name]

    def _known(self):
        return ", ".join(f"'{name}'" for name in self._names) or "none: no codec is installed"
