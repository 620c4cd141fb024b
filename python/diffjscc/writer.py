# SPDX-License-Identifier: GPL-3.0-or-later
"""Image files, written beside whatever else a block does."""

from diffjscc.errors import one_line
from diffjscc.images import unused_path, write_image

from .logs import RateLimitedLog
from .worker import Worker


class ImageWriter:
    """Writes images to PNG files in a thread of its own, so that a slow disk delays nothing else.

    folder      where to write; made with the first image
    counters    counts "written", and "unwritten" for images that could not be written
    warn        called with a line for the log
    queue_size  images that may wait
    on_full     when as many wait: "wait" makes `submit` wait, "drop" leaves the oldest one unwritten

    Each file appears whole or not at all, and none overwrites another: NAME.png, then NAME-2.png, …
    """

    def __init__(self, folder, counters, warn, queue_size, on_full):
        self._folder, self._counters, self._log = folder, counters, RateLimitedLog(warn)
        self._worker = Worker(self._write, self._done, self._failed, self._dropped, queue_size, on_full)
        self.start, self.stop, self.wait_idle = self._worker.start, self._worker.stop, self._worker.wait_idle

    @property
    def unfinished(self):
        """Images that are not written yet."""
        return self._worker.unfinished

    def submit(self, name, pixels, timeout):
        """Queues an image, uint8 (H, W, 3); one for which there is no room within ``timeout`` seconds is counted."""
        if not self._worker.submit((name, pixels), timeout):
            self._dropped((name, pixels), "queue full")

    def _write(self, item):
        name, pixels = item
        write_image(unused_path(self._folder, name), pixels)

    def _done(self, item, result):
        self._counters.count("written")

    def _failed(self, item, error):
        self._counters.count("unwritten", reason="failed")
        self._log.note("failed", f"{self._folder}/{item[0]}.png not written: {one_line(error)}")

    def _dropped(self, item, reason):
        self._counters.count("unwritten", reason=reason)
        # What stop gives up is told by the block, once for all images.
        if reason != "stopped":
            self._log.note(reason, f"{self._folder}/{item[0]}.png not written: the disk is behind and the queue is full")
