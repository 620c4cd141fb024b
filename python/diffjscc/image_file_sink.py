# SPDX-License-Identifier: GPL-3.0-or-later
"""Image PDUs to files."""

from pathlib import Path

import pmt
from gnuradio import gr

from diffjscc.images import SUFFIXES, unused_path, write_image

from .pdus import image_from_pdu


class image_file_sink(gr.basic_block):
    """Writes the images of image PDUs to a folder, named by their image_id; none overwrites another.

    Input, message port ``images``: {width, height, image_id (optional)} · u8vector RGB.

    folder   where to write; made when the first image comes
    suffix   format of the files: .png, .webp, .jpg, …

    Each file appears whole or not at all. What is not an image, or cannot be written, is counted, logged and dropped.
    Raises ValueError for an empty folder or an unknown suffix.
    """

    def __init__(self, folder, suffix=".png"):
        gr.basic_block.__init__(self, name="image_file_sink", in_sig=None, out_sig=None)
        if not folder:
            raise ValueError("folder is empty: name the folder that images are written to")
        if suffix not in SUFFIXES:
            raise ValueError(f"suffix {suffix!r} is not one of {', '.join(SUFFIXES)}")
        self._folder, self._suffix = Path(folder), suffix
        self._written = self._failed = 0
        self.message_port_register_in(pmt.intern("images"))
        self.set_msg_handler(pmt.intern("images"), self._write)

    def counters(self):
        """{"written": files, "failed": messages that were no image or could not be written}."""
        return {"written": self._written, "failed": self._failed}

    def _write(self, message):
        # An exception in a message handler would end the flowgraph.
        try:
            pixels, metadata = image_from_pdu(message)
            image_id = int(metadata.get("image_id", self._written))
            write_image(unused_path(self._folder, f"{image_id:06d}", self._suffix), pixels)
        except Exception as error:
            self._failed += 1
            self.logger.warn(f"image not written: {error}")
            return
        self._written += 1
