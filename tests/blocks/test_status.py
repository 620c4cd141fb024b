# SPDX-License-Identifier: GPL-3.0-or-later
"""What blocks log is published too, on their message port ``status``."""

import re

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSink, SymbolSource, burst_tags, wait_until
from blocks.test_air_interface import bursts, noisy
from conftest import photograph
from gnuradio import blocks, channels, diffjscc, filter, gr
from gnuradio.diffjscc.logs import StatusLog
from gnuradio.diffjscc.pdus import REFERENCE_TAG, image_to_pdu
from gnuradio.diffjscc.reference import ReferenceCheck, reference

from diffjscc.images import to_pixels


@pytest.fixture(scope="module")
def symbols(lite):
    return lite.encode(photograph(64, 64), 10.0, "1/64")


def events(status):
    """[(block, event, line), …] of a MessageSink on a status port."""
    messages = [pmt.to_python(message) for message in status.messages]
    assert all(message.keys() == {"block", "event", "count", "line"} and message["count"] > 0 for message in messages)
    return [(message["block"].rstrip("0123456789"), message["event"], message["line"]) for message in messages]


def run(*stages, on=-1):
    """Runs blocks one behind another; returns the status messages of one of them."""
    flowgraph, status = gr.top_block(), MessageSink()
    flowgraph.connect(*stages)
    flowgraph.msg_connect((stages[on], "status"), (status, "in"))
    flowgraph.run()
    return events(status)


def receive(values, tags, **options):
    return run(SymbolSource(np.asarray(values, np.complex64), tags), diffjscc.jscc_sink(**options))


def test_a_sink_tells_of_symbols_outside_bursts_and_of_dropped_bursts(symbols):
    told = {event: (block, line) for block, event, line in receive(np.ones(20_000), burst_tags(symbols, codec="unheard-of"))}
    assert told.keys() == {"dropped", "untagged"} and {block for block, _ in told.values()} == {"jscc_sink"}
    assert "unheard-of" in told["dropped"][1] and "symbols outside any burst" in told["untagged"][1]


def test_a_sink_tells_of_late_fragments(symbols):
    from blocks.test_silence import fragment_tags

    half, first = fragment_tags(symbols, 0, 2, 0)
    other = type(symbols)(symbols.values, type(symbols.header)(**symbols.header.to_dict() | {"image_id": 7}))
    whole, between = fragment_tags(other, 0, 1, half)
    _, second = fragment_tags(symbols, 1, 2, half + whole)
    told = receive(np.concatenate([symbols.values[:half], symbols.values, symbols.values[half:]]), first + between + second)
    assert [event for _, event, _ in told] == ["late"]


def test_a_sink_tells_of_unwritten_and_unrefined_images(symbols, tmp_path):
    (tmp_path / "received").mkdir()
    sink = diffjscc.jscc_sink(
        folder=str(tmp_path / "received"), on_full="drop", refinement=diffjscc.RemoteRefinement("tcp://127.0.0.1:9")
    )
    (tmp_path / "received").rmdir()
    (tmp_path / "received").write_text("in the way")
    told = run(SymbolSource(symbols.values, burst_tags(symbols)), sink)
    assert {event for _, event, _ in told} >= {"unwritten"}


def test_a_source_tells_of_each_file_that_it_skips(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_text("no image")
    told = run(diffjscc.jscc_source(str(tmp_path), repeat=True), blocks.null_sink(8), on=0)
    assert [event for _, event, _ in told] == ["skipped"] * 3
    assert "a.png" in told[0][2] and "b.png" in told[1][2] and "the source ends" in told[2][2]


def test_a_whole_receiver_tells_what_detector_demodulator_and_sink_log(symbols):
    """One port for all three: another preset, a clock 10 % off, and a header that lies about its image."""
    wrong, _ = bursts(3, "ofdm64")
    lying, _ = bursts(3)
    fast, _ = bursts(6, length=3000, gap=1000)
    resampled = np.interp(np.arange(0, len(fast) - 1, 1.1), np.arange(len(fast)), fast)
    told = run(blocks.vector_source_c(noisy(np.concatenate((wrong, lying, resampled)), 20.0)), diffjscc.jscc_rx())
    assert {(block, event) for block, event, _ in told} == {
        ("burst_demodulator", "rejected"),
        ("burst_detector", "unknown signal"),
        ("jscc_sink", "dropped"),
    }


def test_a_whole_transmitter_tells_what_source_and_burst_tx_log(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    told = run(diffjscc.jscc_tx(str(tmp_path)), blocks.null_sink(8), on=0)
    assert {(block, event) for block, event, _ in told} == {("jscc_source", "skipped")}


@pytest.mark.parametrize(
    "make, port, event",
    [
        (diffjscc.jscc_source, "images", "skipped"),
        (diffjscc.jscc_encoder, "images", "skipped"),
        (diffjscc.jscc_decoder, "symbols", "dropped"),
        (diffjscc.refine_client, "images", "bad"),
        (lambda: diffjscc.image_file_sink("received"), "images", "bad"),
    ],
)
def test_a_message_that_cannot_be_used_is_told(make, port, event, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block, status, flowgraph = make(), MessageSink(), gr.top_block()
    flowgraph.msg_connect((block, "status"), (status, "in"))
    if port == "images" and make is diffjscc.jscc_source:
        flowgraph.connect(block, blocks.null_sink(8))
    flowgraph.start()
    for _ in range(30):
        block.to_basic_block()._post(pmt.intern(port), pmt.intern("nonsense"))
    wait_until(lambda: status.messages)
    flowgraph.stop()
    flowgraph.wait()
    assert {event for _, event, _ in events(status)} == {event}
    assert len([line for line in capfd.readouterr().out.splitlines() if ":warning:" in line and "stopped" not in line]) == 1


def test_a_value_that_a_running_flowgraph_refuses_is_told():
    source, status, flowgraph = diffjscc.jscc_source(), MessageSink(), gr.top_block()
    flowgraph.connect(source, blocks.null_sink(8))
    flowgraph.msg_connect((source, "status"), (status, "in"))
    flowgraph.start()
    source.set_rate("1/3")
    wait_until(lambda: status.messages)
    flowgraph.stop()
    flowgraph.wait()
    ((block, event, line),) = events(status)
    assert (block, event) == ("jscc_source", "refused") and "rate 1/3" in line


# References behind bursts.


def received(*channel, count=1, **options):
    """[line, …] about symbols that were changed, and the sink's counters, of images through blocks."""
    source, sink = diffjscc.jscc_source(**{"rate": "1/16", "snr_db": 10.0} | options), diffjscc.jscc_sink()
    flowgraph, status = gr.top_block(), MessageSink()
    flowgraph.connect(source, *channel, sink)
    flowgraph.msg_connect((sink, "status"), (status, "in"))
    for _ in range(count):
        source.to_basic_block()._post(pmt.intern("images"), image_to_pdu(to_pixels(photograph(64, 96)), {}))
    source.to_basic_block()._post(pmt.intern("system"), pmt.cons(pmt.intern("done"), pmt.from_long(1)))
    flowgraph.run()
    assert sink.counters()["decoded"] == count
    return [line for _, event, line in events(status) if event == "distorted"], sink.counters()


def noise(snr_db=10.0, taps=(0, 0, 0, 1)):
    return channels.channel_model(10 ** (-snr_db / 20), 0.0, 1.0, taps, 1)


CHANGES = {
    "default taps": (lambda: [noise(taps=(1.0,))], "come 3 symbols early"),
    "the companion's taps": (lambda: [noise(taps=(1 + 1j,))], r"come 3 symbols early and .* too strong and .* by \d\d°"),
    "quarter turn": (lambda: [noise(), blocks.multiply_const_cc(1j)], "are turned by"),
    "half the level": (lambda: [noise(), blocks.multiply_const_cc(0.5)], r"are \d dB too weak"),
    "twice the level": (lambda: [blocks.multiply_const_cc(2), noise()], r"are \d dB too strong"),
    "two samples a symbol": (lambda: [noise(), blocks.repeat(8, 2)], "cannot be found"),
    "conjugate": (lambda: [noise(), blocks.conjugate_cc()], ""),
}


@pytest.mark.parametrize("channel, what", CHANGES.values(), ids=CHANGES)
def test_symbols_that_do_not_arrive_as_sent_are_told_with_the_first_image(channel, what):
    lines, counters = received(*channel())
    assert len(lines) == 1 and counters["distorted"] == 1
    assert re.search(f"behind a burst {what}", lines[0]) and "put JSCC TX and JSCC RX" in lines[0]


@pytest.mark.parametrize("snr_db", [-5.0, 1.0, 10.0, 40.0])
@pytest.mark.parametrize("guard", [0, 31, 32, 48, 500])
def test_noise_alone_is_no_change_with_any_guard(snr_db, guard):
    lines, counters = received(noise(snr_db), count=4, guard=guard)
    assert lines == [] and counters["distorted"] == 0


def test_a_phase_turn_in_noise_is_told_after_some_images():
    lines, counters = received(noise(-5.0), blocks.multiply_const_cc(1j), count=12, guard=32)
    assert lines and 0 < counters["distorted"] < 12


def test_a_resampler_is_told():
    lines, counters = received(noise(), filter.mmse_resampler_cc(0, 1.05), count=3)
    assert len(lines) == 1 and counters["distorted"] >= 2


def test_delays_that_move_tags_too_are_no_change():
    lines, counters = received(noise(), blocks.delay(8, 3), count=2)
    assert lines == [] and counters["distorted"] == 0


@pytest.mark.parametrize("window", [1, 7, 33, 1000])
@pytest.mark.parametrize("turn", [1, 1j])
def test_a_reference_is_checked_whatever_the_windows(window, turn):
    random, tag, found, check = np.random.default_rng(window), gr.tag_t(), [], ReferenceCheck()
    stream = np.concatenate((np.zeros(70), reference(40), np.zeros(30)))
    stream = (turn * stream + 0.3 * random.standard_normal((140, 2)) @ (1, 1j)).astype(np.complex64)
    tag.offset, tag.key, tag.value = 1070, REFERENCE_TAG, pmt.from_long(40)
    for begin in range(0, 140, window):
        end = begin + window
        found += check.push(stream[begin:end], 1000 + begin, [tag] if begin <= 70 < end else [])
    assert len(found + check.flush()) == check.distorted == (turn != 1)


@pytest.mark.parametrize(
    ("value", "symbol", "told"),
    [
        (pmt.PMT_T, 0, 0),
        (pmt.from_long(-1), 0, 0),
        (pmt.from_long(1 << 40), 0, 0),
        (pmt.from_double(40.0), 0, 0),
        (pmt.from_long(40), np.nan, 0),
        (pmt.from_long(40), np.inf, 0),
        (pmt.from_long(40), 1e18, 0),
        (pmt.from_long(40), 0, 1),
    ],
)
def test_nonsense_and_overwhelming_noise_tell_nothing_and_silence_does(value, symbol, told):
    tag, check = gr.tag_t(), ReferenceCheck()
    tag.offset, tag.key, tag.value = 20, REFERENCE_TAG, value
    assert len(check.push(np.full(100, symbol, np.complex64), 0, [tag]) + check.flush()) == check.distorted == told


# How often.


class Quiet(gr.sync_block):
    """A block that logs and sends nothing."""

    def __init__(self):
        gr.sync_block.__init__(self, name="quiet", in_sig=[np.complex64], out_sig=None)
        self.lines = []
        self.log = StatusLog(self, self.lines.append)

    def work(self, input_items, output_items):
        for _ in range(500):
            self.log.note("full", lambda count: f"{count} events")
            self.log.note("full", "another kind", kind="other")
        return len(input_items[0])


def test_a_thousand_events_are_one_message_and_one_line_of_each_kind():
    block = Quiet()
    told = run(blocks.vector_source_c([0] * 10), block)
    assert block.lines == ["1 events", "another kind"]
    assert [(event, line) for _, event, line in told] == [("full", "1 events"), ("full", "another kind")]
