#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the animation at the top of the README: examples/no_cliff.grc, whose SNR slider goes down and up again.

The flowgraph is compiled and run as gnuradio-companion does, without a screen.
"""

import argparse
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: SNRs of the slider, dB, and how long each is shown, milliseconds.
COURSE = [(14, 1500), (10, 600), (8, 600), (6, 700), (5, 900), (4, 1200), (3, 700), (2, 600), (1, 600), (0, 600)]
COURSE += [(-2, 600), (-4, 1500), (0, 400), (4, 600), (6, 600), (10, 600)]

#: Size of the window, pixels.
SIZE = (880, 540)

#: Images that each view receives after the slider has moved, before the window is photographed: some were under way.
SETTLED = 4

#: Seconds that this may take.
PATIENCE = 120.0


def compiled(folder):
    """The class of the flowgraph."""
    example = ROOT / "examples/no_cliff.grc"
    environment = os.environ | {"GRC_BLOCKS_PATH": str(ROOT / "grc")}
    done = subprocess.run(["grcc", "-o", folder, example], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"animation: grcc failed\n{done.stdout}{done.stderr}")
    spec = importlib.util.spec_from_file_location("no_cliff_flowgraph", Path(folder) / "no_cliff_flowgraph.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.no_cliff_flowgraph


def photographs(application, flowgraph):
    """A QPixmap of the window for each SNR of the course."""
    from PyQt5.QtWidgets import QDoubleSpinBox

    (slider,) = flowgraph.findChildren(QDoubleSpinBox)
    histories = [view._history for view in (flowgraph.jscc_view, flowgraph.hevc_view)]

    def number(history):
        newest = history.newest()
        return newest.number if newest else 0

    for snr_db, _ in COURSE:
        slider.setValue(snr_db)
        before, end = [number(history) for history in histories], time.monotonic() + PATIENCE
        while any(number(history) < first + SETTLED for history, first in zip(histories, before)):
            if time.monotonic() > end:
                sys.exit("animation: no images arrive")
            application.processEvents()
            time.sleep(0.02)
        for _ in range(10):
            application.processEvents()
            time.sleep(0.02)
        yield flowgraph.grab()


def frame(pixmap):
    """QPixmap → PIL image."""
    from PIL import Image
    from PyQt5.QtCore import QBuffer

    buffer = QBuffer()
    buffer.open(QBuffer.ReadWrite)
    pixmap.save(buffer, "PNG")
    return Image.open(io.BytesIO(bytes(buffer.data()))).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/no_cliff.webp", help="WebP file (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=40, help="of WebP, 0 to 100 (default: %(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PyQt5.QtWidgets import QApplication

    application = QApplication(sys.argv[:1])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        flowgraph = compiled(folder)(images=str(ROOT / "examples/coffee.jpg"))
        flowgraph.resize(*SIZE)
        flowgraph.show()
        flowgraph.start()
        frames = [frame(pixmap) for pixmap in photographs(application, flowgraph)]
        flowgraph.stop()
        flowgraph.wait()
    durations = [duration for _, duration in COURSE]
    options = {"quality": arguments.quality, "method": 6, "loop": 0, "kmax": 1}
    frames[0].save(arguments.out, save_all=True, append_images=frames[1:], duration=durations, **options)
    print(f"{arguments.out}: {len(frames)} frames, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
