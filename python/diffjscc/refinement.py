# SPDX-License-Identifier: GPL-3.0-or-later
"""Refining images behind a block's back: what jscc_sink does with an image after it was published."""

import threading
import time

from .worker import Worker

#: Where refinement runs.
WHERE = ("none", "local", "remote")

#: Where a service is looked for: `serve.addresses.DEFAULT`, which is not imported before a block wants it.
ADDRESS = "tcp://127.0.0.1:5555"

#: Seconds between looks at whether a service that is behind has caught up.
PATIENCE = 0.1

#: Seconds after which a service that cannot be reached is taken to be away: what connecting, or a restart of a proxy, takes.
GRACE = 2.0


class Counts:
    """{"refined", "unrefined": images that could not be refined, or were thrown away}, counted from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts = {"refined": 0, "unrefined": 0}

    def __call__(self):
        with self._lock:
            return dict(self._counts)

    def add(self, name):
        with self._lock:
            self._counts[name] += 1


class LocalRefinement:
    """Refines images in a thread of its own, in the order they came, each at once when the one before is done.

    refiner      refiner, by name or folder; loaded when the first image comes
    device     where to compute, as torch writes it
    publish    called as publish(pixels, metadata) with the refined image and the initial one's metadata
    warn       called with one line where an image could not be refined
    queue_size images that may wait
    on_full    as in `Worker`: "wait" waits for room, "drop" throws the oldest away and counts it

    An image that cannot be refined is counted and logged; its initial image has long been published.
    """

    def __init__(self, refiner, device, publish, warn, queue_size, on_full):
        from diffjscc.hub import find_model

        # A name that nobody knows is refused when the flowgraph is built, not with the first image.
        find_model(refiner, "refiner")
        self._refiner_name, self._device = refiner, device
        self._publish, self._warn = publish, warn
        self._refiner = None
        self.counters = Counts()
        self._worker = Worker(self._refine, self._failed, self._thrown_away, queue_size, on_full)
        self.start, self.stop, self.wait_idle = self._worker.start, self._worker.stop, self._worker.wait_idle

    @property
    def idle(self):
        return self._worker.idle

    def submit(self, pixels, metadata, timeout):
        """Queues an image; one for which there is no room within ``timeout`` seconds is counted and logged."""
        item = (pixels, metadata)
        if not self._worker.submit(item, timeout):
            self._thrown_away(item)

    def _refine(self, item):
        import torch

        from diffjscc.hub import load_refiner
        from diffjscc.images import to_pixels, to_tensor

        pixels, metadata = item
        if self._refiner is None:
            self._refiner = load_refiner(self._refiner_name, self._device)
        # The same image is refined the same way again.
        generator = torch.Generator().manual_seed(metadata["image_id"])
        refined = self._refiner(to_tensor(pixels), metadata["snr_db"], generator=generator)
        self.counters.add("refined")
        self._publish(to_pixels(refined), metadata)

    def _failed(self, item, error):
        self.counters.add("unrefined")
        self._warn(f"image {item[1]['image_id']} not refined: {error}")

    def _thrown_away(self, item):
        self.counters.add("unrefined")
        self._warn(f"image {item[1]['image_id']} not refined: the refiner is behind and its queue is full")


class RemoteRefinement:
    """Has images refined by a service, any number at once, and never waits for one that is not there.

    address     of the service, such as tcp://gpu.local:5555
    refiner       refiner, by the name that the service knows it under
    publish     called as publish(pixels, metadata) with the refined image and the initial one's metadata
    warn        called with one line where images are not refined, once until one is again
    queue_size  images that may be on their way
    on_full     where too many are: "wait" waits for room while the service is there; "drop" does not. See `submit`
    deadline    seconds after which an image stays as it is
    server_key, secret_key   files of CURVE keys, both or neither

    An image that is not refined is counted; its initial image has long been published.
    """

    def __init__(self, address, refiner, publish, warn, queue_size, on_full, deadline=60.0, server_key="", secret_key=""):
        from diffjscc.serve.addresses import is_local

        if not deadline > 0:
            raise ValueError(f"refinement's deadline = {deadline}: must be above 0 seconds")
        self._connection = {"address": address, "server_key": server_key or None, "secret_key": secret_key or None}
        self._refiner_name, self._deadline = refiner, float(deadline)
        # Coding takes longer than copying, but not than a network.
        self._encoding = "raw" if is_local(address) else "png"
        self._publish, self._warn = publish, warn
        self._size, self._waits = queue_size, on_full == "wait"
        self.counters = Counts()
        self._jobs = {}
        self._changed = threading.Condition()
        self._outage = False
        # An address or a key that cannot be is refused when the flowgraph is built.
        self._client = self._connect()

    @property
    def idle(self):
        """Whether nothing is on its way, or waiting for it is idle: a flowgraph need not go on for a service that is away."""
        with self._changed:
            return not self._jobs or self._is_away()

    def start(self):
        if self._client is None:
            self._client = self._connect()

    def stop(self, drain_timeout):
        """Waits for what is on its way, as long as the service is there; True, for what is not refined is counted."""
        end = time.monotonic() + drain_timeout
        while not self.wait_idle(PATIENCE) and not self._is_away() and time.monotonic() < end:
            pass
        self._client.close()
        self._client = None
        return True

    def wait_idle(self, timeout):
        """True once nothing is on its way; False if ``timeout`` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def submit(self, pixels, metadata, timeout):
        """Sends an image; one for which there is no room within ``timeout`` seconds is counted.

        Where the service is there, what it has is not given up for what is new: behind a slow one nothing would ever be
        finished. Where it is not, the newest images are what it had better find when it is back.
        """
        end = time.monotonic() + timeout
        while self._waits and not self._is_away() and not self._has_room(PATIENCE) and time.monotonic() < end:
            pass
        while not self._has_room(0):
            if self._client.connected:
                self._fail(metadata, "the service is behind, and too many images wait")
                return
            with self._changed:
                oldest = next(iter(self._jobs), None)
            if oldest is not None and not oldest.cancel():
                # It ended this very moment, and its end is about to be noticed.
                time.sleep(0.001)
        job = self._client.submit(
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
        return RefineClient(**self._connection, max_outstanding=2 * self._size, on_outage=self._warn_once)

    def _is_away(self):
        return self._client.away > GRACE

    def _has_room(self, timeout):
        with self._changed:
            return self._changed.wait_for(lambda: len(self._jobs) < self._size, timeout)

    def _ended(self, job):
        metadata = self._jobs[job]
        try:
            if job.cancelled():
                self._fail(metadata, "the service is away, and too many images wait")
            elif job.exception() is not None:
                self._fail(metadata, job.exception())
            else:
                self._outage = False
                self.counters.add("refined")
                self._publish(job.result(), metadata)
        finally:
            # Only now may a flowgraph that waited for it end.
            with self._changed:
                del self._jobs[job]
                self._changed.notify_all()

    def _fail(self, metadata, reason):
        self.counters.add("unrefined")
        self._warn_once(f"image {metadata.get('image_id', 0)} not refined: {reason}")

    def _warn_once(self, line):
        """Warns of the first of the troubles between two refined images."""
        if not self._outage:
            self._warn(f"{line}; until images are refined again, what is not is counted and not logged")
        self._outage = True
