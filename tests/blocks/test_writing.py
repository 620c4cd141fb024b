# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that cannot be written: each is counted once, and is published and refined all the same."""

import threading

import numpy as np
import pytest
from blocks.flowgraphs import MessageSink, folder_without_files, wait_until
from gnuradio import diffjscc, gr
from gnuradio.diffjscc.counters import Counters
from gnuradio.diffjscc.writer import ImageWriter
from refine.tiny import flow_refiner

from diffjscc.images import read_image


def receive(images, sink):
    """Runs a folder through a sink; returns the numbers of initial and refined images."""
    source, initial, refined = diffjscc.jscc_source(str(images), snr_db=7.0), MessageSink(), MessageSink()
    flowgraph = gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect((sink, "images"), (initial, "in"))
    flowgraph.msg_connect((sink, "refined"), (refined, "in"))
    flowgraph.run()
    return len(initial.messages), len(refined.messages)


@pytest.mark.parametrize("on_full", ["wait", "drop"])
def test_a_failed_write_is_counted_once_and_costs_neither_the_image_nor_its_refinement(images, tmp_path, on_full, capfd):
    flow_refiner().save_pretrained(tmp_path / "tiny")
    refinement = diffjscc.LocalRefinement(str(tmp_path / "tiny"))
    sink = diffjscc.jscc_sink(folder=folder_without_files(tmp_path), refinement=refinement, on_full=on_full)
    published = receive(images, sink)
    # With "drop" a flowgraph that ends does not wait, and what is published then finds blocks that have stopped.
    assert published == (3, 3) or on_full == "drop"
    counters = sink.counters()
    assert (counters["received"], counters["decoded"], counters["dropped"]) == (3, 3, {})
    assert (counters["refined"], counters["unrefined"]) == (3, 0)
    assert (counters["published"], counters["written"], counters["unwritten"]) == (6, 0, 6)
    assert sink.reasons() == {"unwritten": {"failed": 6}}
    lines = [line for line in capfd.readouterr().out.splitlines() if "not written" in line]
    assert len(lines) == 1 and "000000.png not written: " in lines[0] and "File name too long" in lines[0]


def test_an_image_file_sink_tells_what_was_no_image_from_what_could_not_be_written(images, tmp_path):
    import pmt
    from gnuradio.diffjscc.pdus import image_to_pdu

    block, flowgraph = diffjscc.image_file_sink(folder_without_files(tmp_path)), gr.top_block()
    other = MessageSink()
    other.message_port_register_out(pmt.intern("out"))
    flowgraph.msg_connect((other, "out"), (block, "images"))
    flowgraph.start()
    for message in (pmt.intern("no image"), image_to_pdu(np.zeros((32, 32, 3), np.uint8), {"image_id": 1})):
        block.to_basic_block()._post(pmt.intern("images"), message)
    wait_until(lambda: sum(block.counters().values()) == 2)
    flowgraph.stop()
    flowgraph.wait()
    assert block.counters() == {"written": 0, "unwritten": 1, "bad": 1}


def test_an_image_file_sink_keeps_the_newest_of_its_own_files(tmp_path):
    import pmt
    from gnuradio.diffjscc.pdus import image_to_pdu

    (tmp_path / "000000.png").write_text("somebody else's")
    block = diffjscc.image_file_sink(str(tmp_path), keep=2)
    flowgraph, other = gr.top_block(), MessageSink()
    other.message_port_register_out(pmt.intern("out"))
    flowgraph.msg_connect((other, "out"), (block, "images"))
    flowgraph.start()
    for image_id in range(5):
        block.to_basic_block()._post(pmt.intern("images"), image_to_pdu(np.zeros((32, 32, 3), np.uint8), {"image_id": image_id}))
    wait_until(lambda: block.counters()["written"] == 5)
    flowgraph.stop()
    flowgraph.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.png", "000003.png", "000004.png"]


class SlowDisk(ImageWriter):
    """A writer whose disk answers once ``answer`` is set."""

    answer = threading.Event()

    def _write(self, item):
        assert self.answer.wait(30)
        super()._write(item)


def test_a_slow_disk_with_drop_leaves_the_oldest_unwritten(tmp_path):
    warned, counters = [], Counters("written", "unwritten")
    writer = SlowDisk(str(tmp_path), counters, warned.append, 2, "drop")
    writer.start()
    pixels = np.zeros((32, 32, 3), np.uint8)
    for name in "01234":
        writer.submit(name, pixels, 0.0)
    writer.answer.set()
    assert writer.stop(5.0)
    assert counters["written"] + counters["unwritten"] == 5 and counters["unwritten"] in (2, 3)
    assert len(warned) == 1 and "the disk is behind" in warned[0]
    assert sorted(path.stem for path in tmp_path.iterdir())[-2:] == ["3", "4"]
    assert read_image(tmp_path / "4.png").shape == (32, 32, 3)
