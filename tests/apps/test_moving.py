# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving images from the command line: diffjscc-tx --camera, diffjscc-rx --show."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from apps.test_radios import call
from blocks.flowgraphs import wait_until
from PyQt5.QtCore import QMetaObject, Qt
from PyQt5.QtWidgets import QApplication

from diffjscc.images import find_images, read_image

ROOT = Path(__file__).parents[2]
TX, RX = ([sys.executable, str(ROOT / "apps" / f"diffjscc-{name}")] for name in ("tx", "rx"))

#: Of the film.
FRAMES, FPS = 10, 5


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    import av

    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(FRAMES):
            pixels = np.full((96, 128, 3), 40 + 15 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def samples(film, tmp_path_factory):
    """The film on the air."""
    path = tmp_path_factory.mktemp("samples") / "samples.cf32"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert call("tx", "--camera", film, "--size", "128x96", "--rate", "1/16", "--radio", "file", "--file", path) == 0
    sent, waiting = map(int, re.search(r"images: sent (\d+), .*waiting (\d+)", out.getvalue()).groups())
    assert 1 <= sent <= FRAMES and waiting == 0
    return path, sent


def test_a_film_is_sent_and_received(samples, tmp_path):
    path, sent = samples
    assert call("rx", "--radio", "file", "--file", path, "--out", tmp_path / "out") == 0
    shades = [float(np.mean(read_image(image))) for image in find_images(tmp_path / "out")]
    assert len(shades) == sent and shades == sorted(shades)


def test_show_opens_a_window_and_writes_no_files(samples, tmp_path, monkeypatch, capsys):
    path, sent = samples
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.chdir(tmp_path)
    assert call("rx", "--radio", "file", "--file", path, "--show", "--images", sent) == 0
    assert f"decoded {sent}," in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_closing_the_window_ends_the_receiver(monkeypatch, tmp_path):
    from gnuradio.diffjscc.image_view_widget import ImageView

    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.chdir(tmp_path)

    def close():
        """In Qt's own thread, which another one may ask."""
        (window,) = (widget for widget in QApplication.topLevelWidgets() if isinstance(widget, ImageView) and widget.isVisible())
        QMetaObject.invokeMethod(window, "close", Qt.QueuedConnection)

    closes = threading.Timer(1.0, close)
    closes.start()
    assert call("rx", "--radio", "zmq", "--address", "tcp://127.0.0.1:9", "--show", "--seconds", 60) == 0
    assert not closes.is_alive()


def test_without_a_screen_show_is_one_line():
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [*RX, "--radio", "zmq", "--show"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("diffjscc-rx: no window can be shown (there is no screen")


def test_a_transmitter_with_a_camera_ends_when_it_is_told_to(film, tmp_path):
    log = tmp_path / "log"
    command = [*TX, "--camera", str(film), "--repeat", "--radio", "file", "--file", str(tmp_path / "samples.cf32")]
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    wait_until(lambda: (tmp_path / "samples.cf32").exists() and (tmp_path / "samples.cf32").stat().st_size > 0, 60)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert "images: sent" in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    "options, line",
    [
        ([], "name either images or a --camera"),
        (["a.png", "--camera", "b.mp4"], "name either images or a --camera"),
        (["--camera", "/dev/video99"], "/dev/video99: no such camera"),
        (["--camera", "gone.mp4"], "gone.mp4: no such video file"),
        (["--camera", "gone.mp4", "--size", "320"], "'320': expected width x height in pixels, 32 to 8192 each, such as 320x240"),
        (["--camera", "gone.mp4", "--size", "3x2"], "'3x2': expected width x height in pixels, 32 to 8192 each"),
        (["--camera", "gone.mp4", "--fps", "0"], "expected a number"),
    ],
)
def test_bad_options_are_one_line(options, line):
    done = subprocess.run([*TX, *options, "--radio", "zmq"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and line in done.stderr.splitlines()[-1], done.stderr
    assert len(done.stderr.splitlines()) == 1
