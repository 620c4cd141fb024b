# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving images end to end: a film through camera_source, jscc_tx, jscc_rx and qt_image_view in one process, without a channel.

Prints frames per second and delay as they come out of the view, and the CPU time of a frame by thread. On a busy machine the CPU
time tells what a quiet one would do: all threads together may use as many seconds a second as there are cores.

usage: moving_images.py [--fps N] [--seconds N] [--size WxH] [--rate R] [--film FILE]
"""

import argparse
import collections
import hashlib
import os
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np


def make_film(path, width, height, fps, seconds):
    """A photograph that the view wanders over."""
    import av
    from PIL import Image
    from skimage import data

    photograph = np.asarray(Image.fromarray(data.astronaut()).resize((2 * width, 2 * height)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(fps * seconds):
            left, top = (number * width // (fps * seconds)), (number * height // (fps * seconds))
            pixels = np.ascontiguousarray(photograph[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def cpu_by_thread():
    """{name of a thread: seconds of CPU}; threads of the same name together. Those without one of their own are torch's."""
    tick, used = os.sysconf("SC_CLK_TCK"), collections.Counter()
    own = {str(thread.native_id): thread.name for thread in threading.enumerate() if not thread.name.startswith("Dummy")}
    for task in Path("/proc/self/task").iterdir():
        try:
            name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        fields = rest.split()
        name = own.get(task.name, "torch" if name == "python" else name)
        used[name.rstrip("0123456789")] += (int(fields[11]) + int(fields[12])) / tick
    return used


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--fps", type=int, default=30, help="of the camera (default: %(default)s)")
    add("--seconds", type=int, default=10, help="to measure (default: %(default)s)")
    add("--size", default="320x240", help="of the images (default: %(default)s)")
    add("--rate", default="1/16", help="channel uses per pixel (default: %(default)s)")
    add("--film", help="a video file (default: one that is made)")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

    import pmt
    from gnuradio import diffjscc, gr
    from gnuradio.diffjscc.pdus import image_from_pdu
    from PyQt5.QtWidgets import QApplication

    class Clock(gr.basic_block):
        """When images passed: [(key of an image, metadata, seconds)]."""

        def __init__(self):
            gr.basic_block.__init__(self, name="clock", in_sig=None, out_sig=None)
            self.seen = []
            self.message_port_register_in(pmt.intern("in"))
            self.set_msg_handler(pmt.intern("in"), self._note)

        def _note(self, message):
            now = time.monotonic()
            pixels, metadata = image_from_pdu(message)
            self.seen.append((hashlib.md5(pixels[::8].tobytes()).digest(), metadata, now))

    application = QApplication(sys.argv[:1])
    with tempfile.TemporaryDirectory() as folder:
        film = arguments.film or str(Path(folder) / "film.mp4")
        if not arguments.film:
            make_film(film, width, height, arguments.fps, arguments.seconds)
        camera = diffjscc.camera_source(film, width, height, arguments.fps)
        transmitter = diffjscc.jscc_tx(rate=arguments.rate, snr_db=10)
        receiver, view = diffjscc.jscc_rx(on_full="drop"), diffjscc.qt_image_view()
        filmed, encoded = Clock(), Clock()
        flowgraph = gr.top_block()
        flowgraph.connect(transmitter, receiver)
        flowgraph.msg_connect(camera, "images", transmitter, "images")
        flowgraph.msg_connect(camera, "images", filmed, "in")
        flowgraph.msg_connect(transmitter, "originals", encoded, "in")
        flowgraph.msg_connect(receiver, "images", view, "images")
        view.widget.resize(700, 600)
        view.widget.show()

        # When the window has painted an image, by its id.
        shown, history = {}, view._history

        def watch(seconds):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                application.processEvents()
                newest = history.newest()
                state = view.widget._shown
                if newest is not None and state and state[0] and state[0][0] == newest.number:
                    shown.setdefault(newest.metadata["image_id"], time.monotonic())
                time.sleep(0.002)

        flowgraph.start()
        # Codecs are loaded, and the processor's frequency rises.
        watch(5)
        before, begin, first = cpu_by_thread(), time.monotonic(), receiver.counters()
        shown.clear()
        watch(arguments.seconds)
        seconds, after, last = time.monotonic() - begin, cpu_by_thread(), receiver.counters()
        flowgraph.stop()
        flowgraph.wait()

    came = {key: when for key, _, when in filmed.seen}
    sent = {metadata["image_id"]: key for key, metadata, _ in encoded.seen}
    delays = [when - came[sent[number]] for number, when in shown.items() if sent.get(number) in came]
    decoded = last["decoded"] - first["decoded"]
    print(f"{width}×{height}, R = {arguments.rate}, camera {arguments.fps} frames/s, load {os.getloadavg()[0]:.1f}")
    print(f"decoded {decoded / seconds:.1f} images/s, shown {len(shown) / seconds:.1f}; {transmitter.counters()}")
    print(
        f"delay from camera to window: median {1e3 * percentile(delays, 0.5):.0f} ms, 95 % {1e3 * percentile(delays, 0.95):.0f} ms"
    )
    used = {name: after[name] - before[name] for name in after}
    print(f"CPU per decoded image, ms: {1e3 * sum(used.values()) / decoded:.1f} in all")
    for name, value in sorted(used.items(), key=lambda item: -item[1]):
        if value / decoded > 0.0002:
            print(f"  {name:16} {1e3 * value / decoded:6.1f}")


if __name__ == "__main__":
    main()
