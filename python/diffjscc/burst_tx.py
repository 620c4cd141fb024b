# SPDX-License-Identifier: GPL-3.0-or-later
"""Symbol bursts in, samples out."""

import collections
import secrets

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.air.header import SESSION_PERIOD
from diffjscc.air.modulator import Modulator, fragments
from diffjscc.air.preset import find_preset
from diffjscc.errors import one_line
from diffjscc.symbols import Symbols

from .arguments import checked
from .bursts import BurstAssembler
from .counters import Counters
from .logs import StatusLog
from .pdus import LENGTH_TAG

#: Samples that may wait for room in the output before input is held back.
MAX_WAITING = 1 << 17

_LENGTH, _BEGIN, _END = pmt.intern("packet_len"), pmt.intern("tx_sob"), pmt.intern("tx_eob")


class burst_tx(gr.basic_block):
    """Turns bursts of JSCC symbols into bursts of samples for a radio.

    Input: complex symbols, tagged as jscc_source does.
    Output: complex samples, unit mean power within a burst. A burst's first sample carries ``packet_len`` (its length with
    the silence after it) and ``tx_sob``, the last one ``tx_eob``. Message port ``status``: what is logged, see StatusLog.

    preset         "ofdm64" or "ofdm256": subcarriers in the sample rate; for sound, 2880 samples/s, "hf" (short-wave, SSB), "fm",
                   or "room" (loudspeaker to microphone)
    burst_symbols  JSCC symbols in a burst, at most 8191; images with more are cut into equal fragments. Short bursts lose
                   less when one is lost, long ones have less overhead
    clip_db        samples are cut at this many dB above the mean power. "auto", for amplifiers that are limited by their peak
                   power: peaks are lowered by repeated cutting and filtering, the further the lower the SNR is that an image is
                   encoded for. At equal peak power that gives 3.8 dB of SNR at 1 dB, 2 dB at 13 dB; raise the amplitude by as
                   much as the peaks are lower, see diffjscc.air.peaks
    gap            silent samples after a burst
    guard          silent samples after an image's last burst, which flush the filters and detectors that follow
    length_tag     name of the input's length tag
    callsign       that each burst carries, as the law asks of amateurs: 3 to 13 of A to Z, 0 to 9, / and -; "" for none. It
                   takes as much air as the header

    A burst that is incomplete, has no valid header or does not fit the air interface is counted, logged and dropped. So are
    bursts whose samples have not all been sent when the flowgraph stops.
    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked()
    def __init__(self, preset="ofdm256", burst_symbols=6144, clip_db=9.0, gap=64, guard=2304, length_tag=LENGTH_TAG, callsign=""):
        gr.basic_block.__init__(self, name="burst_tx", in_sig=[np.complex64], out_sig=[np.complex64])
        self._modulator = Modulator(find_preset(preset), clip_db, callsign)
        self._burst_symbols, self._gap, self._guard = burst_symbols, gap, guard
        self._length_tag = length_tag
        self._session = secrets.randbelow(SESSION_PERIOD)
        self._samples, self._tags = collections.deque(), collections.deque()
        # Where images end on the output.
        self._image_ends = []
        self._counters, self._log = Counters("sent", "dropped", by_reason=("dropped",)), StatusLog(self, self._warn)
        self.set_tag_propagation_policy(gr.TPP_DONT)

    def counters(self):
        """{"sent": bursts of samples, "dropped": {reason: bursts that could not be sent}}."""
        return self._counters.snapshot()

    def waits(self):
        """Whether samples are ready that what follows has not taken."""
        return bool(self._samples)

    def images_within(self, samples):
        """Number of images whose last burst ends within the first ``samples`` samples since the flowgraph started."""
        return sum(end <= samples for end in self._image_ends)

    def start(self):
        self._image_ends = []
        self._assembler = BurstAssembler(self._length_tag)
        self._queued = self.nitems_written(0)
        return True

    def stop(self):
        # What a radio gets after a pause must begin with a whole burst.
        left = len(self._samples)
        if left:
            self._counters.count("dropped", left, "stopped")
            self._log.say("stopped", f"stopped with {left} bursts not sent, or not to their end")
        self._samples.clear()
        self._tags.clear()
        return True

    def forecast(self, noutput_items, ninputs):
        return [0 if self._samples else 1] * ninputs

    def general_work(self, input_items, output_items):
        symbols, written = input_items[0], self.nitems_written(0)
        if len(symbols) and self._queued - written < MAX_WAITING:
            tags = self.get_tags_in_window(0, 0, len(symbols))
            for burst in self._assembler.push(symbols, self.nitems_read(0), tags):
                self._send(burst)
            self.consume(0, len(symbols))
        out, count = output_items[0], 0
        while self._samples and count < len(out):
            samples = self._samples.popleft()
            taken = min(len(samples), len(out) - count)
            out[count : count + taken] = samples[:taken]
            count += taken
            if taken < len(samples):
                self._samples.appendleft(samples[taken:])
            else:
                self._counters.count("sent")
        while self._tags and self._tags[0][0] < written + count:
            self.add_item_tag(0, *self._tags.popleft())
        return count

    def _send(self, burst):
        if burst.problem is not None:
            return self._drop(burst.problem.reason, burst.problem)
        if len(burst.values) < burst.header.symbol_count:
            return self._drop("too short", f"only {len(burst.values)} of the image's {burst.header.symbol_count} symbols came")
        try:
            parts = list(fragments(Symbols(burst.values, burst.header), self._burst_symbols, self._session))
        except ValueError as error:
            return self._drop("air interface", error)
        for fragment, payload in parts:
            silence = self._guard if fragment.index + 1 == fragment.count else self._gap
            samples = np.append(self._modulator.fragment(fragment, payload), np.zeros(silence, np.complex64))
            last = self._queued + len(samples) - 1
            self._tags.append((self._queued, _LENGTH, pmt.from_long(len(samples))))
            self._tags.append((self._queued, _BEGIN, pmt.PMT_T))
            self._tags.append((last, _END, pmt.PMT_T))
            self._samples.append(samples)
            self._queued += len(samples)
        self._image_ends.append(self._queued - self._guard)
        return None

    def _drop(self, reason, message):
        self._counters.count("dropped", reason=reason)
        self._log.note("dropped", f"burst not sent: {one_line(message)}", kind=reason)

    def _warn(self, line):
        self.logger.warn(line)
