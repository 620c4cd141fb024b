# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in, samples out."""

from gnuradio import blocks, gr

from .arguments import amplitude as check_amplitude
from .arguments import checked
from .burst_tx import burst_tx
from .jscc_source import jscc_source
from .setters import refuses_bad_values


class jscc_tx(gr.hier_block2):
    """A whole transmitter: jscc_source ─► burst_tx.

    Input, message port ``images``: image PDUs {width, height} · u8vector RGB; they go before files.
    Output: complex samples, unit mean power within a burst; see burst_tx for their tags. Message port ``originals``: as of
    jscc_source.

    source, repeat, codec, rate, snr_db, device, effort    as in jscc_source
    preset, burst_symbols, clip_db, gap, guard, callsign   as in burst_tx
    amplitude                                              of the samples: 1 for unit mean power within a burst

    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked()
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
        effort=0,
        callsign="",
    ):
        gr.hier_block2.__init__(self, "jscc_tx", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
        self._source = jscc_source(source, repeat, codec, rate, snr_db, guard=1, device=device, effort=effort)
        self._bursts = burst_tx(preset, burst_symbols, clip_db, gap, guard, callsign=callsign)
        self._scale = blocks.multiply_const_cc(amplitude)
        self.message_port_register_hier_in("images")
        self.message_port_register_hier_out("originals")
        self.msg_connect((self, "images"), (self._source, "images"))
        self.msg_connect((self._source, "originals"), (self, "originals"))
        self.message_port_register_hier_out("status")
        for block in (self._source, self._bursts):
            self.msg_connect((block, "status"), (self, "status"))
        self.connect(self._source, self._bursts, self._scale, self)

    def set_rate(self, rate):
        """As in jscc_source."""
        self._source.set_rate(rate)

    def set_snr_db(self, snr_db):
        """As in jscc_source."""
        self._source.set_snr_db(snr_db)

    def set_effort(self, effort):
        """As in jscc_source."""
        self._source.set_effort(effort)

    @refuses_bad_values
    def set_amplitude(self, amplitude):
        """Changes the amplitude at once. A bad value is logged and changes nothing."""
        self._scale.set_k(check_amplitude("amplitude", amplitude))

    def skip_files(self, count):
        """As in jscc_source."""
        self._source.skip_files(count)

    def samples(self):
        """Number of samples that left so far."""
        return self._scale.nitems_written(0)

    def waits(self):
        """Whether what follows has samples to take, or may have: those at a stream's end."""
        return self._bursts.waits() or self._source.over()

    def images_within(self, samples):
        """Number of images whose last burst ends within the first ``samples`` samples since the flowgraph started."""
        return self._bursts.images_within(samples)

    def counters(self):
        """What burst_tx counts, as "bursts", and what jscc_source counts."""
        return {"bursts": self._bursts.counters()} | self._source.counters()
