# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in, as they are put into a folder."""

import os
import threading

import pmt
from gnuradio import gr

from diffjscc.errors import one_line
from diffjscc.images import SUFFIXES, read_image

from .arguments import checked, path, yes_or_no
from .counters import Counters
from .logs import StatusLog
from .pdus import image_to_pdu
from .threads import start_thread

#: Seconds between looks into the folder. A file is sent when two looks found it alike: it is whole then.
INTERVAL = 0.4

#: Seconds that `stop` waits for an image that is being read.
STOP_TIMEOUT = 1.0


class folder_source(gr.basic_block):
    """Publishes each image that is put into a folder: drop an image, and it goes on the air.

    Output, message port ``images``: image PDUs {width, height} · u8vector RGB, for jscc_source or jscc_tx. Message port
    ``status``: what is logged, see StatusLog.

    folder     to watch; made where it is missing
    existing   whether images that are there when the flowgraph starts are sent too

    A file that changes is sent again. One that is no image is counted, logged and left out until it changes.
    Raises ValueError, one line, for a folder that cannot be made or read.
    """

    @checked(folder=path("the folder to watch, such as outbox"), existing=yes_or_no)
    def __init__(self, folder="outbox", existing=False):
        gr.basic_block.__init__(self, name="folder_source", in_sig=None, out_sig=None)
        self._folder, self._existing = folder, existing
        try:
            os.makedirs(folder, exist_ok=True)
            os.listdir(folder)
        except OSError as error:
            raise ValueError(f"folder = {folder!r}: must be a folder that can be read ({one_line(error, 100)})") from None
        self._counters, self._log = Counters("published", "skipped"), StatusLog(self, self._warn)
        self._images = pmt.intern("images")
        self.message_port_register_out(self._images)
        # {path: (size, modification)} as last seen, and as last sent or given up.
        self._seen, self._done = {}, {}
        self._stopped = self._thread = None

    def counters(self):
        """{"published": images, "skipped": files that are no images}"""
        return self._counters.snapshot()

    def start(self):
        if self._stopped is None and not self._existing:
            self._done = self._look()
        self._stopped = threading.Event()
        self._thread = start_thread(lambda stopped=self._stopped: self._run(stopped), self._stopped.set, "folder_source")
        return True

    def stop(self):
        self._stopped.set()
        self._thread.join(STOP_TIMEOUT)
        return True

    def _run(self, stopped):
        while not stopped.is_set():
            try:
                now = self._look()
            except OSError as error:
                self._log.note("unreadable", f"nothing is sent: {one_line(error, 100)}")
                now = {}
            for file, version in sorted(now.items(), key=lambda item: (item[1][1], item[0])):
                if self._seen.get(file) == version and self._done.get(file) != version and not stopped.is_set():
                    self._done[file] = version
                    self._publish(file)
            self._seen = now
            stopped.wait(INTERVAL)

    def _look(self):
        """{path: (size, time of modification)} of the folder's images."""
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES and not entry.name.startswith("."):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        # It was taken away meanwhile.
                        continue
                    found[entry.path] = status.st_size, status.st_mtime_ns
        return found

    def _publish(self, file):
        try:
            pdu = image_to_pdu(read_image(file), {"name": os.path.basename(file)})
        except Exception as error:
            self._counters.count("skipped")
            self._log.note("skipped", f"image not sent: {one_line(error)}", kind=file)
            return
        self.message_port_pub(self._images, pdu)
        self._counters.count("published")

    def _warn(self, line):
        self.logger.warn(line)
