# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras and video files through PyAV: what camera_source plays."""

import glob
import os
import time

from diffjscc.errors import extra, one_line

#: Where Linux has its cameras (V4L2).
DEVICES = "/dev/video"

#: Seconds in which a file's late frames are left out one behind another; a decoder slower than the film would show none at all.
CATCHING_UP = 0.2

#: Damaged packets in a row that are left out, as a player does.
MAX_DAMAGED = 50


def is_device(source):
    return source.startswith("/dev/")


def open_video(source, width, height, fps):
    """The opened container of a camera's device file or a video file. Raises ValueError, one line, where there is none.

    A camera is asked for the size and the frame rate, and gives the nearest that it has, or refuses.
    """
    with extra("camera", "camera_source"):
        import av
    device = is_device(source)
    if not os.path.exists(source):
        raise ValueError(_missing_device(source) if device else f"{source}: no such video file")
    options = {"video_size": f"{width}x{height}", "framerate": f"{fps:g}"}
    try:
        if not device:
            container = av.open(source)
        else:
            try:
                container = av.open(source, format="v4l2", options=options)
            except OSError:
                # Not with this size and rate: as the camera wants, to be scaled here.
                container = av.open(source, format="v4l2")
    except (OSError, ValueError) as error:
        what = "not a camera that can be opened" if device else "not a video file that ffmpeg can read"
        raise ValueError(f"{source}: {what} ({one_line(error, 100)})") from None
    if not container.streams.video:
        container.close()
        raise ValueError(f"{source}: there are no moving images in it")
    container.streams.video[0].thread_type = "AUTO"
    return container


def _missing_device(source):
    there = sorted(glob.glob(f"{DEVICES}*"))
    if there:
        return f"{source}: no such camera; there are {', '.join(there)}"
    return f"{source}: no such camera, and no other; connect one, or make a virtual one with `sudo modprobe v4l2loopback`"


class Player:
    """Frames of a video at the pace at which they were filmed, or at which a camera delivers them.

    source   a camera's device file, such as /dev/video0, or a video file
    width, height   of the frames that are given out, pixels: others are scaled, and what then is too wide or too high is cut off
    fps      frames per second at most
    repeat   play a file again after its end

    A file's frame whose time has passed when its turn comes is left out, so that playing never falls behind.
    Raises ValueError, one line, where there is no such camera or file.
    """

    def __init__(self, source, width, height, fps, repeat):
        self._source, self._size, self._fps, self._repeat = source, (width, height), fps, repeat
        self._live = is_device(source)
        open_video(source, width, height, fps).close()

    def frames(self, stopped):
        """uint8 (height, width, 3) one by one, each when it is due, until the end or until ``stopped``, a threading.Event, is set.

        Raises ValueError where the camera is gone, or the file cannot be decoded.
        """
        while True:
            count = 0
            for frame in self._once(stopped):
                count += 1
                yield frame
            if not count and not stopped.is_set():
                raise ValueError(f"{self._source}: no frame of it can be decoded")
            if self._live or not self._repeat or stopped.is_set():
                return

    def _once(self, stopped):
        container = open_video(self._source, *self._size, self._fps)
        begin, due, number, resumed = None, 0.0, -1, 0.0
        rate = float(container.streams.video[0].average_rate or self._fps)
        try:
            for number, frame in enumerate(_decoded(container)):
                # The first frame may take long.
                begin = begin or time.monotonic()
                now = time.monotonic() - begin
                filmed = now if self._live else _seconds(frame, number, rate)
                # A quarter of a frame's time of grace: cameras are not exact.
                if filmed < due - 0.25 / rate:
                    continue
                if not self._live and filmed < now - 1 / self._fps and now - resumed < CATCHING_UP:
                    continue
                if stopped.wait(max(0.0, filmed - now)):
                    return
                due = max(due, filmed - 1 / self._fps) + 1 / self._fps
                yield _fitted(frame, *self._size)
                resumed = time.monotonic() - begin
            # The last frame is shown as long as the others.
            stopped.wait(0 if self._live or number < 0 else 1 / rate)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._source}: {one_line(error, 100)}") from None
        finally:
            container.close()


def _decoded(container):
    """Frames. Damaged packets are left out: cameras send some."""
    damaged = 0
    for packet in container.demux(video=0):
        try:
            frames = packet.decode()
        except ValueError:
            damaged += 1
            if damaged > MAX_DAMAGED:
                raise
            continue
        damaged = 0
        yield from frames


def _seconds(frame, number, rate):
    """When a file's frame is to be shown, after its beginning."""
    return number / rate if frame.time is None else frame.time


def _fitted(frame, width, height):
    """A frame as uint8 (height, width, 3): scaled until it covers that, and cut to its middle."""
    scale = max(width / frame.width, height / frame.height)
    wide, high = max(width, round(frame.width * scale)), max(height, round(frame.height * scale))
    pixels = frame.reformat(width=wide, height=high, format="rgb24").to_ndarray()
    left, top = (wide - width) // 2, (high - height) // 2
    return pixels[top : top + height, left : left + width]
