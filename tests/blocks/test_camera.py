# SPDX-License-Identifier: GPL-3.0-or-later
"""camera_source: a video file in the place of a camera, paced, scaled, and never falling behind."""

import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from blocks.flowgraphs import MessageSink, MessageSource, wait_until
from gnuradio import blocks, diffjscc, gr
from gnuradio.diffjscc.camera import Player
from gnuradio.diffjscc.pdus import image_to_pdu

from diffjscc.images import to_tensor
from diffjscc.metrics import psnr

#: Of the film: frames, and frames per second.
FRAMES, FPS = 20, 50


def shade(number):
    """Of frame ``number``: each has its own."""
    return 30 + 10 * number


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A video file of FRAMES plain grey frames, 160×96."""
    import av

    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(FRAMES):
            pixels = np.full((96, 160, 3), shade(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


def numbers(images):
    """Which frames images are."""
    return [round((float(np.mean(pixels)) - 30) / 10) for pixels in images]


def test_a_file_is_played_at_its_speed_to_its_end_and_the_flowgraph_ends(film):
    camera, probe, flowgraph = diffjscc.camera_source(film, 160, 96, FPS, repeat=False), MessageSink(), gr.top_block()
    flowgraph.msg_connect(camera, "images", probe, "in")
    begin = time.monotonic()
    flowgraph.run()
    seconds = time.monotonic() - begin
    assert camera.counters()["published"] > FRAMES / 2
    shown = numbers(pixels for pixels, _ in probe.images())
    assert shown == sorted(set(shown)) and set(shown) <= set(range(FRAMES))
    assert seconds > FRAMES / FPS * 0.9
    assert all(metadata == {"width": 160, "height": 96, "live": True} for _, metadata in probe.images())


@pytest.mark.parametrize("size, same", [((160, 96), True), ((320, 240), False), ((64, 200), False)])
def test_frames_have_the_size_that_was_asked_for(film, size, same):
    frame = next(Player(film, *size, FPS, False).frames(threading.Event()))
    assert frame.shape == (size[1], size[0], 3) and abs(float(frame.mean()) - shade(0)) < 3


def test_frames_per_second_are_at_most_those_asked_for_and_late_frames_are_left_out(film):
    assert numbers(Player(film, 160, 96, FPS / 5, False).frames(threading.Event())) == [0, 5, 10, 15]
    slow = []
    for frame in Player(film, 160, 96, FPS, False).frames(threading.Event()):
        slow.append(frame)
        time.sleep(0.1)
    # A fifth of a frame's time each: one of five is shown.
    assert numbers(slow) == sorted(numbers(slow)) and len(slow) <= 6


def test_a_decoder_slower_than_the_film_still_shows_frames(film, monkeypatch):
    """Each frame takes four times as long as it lasts."""
    from gnuradio.diffjscc import camera

    decoded = camera._decoded

    def slowly(container):
        for frame in decoded(container):
            time.sleep(4 / FPS)
            yield frame

    monkeypatch.setattr(camera, "_decoded", slowly)
    shown = numbers(Player(film, 160, 96, FPS, False).frames(threading.Event()))
    assert 4 <= len(shown) <= FRAMES and shown == sorted(shown)


def mjpeg(film, path, damaged):
    """The film in a format of which each frame stands for itself, with some frames damaged."""
    import av

    with av.open(film) as source, av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj420p"
        for number, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            for packet in stream.encode(frame.reformat(format="yuvj420p")):
                if number in damaged:
                    zeros = av.Packet(b"\x00" * packet.size)
                    zeros.stream, zeros.pts, zeros.dts = stream, packet.pts, packet.dts
                    packet = zeros
                container.mux(packet)
    return Player(str(path), 160, 96, FPS, False)


def test_damaged_frames_are_left_out(film, tmp_path):
    shown = numbers(mjpeg(film, tmp_path / "some.avi", range(4, 8)).frames(threading.Event()))
    assert max(shown) == FRAMES - 1 and not set(shown) & {4, 5, 6, 7}
    with pytest.raises(ValueError, match=r"all.avi: no frame of it can be decoded$"):
        list(mjpeg(film, tmp_path / "all.avi", range(FRAMES)).frames(threading.Event()))


def test_repeat_plays_again_until_stopped(film):
    stopped, seen = threading.Event(), []
    for frame in Player(film, 64, 64, 25, True).frames(stopped):
        seen.append(frame)
        if numbers([frame])[0] == 0 and len(seen) > 2:
            stopped.set()
    assert numbers(seen)[0] == 0 and max(numbers(seen)) >= 16


def test_the_newest_image_wins_while_the_stream_is_slow():
    """Twelve live images; the stream takes the symbols of hardly one."""
    source, camera, valve = diffjscc.jscc_source(rate="1/16"), MessageSource(), blocks.throttle(gr.sizeof_gr_complex, 1000)
    probe, sink, flowgraph = MessageSink(), diffjscc.jscc_sink(snr_db=20.0), gr.top_block()
    flowgraph.connect(source, valve, sink)
    flowgraph.msg_connect(camera, "out", source, "images")
    flowgraph.msg_connect(source, "originals", probe, "in")
    flowgraph.start()
    total = 12
    for number in range(total):
        camera.publish(image_to_pdu(np.full((128, 128, 3), shade(number), np.uint8), {"live": True}))
    wait_until(lambda: sum((counters := source.counters()).values()) == total and counters["waiting"] <= 3)
    counters = source.counters()
    flowgraph.stop()
    flowgraph.wait()
    assert counters["replaced"] >= total - 5 and counters["skipped"] == 0


def test_a_film_crosses_the_air_interface_at_its_pace(film):
    camera, transmitter, receiver = (
        diffjscc.camera_source(film, 160, 96, 10, False),
        diffjscc.jscc_tx(rate="1/16"),
        diffjscc.jscc_rx(),
    )
    probe, flowgraph = MessageSink(), gr.top_block()
    flowgraph.connect(transmitter, receiver)
    flowgraph.msg_connect(camera, "images", transmitter, "images")
    flowgraph.msg_connect(receiver, "images", probe, "in")
    flowgraph.start()
    wait_until(lambda: probe.messages)
    flowgraph.stop()
    flowgraph.wait()
    pixels = probe.images()[0][0]
    (number,) = numbers([pixels])
    assert number in range(FRAMES)
    assert psnr(to_tensor(pixels), to_tensor(np.full_like(pixels, shade(number)))) > 30


def test_what_is_no_camera_is_one_line(tmp_path, film):
    text, gone = tmp_path / "text.mp4", tmp_path / "gone.mp4"
    text.write_text("not a film")
    for source, line in (
        ("/dev/video99", r"^/dev/video99: no such camera"),
        ("/dev/null", r"^/dev/null: not a camera that can be opened"),
        (str(text), r"text.mp4: not a video file that ffmpeg can read"),
        (str(gone), r"gone.mp4: no such video file$"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            diffjscc.camera_source(source)
        assert "\n" not in str(caught.value)
    for options in ({"width": 31}, {"height": "240"}, {"fps": 0}, {"fps": float("nan")}, {"source": ""}, {"repeat": "yes"}):
        with pytest.raises(ValueError, match=rf"^{next(iter(options))} = .*: must be "):
            diffjscc.camera_source(**{"source": film} | options)


def test_a_file_that_goes_away_ends_the_block_with_one_line(tmp_path, film, capfd):
    copy = tmp_path / "film.mp4"
    copy.write_bytes(Path(film).read_bytes())
    camera, flowgraph, probe = diffjscc.camera_source(str(copy), repeat=True), gr.top_block(), MessageSink()
    flowgraph.msg_connect(camera, "images", probe, "in")
    copy.unlink()
    flowgraph.run()
    assert capfd.readouterr().out.count("no more images: ") == 1
