# SPDX-License-Identifier: GPL-3.0-or-later
"""Received images in a window."""

import pmt
from gnuradio import gr

from diffjscc.errors import one_line

from .arguments import checked, text, whole, yes_or_no
from .image_history import ImageHistory
from .logs import StatusLog
from .pdus import image_from_pdu

#: Most images that the strip may hold.
MAX_LENGTH = 200


class qt_image_view(gr.basic_block):
    """Shows received images: as received and refined under a wipe or side by side, a strip of the last, the course of SNR and PSNR.

    Input, message port ``images``: image PDUs {image_id, width, height, snr_db, stage: "initial" | "refined", …} · u8vector
    RGB, both ports of jscc_sink or jscc_rx together; message port ``originals``: PDUs of images before they were sent, under
    the image_id that they are sent with, for the PSNR (jscc_source has such a port). Output, message port ``status``: what is
    logged, see StatusLog.

    title    of the window, and above the image
    length   images in the strip, 1 to 200
    compact  without buttons and strip and with the received image alone, for windows with several views

    ``widget`` is the QWidget to be put into a window. The window takes the newest image 30 times a second: images that come
    faster are kept in the strip and not shown, and the flowgraph never waits for the window. While refined images are at most
    four images behind, it shows the newest of these.

    Raises ValueError for a length out of range, and where PyQt5 is missing or no QApplication exists yet.
    """

    @checked(title=text("text", may_be_empty=True), length=whole("images", 1, MAX_LENGTH), compact=yes_or_no)
    def __init__(self, title="Received images", length=24, compact=False):
        gr.basic_block.__init__(self, name="qt_image_view", in_sig=None, out_sig=None)
        try:
            from PyQt5.QtWidgets import QApplication

            from .image_view_widget import ImageView
        except ImportError as error:
            raise ValueError(f"qt_image_view needs PyQt5 ({one_line(error)}): sudo apt-get install python3-pyqt5") from None
        if QApplication.instance() is None:
            raise ValueError("qt_image_view needs a QApplication: make one first, or set Generate Options to QT GUI")
        self._history, self._taken = ImageHistory(length), 0
        self._log = StatusLog(self, self._warn)
        self.widget = ImageView(self._history, title, compact)
        # GNU Radio finds a handler by its name: it must be a method.
        for name, handler in (("images", self._take_image), ("originals", self._take_original)):
            self.message_port_register_in(pmt.intern(name))
            self.set_msg_handler(pmt.intern(name), handler)

    def taken(self):
        """Messages taken so far on both ports, those that were no image included."""
        return self._taken

    def _take_image(self, message):
        self._take(message, self._history.add)

    def _take_original(self, message):
        self._take(message, self._history.add_original)

    def _take(self, message, take):
        # An exception in a message handler would end the flowgraph.
        try:
            take(*image_from_pdu(message))
        except Exception as error:
            self._log.note("bad", f"image not shown: {one_line(error)}")
        self._taken += 1

    def _warn(self, line):
        self.logger.warn(line)
