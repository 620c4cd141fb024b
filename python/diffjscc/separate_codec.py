# SPDX-License-Identifier: GPL-3.0-or-later
"""HEVC and LDPC in the place of a codec: what separate_source and separate_sink share."""

from . import arguments
from .receiver import Receiver
from .transmitter import Transmitter

#: Checks of the arguments that transmitter and receiver have in common.
CODING = {
    "code": arguments.one_of("wifi-1/2", "wifi-2/3", "wifi-3/4", "wifi-5/6"),
    "constellation": arguments.one_of("bpsk", "qpsk"),
}


class SeparateTransmitter(Transmitter):
    """A `Transmitter` that encodes with `HevcLdpc`, at any rate."""

    def __init__(self, code, constellation, rate):
        # It imports torch.
        from diffjscc.evaluate.systems.hevc_ldpc import HevcLdpc

        super().__init__("lite", rate, 0.0, "cpu")
        self._codec = HevcLdpc(code, constellation)

    def set_rate(self, rate):
        self.rate = arguments.rate("rate", rate)


class SeparateReceiver(Receiver):
    """A `Receiver` that decodes with `HevcLdpc`, and nothing else.

    shown   images by what was shown of them, see `HevcLdpc`
    """

    def __init__(self, code, constellation, on_failure, snr_db):
        # It imports torch.
        from diffjscc.evaluate.systems.hevc_ldpc import HevcLdpc

        super().__init__("lite", snr_db, "cpu")
        self._separate = HevcLdpc(code, constellation, on_failure)
        self._names = {HevcLdpc.name: HevcLdpc.name}
        self._codecs = {HevcLdpc.name: self._separate}
        self.shown = self._separate.shown

    def decode_reception(self, reception, header):
        whole = self.shown["whole"]
        pixels, snr_db, truncated = super().decode_reception(reception, header)
        return pixels, snr_db, truncated or self.shown["whole"] == whole
