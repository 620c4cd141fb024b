# SPDX-License-Identifier: GPL-3.0-or-later
"""Refinement by a service, `diffjscc serve`, on this or another machine."""

import threading
import time

from diffjscc.hub import DEFAULT_REFINER

from .arguments import OF_THE_BLOCK, checked
from .refinement import ADDRESS, Refinement, reason_of
from .worker import Worker

#: Seconds between looks at whether a service that is behind has caught up.
PATIENCE = 0.1

#: Seconds after which a service that cannot be reached is taken to be away: what connecting, or a restart of a proxy, takes.
GRACE = 2.0

#: Seconds that images which came back before `stop` have to be published.
DELIVERY = 0.2


class RemoteRefinement(Refinement):
    """Has images refined by a service, any number at once, and never waits for one that is not there.

    address     of the service, such as tcp://gpu.local:5555
    refiner     by the name that the service knows it under
    deadline    seconds after which the service is given up for an image
    server_key, secret_key   files of CURVE keys, the service's public one and this client's pair; both, or "" for none
    queue_size  images that may be on their way; default: eight times as many as bursts may wait for the decoder
    on_full     when as many are: "wait" holds the block back while the service is there; "drop" leaves the new image as it is
                while the service is there, else gives the oldest one up; default: as the block

    An image that is not refined is counted; its initial image has long been published. One line is logged when the service is
    lost, and refinement resumes by itself. A flowgraph whose stream has ended waits for the images that are on their way, each
    until its deadline; with "drop" it does not wait for a service that is away. Raises ValueError for an address, a deadline, a
    key, a queue size or a policy that cannot be.

    Example:
        sink = diffjscc.jscc_sink(on_full="drop", refinement=diffjscc.RemoteRefinement("tcp://gpu.local:5555", "mini"))
    """

    queue_share = 8

    @checked(**OF_THE_BLOCK)
    def __init__(
        self,
        address=ADDRESS,
        refiner=DEFAULT_REFINER,
        deadline=60.0,
        server_key="",
        secret_key="",
        queue_size=None,
        on_full=None,
    ):
        from diffjscc.serve.addresses import is_local

        super().__init__(refiner, queue_size, on_full)
        self._deadline = deadline
        self._connection = {"address": address, "server_key": server_key or None, "secret_key": secret_key or None}
        # On one machine raw images are faster than PNG; over a network PNG is.
        self._encoding = "raw" if is_local(address) else "png"
        self._jobs = {}
        self._changed = threading.Condition()
        self._outage = self._stopping = False
        self._delivery = None
        # An address or a key that cannot be is refused when the flowgraph is built.
        self._client = self._connect()

    def attach(self, publish, warn, queue_size, on_full):
        super().attach(publish, warn, queue_size, on_full)
        # Refined images are published, and may be written, in a thread of their own: the client's callbacks for other images
        # must not wait for a disk. There are never more of them than images on their way, so that there is always room.
        self._delivery = Worker(self._result, self._deliver, self._undeliverable, self._undelivered, self._size)

    @property
    def unfinished(self):
        with self._changed:
            return len(self._jobs)

    @property
    def idle(self):
        """With "drop" True also while the service is away: a live radio that ends does not wait for it."""
        return self.unfinished == 0 or (self._on_full == "drop" and self._is_away())

    def start(self):
        self._stopping = False
        if self._client is None:
            self._client = self._connect()
        self._delivery.start()

    def wait_idle(self, timeout):
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def stop(self, timeout):
        end = time.monotonic() + timeout
        while not self._is_away() and not self.wait_idle(min(PATIENCE, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                break
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        # Ends all jobs.
        client, self._client = self._client, None
        client.close()
        self._delivery.stop(max(DELIVERY, end - time.monotonic()))

    def _submit(self, pixels, metadata, timeout):
        """While the service is connected, images that it already has are not cancelled for newer ones: a slow service would
        never finish any. While it is away, the oldest image is cancelled, so that it finds the newest ones when it is back.
        """
        end = time.monotonic() + timeout
        while self._on_full == "wait" and not self._has_room(PATIENCE) and not self._is_away() and time.monotonic() < end:
            pass
        while not self._has_room(0):
            if not self._is_away_now():
                self._fail(metadata, "queue full", "the service is behind, and too many images wait")
                return
            with self._changed:
                oldest = next(iter(self._jobs), None)
            if oldest is not None:
                oldest.cancel()
                # Its callback makes room, in another thread.
                self._has_room(PATIENCE)
        client = self._client
        if self._stopping or client is None:
            self._fail(metadata, "stopped", "the flowgraph stops")
            return
        job = client.submit(
            pixels,
            metadata.get("snr_db"),
            self._refiner_name,
            # The same image is refined the same way again.
            seed=metadata.get("image_id", 0),
            deadline=self._deadline,
            encoding=self._encoding,
        )
        with self._changed:
            self._jobs[job] = metadata
        job.add_done_callback(self._ended)

    def _connect(self):
        from diffjscc.serve.client import RefineClient

        # The bound on images is kept here; the client must never be the one to refuse.
        return RefineClient(**self._connection, max_outstanding=1 << 20, on_outage=lambda line: self._warn("away", line))

    def _is_away(self):
        client = self._client
        return client is None or client.away > GRACE

    def _is_away_now(self):
        client = self._client
        return client is None or not client.connected

    def _has_room(self, timeout):
        with self._changed:
            return self._changed.wait_for(lambda: len(self._jobs) < self._size or self._stopping, timeout)

    # In the client's thread for callbacks.

    def _ended(self, job):
        metadata = self._jobs[job]
        if job.cancelled():
            self._fail(metadata, "queue full", "the service is away, and too many images wait")
        elif job.exception() is not None:
            error = job.exception()
            self._fail(metadata, "stopped" if self._stopping else reason_of(error), error)
        elif self._delivery.submit(job):
            return
        else:
            self._undelivered(job, "stopped")
            return
        self._forget(job)

    # In the delivery's thread.

    @staticmethod
    def _result(job):
        return job.result()

    def _deliver(self, job, pixels):
        try:
            self._outage = False
            self._succeed(pixels, self._jobs[job])
        finally:
            # Only now may a flowgraph that waited for it end.
            self._forget(job)

    def _undeliverable(self, job, error):
        self._fail(self._jobs[job], reason_of(error), error)
        self._forget(job)

    def _undelivered(self, job, reason):
        self._fail(self._jobs[job], reason, "the flowgraph stops")
        self._forget(job)

    def _forget(self, job):
        with self._changed:
            del self._jobs[job]
            self._changed.notify_all()

    def _warn(self, reason, line):
        """Warns of the first of the troubles between two refined images."""
        if reason != "stopped" and not self._outage:
            self._outage = True
            self._warn_line(f"{line}; until images are refined again, those that are not are counted and not logged")
