# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in, QPSK symbols out: the digital way, to be shown beside jscc_source."""

from gnuradio import gr

from .arguments import CODING, checked
from .jscc_source import jscc_source
from .pdus import LENGTH_TAG


class separate_source(gr.hier_block2):
    """Encodes images with HEVC and IEEE 802.11n LDPC, in the same number of symbols as jscc_source, with the same power.

        image ─► HEVC still, at the finest setting that fits ─► LDPC ─► BPSK or QPSK ─► symbols

    Input, message port ``images``, output, and message ports ``originals`` and ``status``: as jscc_source's. separate_sink
    decodes it.

    source, repeat, guard, length_tag   as in jscc_source
    rate            channel uses per pixel, any multiple of 1/256
    code            "wifi-1/2", "wifi-2/3", "wifi-3/4" or "wifi-5/6", blocks of 1944 bits; the receiver's must be the same
    constellation   "bpsk" or "qpsk"; the receiver's must be the same

    An image that does not fit at HEVC's coarsest setting is counted, logged and skipped.
    Raises ValueError as jscc_source does, for a code or constellation that does not exist, and where PyAV is not installed.
    """

    @checked(**CODING)
    def __init__(
        self,
        source="",
        repeat=False,
        rate="1/32",
        code="wifi-3/4",
        constellation="qpsk",
        guard=32,
        length_tag=LENGTH_TAG,
    ):
        gr.hier_block2.__init__(self, "separate_source", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
        # It imports torch.
        from diffjscc.evaluate.systems.hevc_ldpc import HevcLdpc

        codec = HevcLdpc(code, constellation)
        self._source = jscc_source(source, repeat, codec, rate, guard=guard, length_tag=length_tag)
        self.message_port_register_hier_in("images")
        self.msg_connect((self, "images"), (self._source, "images"))
        for name in ("originals", "status"):
            self.message_port_register_hier_out(name)
            self.msg_connect((self._source, name), (self, name))
        self.connect(self._source, self)

    def set_rate(self, rate):
        """As in jscc_source."""
        self._source.set_rate(rate)

    def counters(self):
        """As in jscc_source."""
        return self._source.counters()
