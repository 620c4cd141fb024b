# SPDX-License-Identifier: GPL-3.0-or-later
"""What has been received of an experiment: bursts become images, and images rows, while the experiment goes on."""

from __future__ import annotations

import io
import math
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..air.gatherer import Gatherer
from ..air.header import Fragment
from ..errors import one_line
from ..evaluate.journal import JOURNAL, Journal
from ..images import read_image, to_pixels, to_tensor
from ..metrics import ms_ssim, psnr
from .bursts import Matcher, ReceivedBurst, delay_spread
from .plan import identity
from .schedule import Schedule, planned_rate

#: Images that may wait to be decoded: 5 s of the fastest radio. Their symbols take 100 kB a burst.
WAITING = 256

#: An image of which less than this share arrived counts as not received, as in other receivers.
MIN_SHARE = 0.1

#: Seconds that `close` waits for what is still to be decoded.
CLOSE_TIMEOUT = 120.0

#: Quality of received images for the report, as WebP; and of images that a page shows, the longest side in pixels.
QUALITY, LONGEST_SIDE = 88, 1600


class Collector:
    """Puts the images of a schedule together, decodes and measures them in a thread, and keeps each row as it is finished.

    schedule     of the plan
    out          folder of the results; it must not hold an earlier reception
    sample_rate  samples/s
    device       where codecs compute
    codec        a codec that decodes in place of the plan's; "": the plan's
    say          called with a line for each image, and for what goes wrong, from any thread
    show         called with each image, uint8 (H, W, 3), and the metadata of a PDU, from a thread

    ``matcher.foreign`` counts bursts that are not the schedule's, ``repeated`` those that came twice, ``dropped`` images that were
    given up because decoding is slower than reception: they can be received again from the recording.
    Raises ValueError for a folder that is in use, and for systems that cannot run here.
    """

    def __init__(
        self,
        schedule: Schedule,
        out: str | os.PathLike,
        sample_rate: float,
        device: str = "cpu",
        codec: str = "",
        say: Callable[[str], None] = lambda line: None,
        show: Callable[[np.ndarray, dict[str, Any]], None] = lambda pixels, metadata: None,
    ):
        self.schedule, self.out, self.sample_rate = schedule, Path(out), sample_rate
        self._device, self._codec, self._say, self._show = device, codec, say, show
        self._systems = schedule.plan.built()
        self._loaded: dict[str, Any] = {}
        self._fits: dict[tuple[str, str, int], bool] = {}
        self.matcher = Matcher(schedule)
        if (self.out / JOURNAL).exists():
            raise ValueError(f"{self.out}: holds an earlier reception: give another --out")
        self.journal = Journal(self.out, identity(schedule.plan, schedule.sources) | {"decoded_by": codec})
        #: Of each burst of the schedule: where it was planned, and where it was received, samples.
        self.anchors: list[tuple[int, int]] = []
        self.clock_offsets: list[float] = []
        self.repeated = self.dropped = self.failed = 0
        self._last = -1
        # Open images by number: {index of the fragment: burst}.
        self._open: dict[int, dict[int, tuple[Fragment, ReceivedBurst]]] = {}
        self._done: set[int] = set()
        self._images: queue.Queue = queue.Queue(WAITING)
        self._shown = _shown(schedule)
        self._thread = threading.Thread(target=self._work, daemon=True, name="experiment")
        self._thread.start()

    def push(self, burst: ReceivedBurst) -> dict[str, Any] | None:
        """Takes a burst. Returns what describes it, for the recording's annotation; None where it is not the schedule's."""
        fragment = self.matcher.find(burst.packed)
        if fragment is None:
            return None
        number = fragment.header.image_id
        entry = self.schedule.by_number[number]
        described = {
            "label": f"{number}.{fragment.index}",
            "transmission": number,
            "fragment": fragment.index,
            "snr_db": burst.snr_db,
            "cfo_hz": burst.cfo * self.sample_rate,
            "delay_spread_us": 1e6 * delay_spread(burst.channel, self.schedule.plan.preset) / self.sample_rate,
            "samples": entry.bursts[fragment.index][1],
        }
        self.anchors.append((entry.bursts[fragment.index][0], burst.start))
        self.clock_offsets.append(burst.clock_offset)
        if number in self._done or fragment.index in self._open.get(number, {}):
            self.repeated += 1
            return described
        # Bursts keep their order: an image of which the next one's bursts arrive has ended.
        for other in [other for other in self._open if other != number]:
            self._submit(other)
        self._open.setdefault(number, {})[fragment.index] = fragment, burst
        if len(self._open[number]) == fragment.count:
            self._submit(number)
        return described

    def close(self) -> None:
        """Decodes what is left and ends the thread. The journal stays open for `results.write_results`."""
        for number in list(self._open):
            self._submit(number, CLOSE_TIMEOUT)
        try:
            self._images.put(None, timeout=CLOSE_TIMEOUT)
            self._thread.join(CLOSE_TIMEOUT)
        except queue.Full:
            self._say("decoding takes too long: what is not decoded can be received again from the recording")

    def _submit(self, number: int, patience: float = 0.0) -> None:
        parts = self._open.pop(number)
        self._done.add(number)
        try:
            self._images.put((number, parts), block=patience > 0, timeout=patience or None)
        except queue.Full:
            self.dropped += 1

    def can_be_sent(self, number: int) -> bool:
        """Whether a transmission that was not received could be made: an image codec may need more symbols than the rate gives."""
        cell = self.schedule.by_number[number].cell
        if self._systems[cell.point.system].rates is not None:
            return True
        key = cell.point.system, cell.point.rate, cell.image
        if key not in self._fits:
            image = to_tensor(read_image(self.schedule.sources[cell.image].path))
            try:
                self._coder(cell.point.system).encode(image, cell.point.snr_db, planned_rate(cell), image_id=number)
                self._fits[key] = True
            except ValueError:
                self._fits[key] = False
        return self._fits[key]

    def wait_for_room(self, seconds: float) -> bool:
        """Whether another image may come: for receivers that can hold their samples back."""
        if not self._images.full():
            return True
        threading.Event().wait(seconds)
        return not self._images.full()

    # The thread.

    def _work(self) -> None:
        while (item := self._images.get()) is not None:
            number, parts = item
            try:
                self._finish(number, parts)
            except Exception as error:
                self.failed += 1
                self._say(f"transmission {number}: {one_line(error)}")

    def _finish(self, number: int, parts: dict[int, tuple[Fragment, ReceivedBurst]]) -> None:
        cell = self.schedule.by_number[number].cell
        gatherer, ended = Gatherer(), []
        for fragment, burst in parts.values():
            ended += gatherer.push(fragment, burst.values, burst.noise_var, burst.snr_db)
        ((header, reception),) = ended or gatherer.flush()
        lost = float(np.mean(~np.isfinite(reception.noise_var)))
        if 1 - lost < MIN_SHARE:
            raise ValueError(f"only {100 * (1 - lost):.0f} % of the image arrived: it counts as not received")
        coder = self._coder(cell.point.system)
        pixels = to_pixels(coder.decode(reception, header))
        original = read_image(self.schedule.sources[cell.image].path)
        image, wanted = to_tensor(pixels), to_tensor(original)
        bursts = [burst for _, burst in parts.values()]
        spreads = [delay_spread(burst.channel, self.schedule.plan.preset) / self.sample_rate for burst in bursts]
        whole = bool(getattr(coder, "whole", True))
        row = {
            "psnr_db": psnr(image, wanted),
            "ms_ssim": ms_ssim(image, wanted),
            "snr_measured_db": reception.snr_db,
            "fragments_received": len(parts),
            "loss": lost,
            "decoded_whole": whole,
            "cfo_hz": float(np.mean([burst.cfo for burst in bursts])) * self.sample_rate,
            "clock_ppm": 1e6 * float(np.mean([burst.clock_offset for burst in bursts])),
            "delay_spread_us": 1e6 * float(np.nanmean(spreads)) if not all(map(math.isnan, spreads)) else math.nan,
            "received_at": min(burst.start - self._offset(number, f.index) for f, burst in parts.values()),
        }
        self.journal.add(number, row, {}, _webp(pixels) if number in self._shown else None, None)
        self._show(pixels, {**header.to_dict(), "snr_db": reception.snr_db, "truncated": lost > 0})
        name = self.schedule.sources[cell.image].name
        words = [f"SNR {row['snr_measured_db']:.1f} dB", f"PSNR {row['psnr_db']:.2f} dB", f"CFO {round(row['cfo_hz']):+d} Hz"]
        if lost:
            words.append(f"{100 * lost:.0f} % lost")
        self._say(f"{number}: {name}, {cell.point.system}, {cell.point.channel}, rate {cell.point.rate}: {', '.join(words)}")

    def _offset(self, number: int, index: int) -> int:
        entry = self.schedule.by_number[number]
        return entry.bursts[index][0] - entry.begin

    def _coder(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._systems[name].load(self._device, self._codec)
        return self._loaded[name]


def _shown(schedule: Schedule) -> set[int]:
    """Numbers of the transmissions whose images the report shows: evenly spaced in the list, the first repeat."""
    images = len(schedule.sources)
    count = min(schedule.plan.report_images, images)
    shown = {round(i * (images - 1) / max(count - 1, 1)) for i in range(count)}
    return {cell.number for cell in schedule.cells if cell.repeat == 0 and cell.image in shown}


def _webp(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
