# SPDX-License-Identifier: GPL-3.0-or-later
"""Time for a transmitter to switch on: a tone or silence before each transmission."""

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.air.preset import SOUND_RATE

#: Seconds of silence after which a transmitter is taken to have switched off: those that key themselves by sound hold longer.
PAUSE = 0.2

#: The longest lead, seconds.
MAX_LEAD = 10.0

_BEGIN = pmt.intern("tx_sob")


class burst_lead(gr.basic_block):
    """Puts ``seconds`` of a tone, or of silence, before each transmission.

    A transmission is one burst, or several that follow each other within `PAUSE`.

    Input, output: complex samples, `SOUND_RATE` a second, tagged as burst_tx does.

    seconds     of the lead, 0 to MAX_LEAD
    tone        a carrier of the burst's own level, for transceivers that key themselves by sound; otherwise silence
    key         a `ptt.Key`, or None: what switches the transmitter on, and is told how many samples follow

    Where the transmitter cannot be switched on, nothing is passed on any more, and the flowgraph ends.
    """

    def __init__(self, seconds, tone, key=None):
        gr.basic_block.__init__(self, name="burst_lead", in_sig=[np.complex64], out_sig=[np.complex64])
        self._lead, self._pause = round(seconds * SOUND_RATE), round(PAUSE * SOUND_RATE)
        self._tone, self._key = tone, key
        # Tags move with the lead, which is longer than a buffer.
        self.set_tag_propagation_policy(gr.TPP_DONT)
        self._silent = self._pause
        self._left = self._level = 0
        self._led = -1

    def forecast(self, noutput_items, ninputs):
        return [0 if self._left else 1] * ninputs

    def general_work(self, input_items, output_items):
        count = self._pass_lead(output_items[0]) if self._left else self._pass_on(input_items[0], output_items[0])
        if count > 0 and self._key is not None:
            self._key.add(count / SOUND_RATE)
        return count

    def _pass_lead(self, out):
        count = min(self._left, len(out))
        out[:count] = self._level
        self._left -= count
        return count

    def _pass_on(self, samples, out):
        count = min(len(samples), len(out))
        read, written = self.nitems_read(0), self.nitems_written(0)
        tags = self.get_tags_in_window(0, 0, count)
        begins = sorted(tag.offset - read for tag in tags if pmt.eq(tag.key, _BEGIN))
        for begin in begins:
            if begin + read > self._led and self._silence_before(samples, begin) >= self._pause:
                if begin:
                    # The burst follows in the next call.
                    count = begin
                elif not self._begin(samples[0], read):
                    return -1
                elif self._left:
                    return self._pass_lead(out)
                break
        out[:count] = samples[:count]
        self._silent = self._silence_before(samples, count)
        for tag in tags:
            if tag.offset - read < count:
                self.add_item_tag(0, written + tag.offset - read, tag.key, tag.value)
        self.consume(0, count)
        return count

    def _begin(self, first, offset):
        """Whether the transmitter is on; then the lead is what is passed on next."""
        if self._key is not None and not self._key.press():
            return False
        self._led = offset
        # A preamble has a constant modulus: that of its first sample is the burst's level.
        self._level = abs(first) if self._tone else 0
        self._left = self._lead
        return True

    def _silence_before(self, samples, end):
        """Silent samples right before index ``end``, those of earlier calls included."""
        loud = np.flatnonzero(samples[:end])
        return end - 1 - loud[-1] if len(loud) else self._silent + end
