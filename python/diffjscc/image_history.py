# SPDX-License-Identifier: GPL-3.0-or-later
"""The last received images with what belongs to them: the refined image, the original, and what was measured."""

import collections
import threading
import time
from dataclasses import dataclass, field

#: Images that the course of SNR and PSNR shows.
COURSE = 200

#: What curves show is less than this, dB.
PLOTTED = 200.0

#: Seconds over which images per second are counted.
RATE_SPAN = 3.0

#: Originals that wait for their images.
ORIGINALS = 16

#: A view that follows the newest image may stay this many images behind it, for one that is refined already.
BEHIND = 4


@dataclass
class Point:
    """What the course shows of an image, dB. The PSNR is that of the image as received, once it was asked for."""

    snr_db: float | None = None
    psnr_db: float | None = None


def _plotted(value):
    """A value in dB as float, or None where a curve cannot show it: the PSNR of an image that came as it was is infinite."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < PLOTTED else None


@dataclass
class Reception:
    """One image: pixels uint8 (H, W, 3) by stage ("initial", "refined", "original"), and its PDU's metadata."""

    number: int
    metadata: dict
    pixels: dict = field(default_factory=dict)
    point: Point = field(default_factory=Point)
    _qualities: dict = field(default_factory=dict)

    def psnr_db(self, stage):
        """PSNR of a stage, dB; None where the original is unknown, or of another size. Computed once."""
        shown, original = self.pixels.get(stage), self.pixels.get("original")
        if shown is None or original is None or shown.shape != original.shape:
            return None
        if stage not in self._qualities:
            # Here, because importing the blocks does not import torch.
            from diffjscc.images import to_tensor
            from diffjscc.metrics import psnr

            self._qualities[stage] = psnr(to_tensor(shown), to_tensor(original))
            if stage == "initial":
                self.point.psnr_db = _plotted(self._qualities[stage])
        return self._qualities[stage]


class ImageHistory:
    """Keeps the newest images, whichever thread brings them.

    length  how many images are kept
    """

    def __init__(self, length):
        self._lock = threading.Lock()
        self._receptions = collections.deque(maxlen=length)
        self._originals = collections.OrderedDict()
        self._course = collections.deque(maxlen=COURSE)
        self._times = collections.deque(maxlen=COURSE)
        self._number = 0

    def add(self, pixels, metadata):
        """A received image. The initial and the refined one of an image_id are one entry, whichever comes first."""
        stage = "refined" if metadata.get("stage") == "refined" else "initial"
        image_id = metadata.get("image_id")
        with self._lock:
            reception = self._find(image_id, without=stage)
            if reception is None:
                self._number += 1
                reception = Reception(self._number, metadata)
                self._receptions.append(reception)
                if image_id is not None and image_id in self._originals:
                    reception.pixels["original"] = self._originals[image_id]
                reception.point.snr_db = _plotted(metadata.get("snr_db"))
                self._course.append(reception.point)
                self._times.append(time.monotonic())
            reception.pixels[stage] = pixels

    def add_original(self, pixels, metadata):
        """An image as it was before it was sent, under the image_id that it is sent with."""
        image_id = metadata.get("image_id")
        with self._lock:
            self._originals.pop(image_id, None)
            self._originals[image_id] = pixels
            while len(self._originals) > ORIGINALS:
                self._originals.popitem(last=False)
            reception = self._find(image_id, without="original")
            if reception is not None:
                reception.pixels["original"] = pixels

    def newest(self):
        """The newest image, or None."""
        with self._lock:
            return self._receptions[-1] if self._receptions else None

    def followed(self):
        """What a live view shows: the newest refined image where it is at most `BEHIND` images old, else the newest; or None."""
        with self._lock:
            recent = list(self._receptions)[-1 - BEHIND :]
        refined = (reception for reception in reversed(recent) if "refined" in reception.pixels)
        return next(refined, recent[-1] if recent else None)

    def all(self):
        """Every image that is kept, the oldest first."""
        with self._lock:
            return list(self._receptions)

    def course(self):
        """Points of the last images, the oldest first."""
        with self._lock:
            return list(self._course)

    def rate(self):
        """Images per second over the last seconds."""
        now = time.monotonic()
        with self._lock:
            fresh = sum(now - moment < RATE_SPAN for moment in self._times)
            # More than are remembered came within the span.
            if fresh == COURSE:
                return fresh / max(now - self._times[0], 1e-3)
            return fresh / RATE_SPAN

    def _find(self, image_id, without):
        """The newest image of this id that lacks a stage."""
        if image_id is None:
            return None
        for reception in reversed(self._receptions):
            if reception.metadata.get("image_id") == image_id:
                return reception if without not in reception.pixels else None
        return None
