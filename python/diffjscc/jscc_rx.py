# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples in, images out."""

from gnuradio import gr

from .arguments import RECEIVES, checked
from .burst_rx import burst_rx
from .jscc_sink import jscc_sink


class jscc_rx(gr.hier_block2):
    """A whole receiver: burst_rx ─► jscc_sink.

    Input: complex samples at the transmitter's rate, at any level.
    Output, message ports ``images`` and ``refined``: as jscc_sink's; ``status``: what is logged, see StatusLog.
    Output 0, optional: equalised symbols, for a constellation display.
    Output 1, optional: the channel in each burst's middle, fft_len complex a burst, lowest frequency first.

    preset, false_alarm_rate, max_offset                                as in burst_rx
    codec, folder, on_full, queue_size, device, refinement, deadline    as in jscc_sink

    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked(**RECEIVES)
    def __init__(
        self,
        preset="ofdm256",
        codec="lite",
        folder="",
        on_full="wait",
        queue_size=4,
        device="cpu",
        refinement=None,
        deadline=2.0,
        false_alarm_rate=1e-9,
        max_offset=0.05,
    ):
        gr.hier_block2.__init__(
            self, "jscc_rx", gr.io_signature(1, 1, gr.sizeof_gr_complex), gr.io_signature(2, 2, gr.sizeof_gr_complex)
        )
        self._bursts = burst_rx(preset, false_alarm_rate, max_offset, status=True)
        self._sink = jscc_sink(
            codec,
            folder=folder,
            on_full=on_full,
            queue_size=queue_size,
            device=device,
            refinement=refinement,
            csi=True,
            deadline=deadline,
        )
        for name in ("images", "refined"):
            self.message_port_register_hier_out(name)
            self.msg_connect((self._sink, name), (self, name))
        self.message_port_register_hier_out("status")
        for block in (self._bursts, self._sink):
            self.msg_connect((block, "status"), (self, "status"))
        self.connect(self, self._bursts)
        self.connect((self._bursts, 0), (self._sink, 0))
        self.connect((self._bursts, 1), (self._sink, 1))
        self.connect((self._bursts, 0), (self, 0))
        self.connect((self._bursts, 2), (self, 1))

    def load(self):
        """Loads the codec now, not with the first burst."""
        self._sink.load()

    def samples(self):
        """Number of samples that came so far."""
        return self._bursts.samples()

    def counters(self):
        """What burst_rx counts, as "bursts", and what jscc_sink counts, without "distorted"."""
        counters = {"bursts": self._bursts.counters()} | self._sink.counters()
        # Of jscc_source's reference, which is not sent on the air.
        del counters["distorted"]
        return counters

    def reasons(self):
        """As in jscc_sink."""
        return self._sink.reasons()
