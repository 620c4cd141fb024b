# SPDX-License-Identifier: GPL-3.0-or-later
"""Asynchronous refinement of images that a block has already published: what every kind of it has in common."""

from diffjscc.errors import one_line

from .arguments import refuse
from .counters import Counters
from .logs import RateLimitedLog
from .worker import POLICIES, check_queue

#: Where a service is looked for: `serve.addresses.DEFAULT`, which is not imported before a block wants it.
ADDRESS = "tcp://127.0.0.1:5555"


class Refinement:
    """Takes images from one block, and gives each back refined or counts it.

    refiner     name or folder of the refiner
    queue_size  images that may wait; None for as many as the block's own queue asks for
    on_full     what happens to an image for which there is no room, "wait" or "drop"; None for the block's policy

    A block calls `attach` once, `start` and `stop` with the flowgraph, and `submit` for each image. Every submitted image ends
    as exactly one of the counters "refined" and "unrefined". Raises ValueError for a queue size or policy that does not exist.
    """

    #: Images that may wait, as a multiple of the block's queue size.
    queue_share = 1

    def __init__(self, refiner, queue_size, on_full):
        check_queue(1 if queue_size is None else queue_size, POLICIES[0] if on_full is None else on_full)
        self._refiner_name = refiner
        self._size, self._on_full = queue_size, on_full
        self._counters = Counters("refined", "unrefined")
        self._publish = self._warn_line = self._log = None

    def attach(self, publish, warn, queue_size, on_full):
        """Makes this the refinement of one block.

        publish    called as publish(pixels, metadata) with each refined image, uint8 (H, W, 3), and the initial one's metadata,
                   in a thread that may wait
        warn       called with a line for the log
        queue_size, on_full  of the block, for what was not given to the constructor

        Raises ValueError where another block has it already.
        """
        if self._publish is not None:
            raise ValueError("this refinement object belongs to another block: make one for each block")
        self._publish, self._warn_line, self._log = publish, warn, RateLimitedLog(warn)
        self._size = self.queue_share * queue_size if self._size is None else self._size
        self._on_full = self._on_full or on_full

    def counters(self):
        """{"refined", "unrefined": images that stay as they were received}."""
        return self._counters.snapshot()

    def reasons(self):
        """{"unrefined": {reason: images}}."""
        return self._counters.reasons()

    @property
    def unfinished(self):
        """Images that were submitted and are neither refined nor given up."""
        raise NotImplementedError

    @property
    def idle(self):
        """Whether a flowgraph that ends need not wait for this."""
        return self.unfinished == 0

    def start(self):
        raise NotImplementedError

    def submit(self, pixels, metadata, timeout):
        """Takes an image, uint8 (H, W, 3), with the metadata of its PDU; waits at most ``timeout`` seconds for room.

        Never raises: an image that cannot be taken is counted as unrefined.
        """
        try:
            self._submit(pixels, metadata, timeout)
        except Exception as error:
            self._fail(metadata, reason_of(error), error)

    def wait_idle(self, timeout):
        """True once nothing is unfinished; False if ``timeout`` seconds pass first."""
        raise NotImplementedError

    def stop(self, timeout):
        """Finishes what it has, for at most ``timeout`` seconds; the rest is counted as unrefined."""
        raise NotImplementedError

    def _submit(self, pixels, metadata, timeout):
        raise NotImplementedError

    def _succeed(self, pixels, metadata):
        self._counters.count("refined")
        self._publish(pixels, metadata)

    def _fail(self, metadata, reason, error):
        """Counts an image as unrefined; ``reason`` is a word for the counter, ``error`` says more in the log."""
        self._counters.count("unrefined", reason=reason)
        self._warn(reason, f"image {metadata.get('image_id', 0)} not refined: {one_line(error)}")

    def _warn(self, reason, line):
        # What stop gives up is told by the block, once for all images.
        if reason != "stopped":
            self._log.note(reason, line)


def reason_of(error):
    """The counter's word for what kept an image from being refined: the service's own code where it has one."""
    return getattr(error, "code", "failed")


def check_refinement(refinement):
    """Raises ValueError unless ``refinement`` is None or a Refinement."""
    if refinement is not None and not isinstance(refinement, Refinement):
        raise refuse("refinement", refinement, "None, or an object such as LocalRefinement() or RemoteRefinement(address=…)")
