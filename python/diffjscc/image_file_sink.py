# SPDX-License-Identifier: GPL-3.0-or-later
"""Image PDUs to files."""

import collections
from pathlib import Path

import pmt
from gnuradio import gr

from diffjscc.errors import one_line
from diffjscc.images import unused_path, write_image

from .arguments import checked, some_folder, whole
from .counters import Counters
from .logs import StatusLog
from .pdus import image_from_pdu

#: Most files that ``keep`` may be.
MAX_KEPT = 1_000_000


class image_file_sink(gr.basic_block):
    """Writes the images of image PDUs to a folder, named by their image_id and stage; none overwrites another.

    Input, message port ``images``: {width, height, image_id and stage (optional)} · u8vector RGB, or an image file's bytes.
    Message port ``status``: what is logged, see StatusLog.

    Files are called 000001.png and, with stage "refined", 000001_refined.png; where that exists, 000001-2.png.

    folder   where to write; made with the block where it is missing
    suffix   format of the files: .png, .webp, .jpg, …
    keep     how many files are kept: with each further one the oldest that this block has written is deleted; 0 for all

    Each file appears whole or not at all. What is not an image, or cannot be written, is counted, logged and dropped.
    Raises ValueError, one line, for a folder that is empty or cannot be written to, or an unknown suffix.
    """

    @checked(folder=some_folder, keep=whole("files", 0, MAX_KEPT))
    def __init__(self, folder, suffix=".png", keep=0):
        gr.basic_block.__init__(self, name="image_file_sink", in_sig=None, out_sig=None)
        self._folder, self._suffix, self._keep = Path(folder), suffix, keep
        self._written = collections.deque()
        self._counters = Counters("written", "unwritten", "bad")
        self._log = StatusLog(self, self._warn)
        self.message_port_register_in(pmt.intern("images"))
        self.set_msg_handler(pmt.intern("images"), self._write)

    def counters(self):
        """{"written": files, "unwritten": images whose file could not be written, "bad": messages that were no image}."""
        return self._counters.snapshot()

    def _write(self, message):
        # An exception in a message handler would end the flowgraph.
        try:
            pixels, metadata = image_from_pdu(message)
            image_id = int(metadata.get("image_id", self._counters["written"]))
            stage = "_refined" if metadata.get("stage") == "refined" else ""
        except Exception as error:
            return self._refuse("bad", error)
        try:
            path = unused_path(self._folder, f"{image_id:06d}{stage}", self._suffix)
            write_image(path, pixels)
        except Exception as error:
            return self._refuse("unwritten", error)
        self._counters.count("written")
        if self._keep:
            self._written.append(path)
            self._delete_oldest()

    def _delete_oldest(self):
        while len(self._written) > self._keep:
            try:
                self._written.popleft().unlink(missing_ok=True)
            except OSError as error:
                self._log.note("undeleted", f"image not deleted: {one_line(error)}")

    def _refuse(self, name, error):
        self._counters.count(name)
        self._log.note(name, f"image not written: {one_line(error)}")

    def _warn(self, line):
        self.logger.warn(line)
