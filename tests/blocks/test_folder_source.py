# SPDX-License-Identifier: GPL-3.0-or-later
"""folder_source: what is put into a folder is sent, once and whole."""

import numpy as np
import pytest
from blocks.flowgraphs import MessageSink, wait_until
from gnuradio import diffjscc, gr

from diffjscc.images import write_image


def plain(shade, side=48):
    return np.full((side, side, 3), shade, np.uint8)


@pytest.fixture
def watching(tmp_path):
    """(folder, start): start(**options) watches the folder and returns (block, probe)."""
    running = []

    def start(**options):
        block, probe, flowgraph = diffjscc.folder_source(str(tmp_path / "outbox"), **options), MessageSink(), gr.top_block()
        flowgraph.msg_connect(block, "images", probe, "in")
        flowgraph.start()
        running.append(flowgraph)
        return block, probe

    (tmp_path / "outbox").mkdir()
    yield tmp_path / "outbox", start
    for flowgraph in running:
        flowgraph.stop()
        flowgraph.wait()


def shades(probe):
    return [int(pixels[0, 0, 0]) for pixels, _ in probe.images()]


def test_an_image_that_is_dropped_is_sent_and_sent_again_when_it_changes(watching):
    folder, start = watching
    write_image(folder / "before.png", plain(10))
    block, probe = start()
    write_image(folder / "a.png", plain(20))
    wait_until(lambda: len(probe.messages) == 1)
    write_image(folder / "a.png", plain(30, 64))
    (folder / "notes.txt").write_text("not an image")
    wait_until(lambda: len(probe.messages) == 2)
    write_image(folder / "b.jpg", plain(40))
    wait_until(lambda: len(probe.messages) == 3)
    assert np.abs(np.subtract(shades(probe), [20, 30, 40])).max() < 3
    assert probe.images()[1][1] == {"name": "a.png", "width": 64, "height": 64}
    assert block.counters() == {"published": 3, "skipped": 0}


def test_what_is_there_already_is_sent_where_that_is_asked_for(watching):
    folder, start = watching
    for number in range(3):
        write_image(folder / f"{number}.png", plain(10 * number))
    _, probe = start(existing=True)
    wait_until(lambda: len(probe.messages) == 3)
    assert sorted(shades(probe)) == [0, 10, 20]


def test_a_file_that_grows_is_sent_when_it_is_whole_and_a_broken_one_is_one_line(watching, capfd):
    folder, start = watching
    write_image(folder.parent / "whole.png", np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
    data = (folder.parent / "whole.png").read_bytes()
    block, probe = start()
    (folder / "broken.png").write_bytes(data[:200])
    wait_until(lambda: block.counters()["skipped"] == 1)
    (folder / "broken.png").write_bytes(data)
    wait_until(lambda: len(probe.messages) == 1)
    assert block.counters() == {"published": 1, "skipped": 1}
    assert capfd.readouterr().out.count("image not sent: ") == 1


def test_a_folder_that_goes_away_and_comes_back_is_watched_again(watching):
    folder, start = watching
    block, probe = start()
    folder.rmdir()
    folder.mkdir()
    write_image(folder / "a.png", plain(20))
    wait_until(lambda: len(probe.messages) == 1)
    assert block.counters()["published"] == 1


def test_bad_folders_are_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (str(tmp_path / "file"), str(tmp_path / "file" / "below"), "", 3):
        with pytest.raises(ValueError, match=r"^folder = .*: must be ") as caught:
            diffjscc.folder_source(folder)
        assert "\n" not in str(caught.value)
