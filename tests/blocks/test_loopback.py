# SPDX-License-Identifier: GPL-3.0-or-later
"""Images across whole flowgraphs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSink, wait_until
from conftest import SMALL, photograph
from gnuradio import blocks, channels, diffjscc, gr, pdu
from gnuradio.diffjscc.pdus import image_to_pdu

from diffjscc.codec import build_codec
from diffjscc.images import read_image, to_pixels, to_tensor, write_image
from diffjscc.metrics import psnr

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_codec():
    codec = build_codec(SMALL["lite"] | {"rates": ["1/64"]}).eval()
    codec.name = "mine"
    return codec


def loopback(source, sink, snr_db=1.0):
    """A flowgraph source → channel model → sink, and a MessageSink of its images."""
    flowgraph = gr.top_block()
    channel = channels.channel_model(noise_voltage=10 ** (-snr_db / 20), taps=[0, 0, 0, 1], noise_seed=1)
    received = MessageSink()
    flowgraph.connect(source, channel, sink)
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    return flowgraph, received


def test_a_folder_crosses_the_channel_and_every_image_arrives_in_order(images, tmp_path):
    source = diffjscc.jscc_source(str(images), rate="1/32", snr_db=7.0)
    sink = diffjscc.jscc_sink(folder=str(tmp_path))
    flowgraph, received = loopback(source, sink, snr_db=7.0)
    flowgraph.run()
    expected = {"received": 3, "decoded": 3, "truncated": 0, "dropped": {}, "published": 3, "written": 3, "unwritten": 0}
    counters = sink.counters()
    # The silence behind each burst is outside any, of which the channel model keeps the end.
    assert 96 < counters.pop("stray") <= 3 * 48
    assert counters == expected | {"late": 0, "distorted": 0, "undelivered": 0}
    assert source.counters() == {"sent": 3, "skipped": 0, "waiting": 0}
    originals = [read_image(path) for path in sorted(images.iterdir())]
    assert len(received.messages) == 3
    for index, ((pixels, metadata), original) in enumerate(zip(received.images(), originals)):
        assert metadata["image_id"] == index and metadata["stage"] == "initial" and metadata["rate"] == "1/32"
        assert metadata["snr_db"] == pytest.approx(7.0, abs=1.5)
        assert psnr(to_tensor(pixels), to_tensor(original)) > 17
        assert np.array_equal(read_image(tmp_path / f"{index:06d}.png"), pixels)


def test_the_flowgraph_gives_the_images_that_scripts_get(lite, images):
    """Symbols from the block are the codec's own, and a clean channel gives the same image."""
    path = sorted(images.iterdir())[0]
    source = diffjscc.jscc_source(str(path), rate="1/64", snr_db=10.0, guard=0)
    probe = blocks.vector_sink_c()
    flowgraph = gr.top_block()
    flowgraph.connect(source, probe)
    flowgraph.run()
    symbols = lite.encode(to_tensor(read_image(path)), 10.0, "1/64")
    sent = np.array(probe.data())
    assert len(sent) == len(symbols.values)
    assert np.mean(np.abs(sent) ** 2) == pytest.approx(1, abs=1e-5)
    assert np.mean(np.abs(sent - symbols.values) ** 2) < 1e-3
    tags = {pmt.symbol_to_string(tag.key): (tag.offset, pmt.to_python(tag.value)) for tag in probe.tags()}
    assert tags == {"packet_len": (0, len(sent)), "image_header": (0, symbols.header.to_dict())}


def test_a_codec_itself_stands_where_its_name_does(lite, images, small_codec):
    """One that is in no folder, too; a receiver of another drops its bursts."""
    source = diffjscc.jscc_source(str(images), codec=small_codec, rate="1/64")
    sinks = [diffjscc.jscc_sink(codec=codec) for codec in (small_codec, lite)]
    flowgraph = gr.top_block()
    for sink in sinks:
        flowgraph.connect(source, sink)
    flowgraph.run()
    assert [sink.counters()["decoded"] for sink in sinks] == [3, 0]
    assert sinks[1].counters()["dropped"] == {"codec": 3}
    with pytest.raises(ValueError, match="rate 1/32 is not one that codec 'mine' has: choose from 1/64"):
        source._transmitter.set_rate("1/32")


def test_the_self_test_of_the_doctor_receives_its_image():
    done = subprocess.run([sys.executable, "-m", "gnuradio.diffjscc.self_test"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["1"]), done.stderr


def test_a_source_with_effort_sends_what_the_codec_found(images, lite):
    path = images / "coffee.png"
    source, probe = diffjscc.jscc_source(str(path), rate="1/16", snr_db=10.0, guard=0, effort=6), blocks.vector_sink_c()
    flowgraph = gr.top_block()
    flowgraph.connect(source, probe)
    flowgraph.run()
    plain, found = (lite.encode(to_tensor(read_image(path)), 10.0, "1/16", effort=effort).values for effort in (0, 6))
    sent = np.array(probe.data())
    assert np.mean(np.abs(sent - found) ** 2) < 0.1 * np.mean(np.abs(found - plain) ** 2)


def test_rate_and_snr_change_while_running(images):
    source = diffjscc.jscc_source(str(images), repeat=True, rate="1/128", snr_db=1.0)
    sink = diffjscc.jscc_sink(snr_db=20.0)
    flowgraph = gr.top_block()
    received = MessageSink()
    flowgraph.connect(source, blocks.throttle(gr.sizeof_gr_complex, 50e3), sink)
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    flowgraph.start()
    wait_until(lambda: len(received.messages) >= 2)
    source.set_rate("1/64")
    source.set_snr_db(9.0)
    wait_until(lambda: any(metadata["rate"] == "1/64" for _, metadata in received.images()))
    flowgraph.stop()
    flowgraph.wait()
    changed = [metadata for _, metadata in received.images() if metadata["rate"] == "1/64"]
    assert changed[-1]["tx_snr_db"] == 9.0
    assert sink.counters()["dropped"] == {}


def test_images_from_the_message_port_are_all_sent_before_the_flowgraph_ends():
    pixels = to_pixels(photograph(64, 96))
    source = diffjscc.jscc_source(rate="1/64")
    sink = diffjscc.jscc_sink()
    flowgraph, received = loopback(source, sink)
    for index in range(5):
        source.to_basic_block()._post(pmt.intern("images"), image_to_pdu(pixels, {"note": index}))
    source.to_basic_block()._post(pmt.intern("images"), pmt.intern("nonsense"))
    source.to_basic_block()._post(pmt.intern("images"), image_to_pdu(pixels[:8, :8], {}))
    source.to_basic_block()._post(pmt.intern("system"), pmt.cons(pmt.intern("done"), pmt.from_long(1)))
    flowgraph.run()
    assert [metadata["image_id"] for _, metadata in received.images()] == [0, 1, 2, 3, 4]
    assert source.counters() == {"sent": 5, "skipped": 2, "waiting": 0}


def test_pdu_blocks_carry_images_through_stock_framing(tmp_path):
    """image PDU → jscc_encoder → tagged stream and back → jscc_decoder → image_file_sink."""
    encoder, decoder = diffjscc.jscc_encoder(rate="1/64", snr_db=5.0), diffjscc.jscc_decoder()
    to_stream, to_pdu = pdu.pdu_to_tagged_stream(gr.types.complex_t), pdu.tagged_stream_to_pdu(gr.types.complex_t)
    files, received = diffjscc.image_file_sink(str(tmp_path)), MessageSink()
    flowgraph = gr.top_block()
    flowgraph.msg_connect((encoder, "symbols"), (to_stream, "pdus"))
    flowgraph.connect(to_stream, to_pdu)
    flowgraph.msg_connect((to_pdu, "pdus"), (decoder, "symbols"))
    flowgraph.msg_connect((decoder, "images"), (files, "images"))
    flowgraph.msg_connect((decoder, "images"), (received, "in"))
    pixels = to_pixels(photograph(128, 160))
    flowgraph.start()
    for message in (image_to_pdu(pixels, {}), pmt.PMT_NIL, image_to_pdu(pixels, {})):
        encoder.to_basic_block()._post(pmt.intern("images"), message)
    wait_until(lambda: len(received.messages) == 2 and files.counters()["written"] == 2)
    flowgraph.stop()
    flowgraph.wait()
    assert encoder.counters() == {"sent": 2, "skipped": 1, "undelivered": 0}
    assert decoder.counters() == {"received": 2, "decoded": 2, "truncated": 0, "dropped": {}, "undelivered": 0}
    # Nothing was added on the way: the estimate says so.
    image, metadata = received.images()[0]
    assert metadata["snr_db"] > 19
    assert np.array_equal(read_image(tmp_path / "000000.png"), image)
    assert psnr(to_tensor(image), photograph(128, 160)) > 17


def test_bad_files_among_good_ones_are_skipped(tmp_path, images):
    for index, path in enumerate(sorted(images.iterdir())[:2]):
        write_image(tmp_path / f"{index}.png", read_image(path))
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "00_cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "01_text.png").write_text("no image")
    write_image(tmp_path / "02_dot.png", np.zeros((1, 1, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("passed over")
    source, sink = diffjscc.jscc_source(str(tmp_path)), diffjscc.jscc_sink()
    flowgraph, received = loopback(source, sink)
    flowgraph.run()
    assert source.counters() == {"sent": 2, "skipped": 3, "waiting": 0}
    assert len(received.messages) == 2


def test_a_repeating_source_of_bad_files_alone_ends(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    source, sink = diffjscc.jscc_source(str(tmp_path), repeat=True), diffjscc.jscc_sink()
    flowgraph, received = loopback(source, sink)
    flowgraph.run()
    assert source.counters() == {"sent": 0, "skipped": 1, "waiting": 0}
    assert received.messages == []


def test_a_stopped_flowgraph_leaves_no_thread_and_starts_again(images):
    import threading

    source, sink = diffjscc.jscc_source(str(images), repeat=True), diffjscc.jscc_sink()
    flowgraph, received = loopback(source, sink)
    for _ in range(2):
        before = len(received.messages)
        flowgraph.start()
        wait_until(lambda before=before: len(received.messages) > before)
        flowgraph.stop()
        flowgraph.wait()
        assert not [t for t in threading.enumerate() if t.name in ("jscc_source", "diffjscc-worker")]


def test_wrong_parameters_are_refused_at_once(tmp_path, images):
    for make, message in [
        (lambda: diffjscc.jscc_source(str(tmp_path / "absent")), "no such file"),
        (lambda: diffjscc.jscc_source(str(tmp_path)), "no images in this folder"),
        (lambda: diffjscc.jscc_source(str(images), rate="1/256"), "rate 1/256 is not one that codec 'lite' has"),
        (lambda: diffjscc.jscc_source(str(images), snr_db=float("nan")), "not an SNR"),
        (lambda: diffjscc.jscc_source(str(images), effort=-1), "effort = -1: must be a whole number of steps"),
        (lambda: diffjscc.jscc_encoder(effort=2.5), "effort = 2.5: must be a whole number of steps"),
        (lambda: diffjscc.jscc_source(str(images), codec="absent"), "neither a known name"),
        (lambda: diffjscc.jscc_source(str(images), guard=-1), "guard = -1"),
        (lambda: diffjscc.jscc_sink(on_full="panic"), "on_full = 'panic': must be one of wait, drop"),
        (lambda: diffjscc.jscc_sink(queue_size=0), "queue_size = 0: must be a whole number of bursts or images"),
        (lambda: diffjscc.jscc_sink(snr_db=float("inf")), "snr_db = inf is not an SNR"),
        (lambda: diffjscc.image_file_sink(""), "folder = '': must be the folder that images are written to"),
        (lambda: diffjscc.image_file_sink("x", ".txt"), "suffix"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_importing_the_blocks_is_quick_and_imports_no_torch():
    code = (
        "import time, sys; from gnuradio import gr; start = time.perf_counter()\n"
        "from gnuradio import diffjscc\nprint(time.perf_counter() - start)\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert float(done.stdout) < 0.5


def test_the_example_receives_its_image(tmp_path):
    command = [ROOT / "examples/symbol_loopback.py", ROOT / "examples/coffee.jpg", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 images decoded" in done.stdout
    assert read_image(tmp_path / "out" / "000000.png").shape == (400, 600, 3)


def test_a_wrong_rate_on_the_examples_command_line_is_one_line():
    command = [sys.executable, ROOT / "examples/symbol_loopback.py", ROOT / "examples/coffee.jpg", "--rate", "1/3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "rate 1/3" in done.stderr and "Traceback" not in done.stderr
