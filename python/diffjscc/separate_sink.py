# SPDX-License-Identifier: GPL-3.0-or-later
"""QPSK symbols in, images out: the digital way, to be shown beside jscc_sink."""

from gnuradio import gr

from .arguments import CODING, RECEIVES, checked, one_of
from .jscc_sink import jscc_sink
from .pdus import LENGTH_TAG


class separate_sink(gr.hier_block2):
    """Decodes what separate_source sends, and shows what a viewer of such a link sees.

        symbols ─► soft decisions ─► LDPC, belief propagation ─► HEVC ─► image

    Input: complex symbols, unit mean power, gain 1, tagged as jscc_sink's.
    Output, message port ``images``: image PDUs as jscc_sink's; ``truncated`` where not the whole image is shown. Message
    port ``status``: what is logged, see StatusLog.

    code, constellation                              as the transmitter's
    on_failure   "show": an image whose blocks did not all arrive is shown up to the first that failed, and grey behind it;
                 "freeze": the last whole image is shown again, as video players do
    snr_db, folder, on_full, queue_size, length_tag  as in jscc_sink

    Raises ValueError as jscc_sink does, for a code, constellation or policy that does not exist, and where PyAV is not installed.
    """

    @checked(**CODING, snr_db=RECEIVES["snr_db"], on_failure=one_of("show", "freeze"))
    def __init__(
        self,
        code="wifi-3/4",
        constellation="qpsk",
        on_failure="show",
        snr_db=None,
        folder="",
        on_full="wait",
        queue_size=4,
        length_tag=LENGTH_TAG,
    ):
        gr.hier_block2.__init__(self, "separate_sink", gr.io_signature(1, 1, gr.sizeof_gr_complex), gr.io_signature(0, 0, 0))
        # It imports torch.
        from diffjscc.evaluate.systems.hevc_ldpc import HevcLdpc

        self._codec = HevcLdpc(code, constellation, on_failure)
        self._sink = jscc_sink(self._codec, snr_db, folder, on_full, queue_size, length_tag)
        for name in ("images", "status"):
            self.message_port_register_hier_out(name)
            self.msg_connect((self._sink, name), (self, name))
        self.connect(self, self._sink)

    def set_snr_db(self, snr_db):
        """As in jscc_sink."""
        self._sink.set_snr_db(snr_db)

    def counters(self):
        """What jscc_sink counts and, as "shown", images by what was shown: {"whole", "part", "nothing", "frozen": number}."""
        shown = {name: self._codec.shown[name] for name in ("whole", "part", "nothing", "frozen")}
        return self._sink.counters() | {"shown": shown}
