# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving images in: a camera or a video file."""

import threading

import pmt
from gnuradio import gr

from diffjscc.errors import one_line

from .arguments import above_zero, checked, path, whole, yes_or_no
from .camera import Player
from .counters import Counters
from .logs import StatusLog
from .pdus import LIVE, image_to_pdu
from .threads import start_thread

#: Seconds that `stop` waits for a camera that delivers nothing.
STOP_TIMEOUT = 1.0

#: Largest side of a frame, pixels, and most frames per second.
MAX_SIDE, MAX_FPS = 8192, 240


class camera_source(gr.basic_block):
    """Publishes the frames of a camera (V4L2) or of a video file as images.

    Output, message port ``images``: image PDUs {width, height, live: True} · u8vector RGB, for jscc_source or jscc_tx. Of images
    that are marked live the newest wins: jscc_source keeps no older one waiting. So a slow encoder costs frames, not delay.
    Message port ``status``: what is logged, see StatusLog.

    source   a camera's device file, such as /dev/video0, or a video file; a file is played at the speed at which it was filmed
    width, height   of the images, pixels; frames are scaled, and what then is too wide or too high is cut off
    fps      frames per second at most
    repeat   play a file again after its end; without it the flowgraph ends there

    A camera that goes away, or a file that turns out to be damaged, is one line in the log, and ends the block.
    Raises ValueError, one line, where there is no such camera or file, or PyAV is not installed.
    """

    @checked(
        source=path("a camera such as /dev/video0, or a video file"),
        width=whole("pixels", 32, MAX_SIDE),
        height=whole("pixels", 32, MAX_SIDE),
        fps=above_zero("a number of frames per second", MAX_FPS),
        repeat=yes_or_no,
    )
    def __init__(self, source="/dev/video0", width=320, height=240, fps=25.0, repeat=True):
        gr.basic_block.__init__(self, name="camera_source", in_sig=None, out_sig=None)
        self._player = Player(source, width, height, fps, repeat)
        self._counters, self._log = Counters("published"), StatusLog(self, self._error)
        self._images = pmt.intern("images")
        self.message_port_register_out(self._images)
        self._stopped = self._thread = None

    def counters(self):
        """{"published": frames}"""
        return self._counters.snapshot()

    def start(self):
        self._stopped = threading.Event()
        self._thread = start_thread(lambda stopped=self._stopped: self._run(stopped), self._stopped.set, "camera_source")
        return True

    def stop(self):
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(STOP_TIMEOUT)
        return True

    def _run(self, stopped):
        try:
            for pixels in self._player.frames(stopped):
                self.message_port_pub(self._images, image_to_pdu(pixels, {LIVE: True}))
                self._counters.count("published")
        except Exception as error:
            self._log.say("ended", f"no more images: {one_line(error)}")
        if not stopped.is_set():
            # Tells the scheduler that this block has ended, and those that wait for its messages.
            self.to_basic_block()._post(pmt.intern("system"), pmt.cons(pmt.intern("done"), pmt.from_long(1)))

    def _error(self, line):
        self.logger.error(line)
