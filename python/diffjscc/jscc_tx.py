# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in, samples out."""

from gnuradio import blocks, gr

from .burst_tx import burst_tx
from .jscc_source import jscc_source


class jscc_tx(gr.hier_block2):
    """A whole transmitter: jscc_source ─► burst_tx.

    Input, message port ``images``: image PDUs {width, height} · u8vector RGB; they go before files.
    Output: complex samples, unit mean power within a burst; see burst_tx for their tags.

    source, repeat, codec, rate, snr_db, device    as in jscc_source
    preset, burst_symbols, clip_db, gap, guard     as in burst_tx
    amplitude                                      of the samples: 1 for unit mean power within a burst
    """

    def __init__(
        self,
        source="",
        repeat=False,
        codec="lite",
        rate="1/128",
        snr_db=1.0,
        preset="ofdm256",
        burst_symbols=6144,
        clip_db=9.0,
        gap=64,
        guard=2304,
        amplitude=1.0,
        device="cpu",
    ):
        gr.hier_block2.__init__(self, "jscc_tx", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
        self._source = jscc_source(source, repeat, codec, rate, snr_db, guard=1, device=device)
        self._bursts = burst_tx(preset, burst_symbols, clip_db, gap, guard)
        self._scale = blocks.multiply_const_cc(amplitude)
        self.message_port_register_hier_in("images")
        self.msg_connect((self, "images"), (self._source, "images"))
        self.connect(self._source, self._bursts, self._scale, self)

    def set_rate(self, rate):
        """As in jscc_source."""
        self._source.set_rate(rate)

    def set_snr_db(self, snr_db):
        """As in jscc_source."""
        self._source.set_snr_db(snr_db)

    def set_amplitude(self, amplitude):
        """Changes the amplitude at once."""
        self._scale.set_k(amplitude)

    def counters(self):
        """{"sent": images encoded, "skipped": images that could not be, "bursts": sent, "dropped": bursts that could
        not be sent}."""
        bursts = self._bursts.counters()
        return self._source.counters() | {"bursts": bursts["sent"], "dropped": bursts["dropped"]}
