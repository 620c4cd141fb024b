# SPDX-License-Identifier: GPL-3.0-or-later
"""Refining pictures behind a block's back: what jscc_sink does with a picture after it was published."""

import threading

from .worker import Worker

#: Where refinement runs.
WHERE = ("none", "local")


class LocalRefinement:
    """Refines pictures in a thread of its own, in the order they came, each at once when the one before is done.

    model      refiner, by name or folder; loaded when the first picture comes
    device     where to compute, as torch writes it
    publish    called as publish(pixels, metadata) with the refined picture and the initial one's metadata
    warn       called with one line where a picture could not be refined
    queue_size pictures that may wait
    on_full    as in `Worker`: "wait" waits for room, "drop" throws the oldest away and counts it

    A picture that cannot be refined is counted and logged; its initial picture has long been published.
    """

    def __init__(self, model, device, publish, warn, queue_size, on_full):
        from diffjscc.hub import find_model

        # A name that nobody knows is refused when the flowgraph is built, not with the first picture.
        find_model(model, "refiner")
        self._model, self._device = model, device
        self._publish, self._warn = publish, warn
        self._refiner = None
        self._lock = threading.Lock()
        self._counts = {"refined": 0, "unrefined": 0}
        self._worker = Worker(self._refine, self._failed, self._thrown_away, queue_size, on_full)
        self.start, self.stop, self.wait_idle = self._worker.start, self._worker.stop, self._worker.wait_idle

    @property
    def idle(self):
        return self._worker.idle

    def submit(self, pixels, metadata, timeout):
        """Queues a picture; one for which there is no room within ``timeout`` seconds is counted and logged."""
        item = (pixels, metadata)
        if not self._worker.submit(item, timeout):
            self._thrown_away(item)

    def counters(self):
        """{"refined", "unrefined": pictures that could not be refined, or were thrown away}."""
        with self._lock:
            return dict(self._counts)

    def _count(self, name):
        with self._lock:
            self._counts[name] += 1

    def _refine(self, item):
        import torch

        from diffjscc.hub import load_refiner
        from diffjscc.images import to_pixels, to_tensor

        pixels, metadata = item
        if self._refiner is None:
            self._refiner = load_refiner(self._model, self._device)
        # The same picture is refined the same way again.
        generator = torch.Generator().manual_seed(metadata["image_id"])
        refined = self._refiner(to_tensor(pixels), metadata["snr_db"], generator=generator)
        self._count("refined")
        self._publish(to_pixels(refined), metadata)

    def _failed(self, item, error):
        self._count("unrefined")
        self._warn(f"picture {item[1]['image_id']} not refined: {error}")

    def _thrown_away(self, item):
        self._count("unrefined")
        self._warn(f"picture {item[1]['image_id']} not refined: the refiner is behind and its queue is full")
