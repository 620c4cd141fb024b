# SPDX-License-Identifier: GPL-3.0-or-later
"""The digital way beside JSCC: separate_source and separate_sink over GNU Radio's channel model."""

from pathlib import Path

import numpy as np
import pytest
from blocks.flowgraphs import MessageSink, MessageSource, wait_until
from gnuradio import blocks, channels, diffjscc, gr
from gnuradio.diffjscc.pdus import image_to_pdu

from diffjscc.images import read_image, to_tensor
from diffjscc.metrics import psnr

PHOTO = str(Path(__file__).parents[2] / "examples/coffee.jpg")


def received(snr_db, **options):
    """(images, counters) after one image has crossed the channel."""
    source = diffjscc.separate_source(PHOTO, rate="1/32")
    channel = channels.channel_model(noise_voltage=10 ** (-snr_db / 20), taps=[0, 0, 0, 1], noise_seed=1)
    sink, probe = diffjscc.separate_sink(**options), MessageSink()
    flowgraph = gr.top_block()
    flowgraph.connect(source, channel, sink)
    flowgraph.msg_connect(sink, "images", probe, "in")
    flowgraph.start()
    wait_until(lambda: probe.messages)
    flowgraph.stop()
    flowgraph.wait()
    return probe.images(), sink.counters()


def test_hevc_falls_off_the_cliff_where_jscc_does_not(tmp_path):
    original = to_tensor(read_image(PHOTO))
    ((above, metadata),), counters = received(8.0, folder=str(tmp_path))
    assert psnr(to_tensor(above), original) > 24 and not metadata["truncated"]
    assert counters["shown"] == {"whole": 1, "part": 0, "nothing": 0, "frozen": 0}
    assert np.array_equal(read_image(tmp_path / "000000.png"), above)
    ((below, metadata),), counters = received(2.0)
    assert (below == 128).all() and metadata["truncated"]
    assert counters["shown"]["nothing"] == 1 and counters["truncated"] == 1
    jscc = diffjscc.jscc_source(PHOTO, rate="1/32", snr_db=8.0)
    sink, probe, flowgraph = diffjscc.jscc_sink(), MessageSink(), gr.top_block()
    flowgraph.connect(jscc, channels.channel_model(10 ** (-2.0 / 20), taps=[0, 0, 0, 1], noise_seed=1), sink)
    flowgraph.msg_connect(sink, "images", probe, "in")
    flowgraph.run()
    assert psnr(to_tensor(probe.images()[0][0]), original) > 23


def test_both_use_the_same_symbols_and_power():
    streams = []
    for source in (diffjscc.jscc_source(PHOTO, rate="1/32", guard=0), diffjscc.separate_source(PHOTO, rate="1/32", guard=0)):
        flowgraph, sink = gr.top_block(), blocks.vector_sink_c()
        flowgraph.connect(source, sink)
        flowgraph.run()
        streams.append(np.array(sink.data()))
    assert len(streams[0]) == len(streams[1]) == 7600
    assert [np.mean(np.abs(stream) ** 2) for stream in streams] == pytest.approx([1, 1], abs=1e-4)


def test_images_come_from_the_message_port_too():
    source, sink, camera, probe = diffjscc.separate_source(rate="1/16"), diffjscc.separate_sink(), MessageSource(), MessageSink()
    flowgraph = gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect(camera, "out", source, "images")
    flowgraph.msg_connect(sink, "images", probe, "in")
    flowgraph.start()
    pixels = np.full((128, 192, 3), (20, 120, 200), np.uint8)
    camera.publish(image_to_pdu(pixels, {}))
    wait_until(lambda: probe.messages)
    flowgraph.stop()
    flowgraph.wait()
    assert np.abs(probe.images()[0][0].astype(int) - pixels).max() < 6


@pytest.mark.parametrize("block", ("separate_source", "separate_sink"))
@pytest.mark.parametrize("options", ({"code": "wifi-7/8"}, {"constellation": "64qam"}, {"code": 3}, {"constellation": None}))
def test_bad_options_are_one_line(block, options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))} = .*: must be one of "):
        getattr(diffjscc, block)(**options)


def test_a_rate_that_cannot_be_is_one_line_at_once_and_refused_later(capfd):
    with pytest.raises(ValueError, match="rate"):
        diffjscc.separate_source(PHOTO, rate="1/7")
    source = diffjscc.separate_source(PHOTO, rate="1/32")
    source.set_rate("1/7")
    assert "set_rate" in capfd.readouterr().out and source._source._transmitter.rate == 1 / 32


def test_one_snr_counts_for_decoding_and_for_what_came_before():
    sink = diffjscc.separate_sink()
    sink.set_snr_db(3.0)
    assert sink._sink._receiver is sink._sink._incoming._receiver and sink._sink._receiver.snr_db == 3.0


def test_neither_sink_takes_the_other_s_bursts(capfd):
    """One line each, and the burst is counted."""
    for source, sink in (
        (diffjscc.separate_source(PHOTO, rate="1/32"), diffjscc.jscc_sink()),
        (diffjscc.jscc_source(PHOTO, rate="1/32"), diffjscc.separate_sink()),
    ):
        flowgraph = gr.top_block()
        flowgraph.connect(source, sink)
        flowgraph.run()
        assert sink.counters()["dropped"] == {"codec": 1} and sink.counters()["decoded"] == 0
        assert capfd.readouterr().out.count("burst dropped: burst was encoded by codec") == 1
