# SPDX-License-Identifier: GPL-3.0-or-later
"""Refinement in the flowgraph's own process."""

from diffjscc.hub import DEFAULT_REFINER, find_model

from .arguments import OF_THE_BLOCK, checked
from .refinement import Refinement, reason_of
from .worker import Worker


class Interrupted(Exception):
    """The image that is being refined is no longer wanted."""


class LocalRefinement(Refinement):
    """Refines images in a thread of this process, one after another in the order in which they came.

    refiner     name of `diffjscc models`, or a folder; loaded when the first image comes
    device      where to compute, as torch writes it: "cpu", "cuda", …
    queue_size  images that may wait for the refiner; default: as many as bursts may wait for the decoder
    on_full     when as many wait: "wait" holds the block back, "drop" gives the oldest one up; default: as the block

    An image that cannot be refined is counted and logged; its initial image has long been published. When the flowgraph stops
    and time is up, the image that is being refined is interrupted before the next layer of its networks.

    Raises ValueError, one line, for an unknown refiner or device, queue size or policy.

    Example:
        sink = diffjscc.jscc_sink(folder="received", refinement=diffjscc.LocalRefinement("mini"))
    """

    @checked(**OF_THE_BLOCK)
    def __init__(self, refiner=DEFAULT_REFINER, device="cpu", queue_size=None, on_full=None):
        super().__init__(refiner, queue_size, on_full)
        # An unknown name is refused when the flowgraph is built, not with the first image.
        find_model(refiner, "refiner")
        self._device = device
        self._refiner = self._worker = None

    def attach(self, publish, warn, queue_size, on_full):
        super().attach(publish, warn, queue_size, on_full)
        self._worker = Worker(self._refine, self._done, self._failed, self._dropped, self._size, self._on_full)

    @property
    def unfinished(self):
        return self._worker.unfinished

    def start(self):
        self._worker.start()

    def wait_idle(self, timeout):
        return self._worker.wait_idle(timeout)

    def stop(self, timeout):
        self._worker.stop(timeout)

    def _submit(self, pixels, metadata, timeout):
        if not self._worker.submit((pixels, metadata), timeout):
            self._dropped((pixels, metadata), "queue full")

    def _refine(self, item):
        import torch

        from diffjscc.hub import load_refiner
        from diffjscc.images import to_pixels

        pixels, metadata = item
        self._check_interrupted()
        if self._refiner is None:
            refiner = load_refiner(self._refiner_name, self._device)
            for component in refiner.components.values():
                if isinstance(component, torch.nn.Module):
                    self._make_interruptible(component)
            self._refiner = refiner
        # The same image is refined the same way again.
        generator = torch.Generator().manual_seed(metadata.get("image_id", 0))
        (refined,) = self._refiner(
            pixels, metadata.get("snr_db"), generator=generator, output_type="pt", callback_on_step_end=self._after_step
        ).images
        return to_pixels(refined)

    def _check_interrupted(self):
        if self._worker.interrupted:
            raise Interrupted

    def _after_step(self, pipeline, step, timestep, tensors):
        self._check_interrupted()
        return tensors

    def _make_interruptible(self, network):
        """One step on a large image takes seconds: ask before each layer, too."""
        for layer in network.modules():
            layer.register_forward_pre_hook(lambda *_: self._check_interrupted())

    def _done(self, item, pixels):
        self._succeed(pixels, item[1])

    def _failed(self, item, error):
        self._fail(item[1], reason_of(error), error)

    def _dropped(self, item, reason):
        self._fail(item[1], reason, "the refiner is behind and its queue is full")
