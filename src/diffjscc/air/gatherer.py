# SPDX-License-Identifier: GPL-3.0-or-later
"""From fragments to images, with erasures for what is missing."""

from __future__ import annotations

from collections import deque

import numpy as np

from ..symbols import ImageHeader, Reception
from .header import Fragment
from .sequences import scattered_order

#: How many images that were given out are remembered, to recognise their late fragments.
REMEMBERED = 64


#: Transmitters whose images are put together at the same time.
MAX_OPEN = 4


class Gatherer:
    """Collects the fragments of images, one image at a time from each transmitter.

    Bursts of a transmitter, which its session tells from others', keep their order on the air. So an image is given out when it is
    complete, or when a fragment of another image of its session arrives; and by `expire` when none of its fragments has arrived
    for ``deadline`` seconds, or by `flush`. Symbols that are missing by then are erasures, noise variance +inf. When a fifth
    session begins, the image that has waited longest for a fragment is given out.

    deadline   seconds without a fragment after which an image is given out; None for no limit
    late       number of fragments whose image had been given out before
    """

    def __init__(self, deadline: float | None = None):
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline = {deadline}: must be above 0 seconds, or None")
        self._deadline = deadline
        # Images by session; the one whose last fragment came last is last.
        self._open: dict[int, _Image] = {}
        self._given_out: deque = deque(maxlen=REMEMBERED)
        self.late = 0

    def push(
        self,
        fragment: Fragment,
        values: np.ndarray,
        noise_var: np.ndarray,
        snr_db: float,
        now: float = 0.0,
        callsign: str = "",
    ) -> list[tuple[ImageHeader, Reception]]:
        """Takes a fragment and returns the images that end with it.

        values, noise_var   complex64 and float32 (n,), n at most the fragment's length
        snr_db              of the burst
        now                 time of any clock, seconds
        callsign            of the burst, "" where it has none or it could not be read
        """
        key = (fragment.session, fragment.header, fragment.count)
        ended = []
        image = self._open.pop(fragment.session, None)
        if image is not None and (image.key != key or fragment.index in image.snr_db):
            ended.append(self._give_out(image))
            image = None
        if image is None:
            # The first fragment of an image that was given out begins a new image: ids wrap, and transmitters restart.
            if key in self._given_out and fragment.index > 0:
                self.late += 1
                return ended
            if len(self._open) >= MAX_OPEN:
                ended.append(self._give_out(self._open.pop(next(iter(self._open)))))
            image = _Image(key, fragment)
        image.add(fragment, values, noise_var, snr_db, now)
        image.callsign = callsign or image.callsign
        if len(image.snr_db) == fragment.count:
            ended.append(self._give_out(image))
        else:
            self._open[fragment.session] = image
        return ended

    @property
    def waiting(self) -> bool:
        """Whether an image is open."""
        return bool(self._open)

    def expire(self, now: float) -> list[tuple[ImageHeader, Reception]]:
        """The open images whose last fragment came longer than ``deadline`` ago."""
        if self._deadline is None:
            return []
        overdue = [session for session, image in self._open.items() if now - image.last > self._deadline]
        return [self._give_out(self._open.pop(session)) for session in overdue]

    def flush(self) -> list[tuple[ImageHeader, Reception]]:
        """The open images, as they are."""
        images = list(self._open.values())
        self._open.clear()
        return [self._give_out(image) for image in images]

    def _give_out(self, image: _Image) -> tuple[ImageHeader, Reception]:
        self._given_out.append(image.key)
        return image.header, image.reception()


class _Image:
    def __init__(self, key: tuple, fragment: Fragment):
        self.key, self.header = key, fragment.header
        total = self.header.symbol_count
        self._order = scattered_order(total)
        self._values = np.zeros(total, np.complex64)
        self._noise_var = np.full(total, np.inf, np.float32)
        self.snr_db: dict[int, float] = {}
        self.last = 0.0
        self.callsign = ""

    def add(self, fragment: Fragment, values: np.ndarray, noise_var: np.ndarray, snr_db: float, now: float) -> None:
        where = self._order[fragment.begin : fragment.begin + len(values)]
        # A symbol that is not finite is lost; so is one in infinite noise, whatever its value.
        sound = np.isfinite(values) & np.isfinite(noise_var) & (noise_var >= 0)
        self._values[where] = np.where(sound, values, 0)
        self._noise_var[where] = np.where(sound, noise_var, np.inf)
        self.snr_db[fragment.index] = snr_db
        self.last = now

    def reception(self) -> Reception:
        snr = np.mean([10 ** (snr_db / 10) for snr_db in self.snr_db.values()])
        return Reception(self._values, self._noise_var, float(10 * np.log10(snr)), callsign=self.callsign)
