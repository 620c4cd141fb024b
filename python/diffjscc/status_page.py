# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc-rx --status` and its terminal line: what a receiver sees, for people."""

import collections
import sys
import time

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.cli.options import whole
from diffjscc.serve.radio_page import PORT, RadioState
from diffjscc.serve.web import WebServer

from .pdus import LENGTH_TAG, image_from_pdu, metadata_from_pmt, tags_by_offset

#: Seconds between two spectra, and between two terminal lines.
SPECTRUM_INTERVAL, LINE_INTERVAL = 0.5, 0.5

#: Frequencies of a spectrum, and how many are averaged.
BINS, AVERAGES = 256, 16


class spectrum_tap(gr.sync_block):
    """Takes a spectrum of the samples now and then for a RadioState."""

    def __init__(self, state):
        gr.sync_block.__init__(self, name="spectrum_tap", in_sig=[np.complex64], out_sig=None)
        self._state, self._due, self._parts, self._peak = state, 0.0, [], 0.0
        self._window = np.hanning(BINS).astype(np.float32)

    def work(self, input_items, output_items):
        samples = input_items[0]
        now = time.monotonic()
        if now >= self._due and len(samples) >= BINS:
            rows = samples[: len(samples) // BINS * BINS].reshape(-1, BINS)[: AVERAGES - len(self._parts)]
            self._peak = max(self._peak, float(np.abs(rows.view(np.float32)).max(initial=0)))
            self._parts += list(rows * self._window)
            if len(self._parts) >= AVERAGES:
                power = np.mean(np.abs(np.fft.fft(self._parts)) ** 2, 0) / np.sum(self._window**2)
                density_db = 10 * np.log10(np.maximum(np.fft.fftshift(power), 1e-15))
                self._state.spectrum(density_db, 10 * np.log10(max(float(power.mean()), 1e-15)), self._peak)
                self._due, self._parts, self._peak = now + SPECTRUM_INTERVAL, [], 0.0
        return len(samples)


class reception_tap(gr.basic_block):
    """Tells a RadioState of bursts, images, and what went wrong.

    Inputs: jscc_rx's two outputs. Message ports ``images`` and ``status``: jscc_rx's.
    """

    def __init__(self, state, fft_len):
        gr.basic_block.__init__(self, name="reception_tap", in_sig=[np.complex64, np.complex64], out_sig=None)
        self._state, self._fft_len = state, fft_len
        self._channel = np.zeros(0, np.complex64)
        self._channels = collections.deque(maxlen=8)
        for port, handler in (("images", self._image), ("status", self._event)):
            self.message_port_register_in(pmt.intern(port))
            self.set_msg_handler(pmt.intern(port), handler)

    def forecast(self, noutput_items, ninputs):
        # The channel of a burst comes with its first symbols, and nothing waits for it.
        return [1, 0]

    def general_work(self, input_items, output_items):
        symbols, channel = input_items
        self._channel = np.append(self._channel, channel)
        while len(self._channel) >= self._fft_len:
            self._channels.append(self._channel[: self._fft_len])
            self._channel = self._channel[self._fft_len :]
        self.consume(1, len(channel))
        for offset, found in tags_by_offset(self.get_tags_in_window(0, 0, len(symbols))).items():
            if not {LENGTH_TAG, "snr_db", "cfo"} <= found.keys():
                continue
            place = offset - self.nitems_read(0)
            values = symbols[place : place + pmt.to_long(found[LENGTH_TAG])]
            newest = self._channels.popleft() if self._channels else None
            self._state.burst(pmt.to_double(found["snr_db"]), pmt.to_double(found["cfo"]), values, newest)
        self.consume(0, len(symbols))
        return 0

    def _image(self, message):
        try:
            self._state.image(*image_from_pdu(message))
        except ValueError as error:
            self._state.event(f"an image could not be shown: {error}")

    def _event(self, message):
        try:
            self._state.event(str(metadata_from_pmt(message).get("line", "")))
        except ValueError:
            return


def add_status(parser):
    """Adds the options of the page and the line."""
    add = parser.add_argument_group("status").add_argument
    where = f"serve a page on 127.0.0.1 with the last images, SNR, spectrum, constellation, channel and counters (port: {PORT})"
    add("--status", type=whole(0, 65535), nargs="?", const=PORT, metavar="PORT", help=where)
    shown = "a line that is kept up to date on standard error (default: auto, where that is a terminal)"
    add("--status-line", choices=("auto", "always", "never"), default="auto", help=shown)


class Status:
    """The page and the line of a receiver, as the options ask for them. Raises ValueError where the port is taken.

    state  RadioState; None where neither is wanted
    """

    def __init__(self, arguments, radio):
        self._line = {"always": True, "never": False, "auto": sys.stderr.isatty()}[arguments.status_line]
        self.state, self._server, self._due, self._printed = None, None, 0.0, False
        if not self._line and arguments.status is None:
            return
        facts = [("Radio", radio.kind), ("Sample rate", f"{radio.sample_rate:g} samples/s"), ("Preset", arguments.preset)]
        if radio.frequency is not None:
            facts.append(("Frequency", f"{radio.frequency / 1e6:.6g} MHz"))
        self.state = RadioState(facts, radio.sample_rate)
        if arguments.status is not None:
            page = ("text/html; charset=utf-8",)
            self._server = WebServer("127.0.0.1", arguments.status, {"/": lambda: (200, self.state.page(), *page)})
            print(f"status page: {self._server.address}", file=sys.stderr, flush=True)

    def connect(self, flowgraph, source, receiver, fft_len):
        """Adds what looks at a jscc_rx and its samples to a flowgraph."""
        if self.state is None:
            return
        self._taps = spectrum_tap(self.state), reception_tap(self.state, fft_len)
        flowgraph.connect(source, self._taps[0])
        for port in range(2):
            flowgraph.connect((receiver, port), (self._taps[1], port))
        for port in ("images", "refined"):
            flowgraph.msg_connect((receiver, port), (self._taps[1], "images"))
        flowgraph.msg_connect((receiver, "status"), (self._taps[1], "status"))

    def look_at(self, flowgraph, source):
        """Adds the spectrum alone, for receivers that tell `burst` and `image` the rest."""
        if self.state is not None:
            self._taps = (spectrum_tap(self.state),)
            flowgraph.connect(source, self._taps[0])

    def burst(self, snr_db, cfo, values, channel):
        """As RadioState.burst."""
        if self.state is not None:
            self.state.burst(snr_db, cfo, values, channel)

    def image(self, pixels, metadata):
        """As RadioState.image."""
        if self.state is not None:
            self.state.image(pixels, metadata)

    def update(self, counters, reasons):
        """To be called now and then: the newest counters, and the line."""
        if self.state is None:
            return
        self.state.counters(counters, reasons)
        if self._line and time.monotonic() >= self._due:
            self._due, self._printed = time.monotonic() + LINE_INTERVAL, True
            print(f"\r{self.state.line()}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self):
        """Takes the line away before something else is printed."""
        if self._printed:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._printed = False

    def close(self):
        self.clear()
        if self._server is not None:
            self._server.close()
