# SPDX-License-Identifier: GPL-3.0-or-later
"""From a stream of tagged symbols to whole bursts."""

from dataclasses import dataclass

import numpy as np
import pmt

from diffjscc.air.header import Fragment, unpack_image
from diffjscc.symbols import ImageHeader

from .pdus import BURST_HEADER_TAG, CALLSIGN, HEADER_TAG, SNR_TAG, header_from_pmt, tags_by_offset

_HEADER = pmt.symbol_to_string(HEADER_TAG)
_BURST_HEADER = pmt.symbol_to_string(BURST_HEADER_TAG)
_SNR = pmt.symbol_to_string(SNR_TAG)

#: Symbols outside any burst, one behind another, that are more than the usual silence behind a burst.
STRAY_RUN = 1024


class Dropped(ValueError):
    """A burst that cannot be used. ``reason`` is a word for the counter, the message one line for the log."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


@dataclass
class Burst:
    """The symbols of one image, or of one fragment off the air, as they came.

    header     of the image, as the burst's tag said; None where it was invalid: ``problem`` tells why
    values     complex64, fewer than the header's where the tail was lost
    noise_var  float32, of the values; None where it is not known
    snr_db     from the SNR tag, None where there was none
    fragment   which part of the image it is; None for all of it
    callsign   of the transmitter, "" where it is not known
    """

    header: ImageHeader | None
    values: np.ndarray
    noise_var: np.ndarray | None = None
    snr_db: float | None = None
    problem: Dropped | None = None
    fragment: Fragment | None = None
    callsign: str = ""


class BurstAssembler:
    """Cuts a symbol stream into bursts. A burst begins at an item with a tag ``image_header`` or ``burst_header``.

    It ends when the symbols that its length tag announces are there (without one, the header's number), or where the
    next burst begins: its tail was lost then. Symbols of a burst with an invalid header are skipped, not kept, so that a wrong
    header cannot make memory grow.

    length_tag   name of the length tag
    find_codec   codec id of a number in a ``burst_header``; raises Dropped where there is none
    stray        symbols outside any burst
    untagged     of these, those in runs that are at least STRAY_RUN long and as long as the burst before: not the silence behind
                 a burst, but bursts that lost their tags
    """

    def __init__(self, length_tag, find_codec=None):
        self._length_tag, self._find_codec = length_tag, find_codec
        self._open = None
        self._parts, self._missing = [], 0
        self.stray = self.untagged = 0
        self._stray_run = self._last_length = 0

    def push(self, items, offset, tags, noise_var=None):
        """The bursts that end within ``items``.

        offset     absolute index of the first item
        tags       GNU Radio tags in this window
        noise_var  of the items, None where it is not known
        """
        ended = []
        starts = self._starts(tags, offset)
        position = 0
        while position < len(items):
            if position in starts:
                if self._open is not None:
                    ended.append(self._close())
                self._begin(starts.pop(position))
            limit = min(starts, default=len(items))
            taken = min(self._missing, limit - position)
            if self._open is None:
                self._count_stray(limit - position)
                taken = limit - position
            elif self._open.problem is None:
                window = slice(position, position + taken)
                self._parts.append((np.array(items[window]), None if noise_var is None else np.array(noise_var[window])))
            position += taken
            self._missing = max(0, self._missing - taken)
            if self._open is not None and self._missing == 0:
                ended.append(self._close())
        return ended

    def flush(self):
        """The stream is over: the burst that is still open, without its tail; None if there is none."""
        if not self._last_length:
            self.untagged = self.stray
        return self._close() if self._open is not None else None

    def _starts(self, tags, offset):
        """{position: {key: value}} of the items that carry a header tag."""
        found = tags_by_offset(tags).items()
        return {place - offset: values for place, values in found if _HEADER in values or _BURST_HEADER in values}

    def _begin(self, tags):
        length = tags.get(self._length_tag)
        length = pmt.to_long(length) if length is not None and pmt.is_integer(length) else None
        snr_db = tags.get(_SNR)
        snr_db = pmt.to_double(snr_db) if snr_db is not None and pmt.is_real(snr_db) else None
        callsign = tags.get(CALLSIGN)
        callsign = pmt.symbol_to_string(callsign) if callsign is not None and pmt.is_symbol(callsign) else ""
        burst = Burst(None, np.zeros(0, np.complex64), snr_db=snr_db, callsign=callsign)
        try:
            if _HEADER in tags:
                burst.header = header_from_pmt(tags[_HEADER])
                expected = burst.header.symbol_count
            else:
                packed = tags[_BURST_HEADER]
                if self._find_codec is None or not pmt.is_u8vector(packed):
                    raise ValueError("burst header is no u8vector of the air interface")
                burst.fragment = unpack_image(bytes(pmt.u8vector_elements(packed)), self._find_codec)
                burst.header, expected = burst.fragment.header, burst.fragment.length
            if length is not None and length > expected:
                raise ValueError(f"burst of {length} symbols, but its header asks for {expected}")
        except ValueError as error:
            burst.header = burst.fragment = None
            burst.problem, expected = error if isinstance(error, Dropped) else Dropped("header", str(error)), 1
        self._open, self._parts = burst, []
        self._missing = max(1, expected if length is None else length)
        self._stray_run, self._last_length = 0, self._missing

    def _count_stray(self, number):
        self.stray += number
        before, self._stray_run = self._stray_run, self._stray_run + number
        threshold = max(STRAY_RUN, self._last_length)
        if self._stray_run >= threshold:
            self.untagged += number if before >= threshold else self._stray_run

    def _close(self):
        burst, self._open = self._open, None
        if self._parts:
            values, noise_vars = zip(*self._parts)
            burst.values = np.concatenate(values)
            burst.noise_var = None if noise_vars[0] is None else np.concatenate(noise_vars)
        self._parts, self._missing = [], 0
        return burst
