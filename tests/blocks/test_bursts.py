# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sink makes of bursts that are late, cut, doubled or lies."""

import time

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSink, SymbolSource, burst_tags
from conftest import photograph
from gnuradio import diffjscc, gr

from diffjscc.images import to_tensor
from diffjscc.metrics import psnr


@pytest.fixture(scope="module")
def symbols(lite):
    return lite.encode(photograph(128, 160), 10.0, "1/64")


def receive(values, tags, chunk=1 << 30, **options):
    """Runs values and tags through a sink; returns its counters and images."""
    # A Python block that nothing refers to is collected while the flowgraph still runs it.
    source, sink, received = (
        SymbolSource(np.asarray(values, np.complex64), tags, chunk),
        diffjscc.jscc_sink(**options),
        MessageSink(),
    )
    flowgraph = gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    flowgraph.run()
    return sink.counters(), received.images()


@pytest.mark.parametrize("chunk", [1 << 30, 100, 7])
def test_bursts_are_found_whatever_the_windows(symbols, chunk):
    silence = np.zeros(50)
    values = np.concatenate([silence, symbols.values, silence, symbols.values, symbols.values])
    count = len(symbols.values)
    tags = sum((burst_tags(symbols, at, image_id=i) for i, at in enumerate((50, 100 + count, 100 + 2 * count))), [])
    counters, images = receive(values, tags, chunk)
    assert counters["received"] == counters["decoded"] == 3 and counters["dropped"] == {}
    assert (counters["truncated"], counters["stray"], counters["late"]) == (0, 100, 0)
    assert [metadata["image_id"] for _, metadata in images] == [0, 1, 2]
    assert np.array_equal(images[0][0], images[2][0])
    assert psnr(to_tensor(images[0][0]), photograph(128, 160)) > 18


def test_a_lost_tail_is_decoded_from_the_rest(symbols):
    count = len(symbols.values)
    values = np.concatenate([symbols.values[: count * 3 // 4], symbols.values])
    tags = burst_tags(symbols) + burst_tags(symbols, count * 3 // 4, image_id=1)
    counters, images = receive(values, tags)
    assert counters["decoded"] == 2 and counters["truncated"] == 1 and counters["dropped"] == {}
    (cut, cut_metadata), (whole, whole_metadata) = images
    assert cut_metadata["truncated"] and not whole_metadata["truncated"]
    original = photograph(128, 160)
    assert 13 < psnr(to_tensor(cut), original) < psnr(to_tensor(whole), original)


def test_a_burst_cut_by_the_end_of_the_stream_is_written_all_the_same(symbols, tmp_path):
    counters, _ = receive(symbols.values[:240], burst_tags(symbols), folder=str(tmp_path))
    assert counters["truncated"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_length_tag_shorter_than_the_header_means_a_lost_tail(symbols):
    counters, images = receive(symbols.values[:240], burst_tags(symbols, packet_len=240))
    assert counters["decoded"] == counters["truncated"] == 1
    assert images[0][1]["truncated"]


@pytest.mark.parametrize(
    "lie, reason",
    [
        ({"width": 1 << 20, "height": 1 << 20}, "header"),
        ({"width": 64, "height": 64}, "header"),
        ({"width": 7000, "height": 7000}, "too short"),
        ({"rate": "1/3"}, "header"),
        ({"rate": "1/256", "width": 640, "height": 512}, "header"),
        ({"tx_snr_db": float("nan")}, "header"),
        ({"codec": "../../etc"}, "codec"),
        ({"image_id": -1}, "header"),
        ({"width": "wide"}, "header"),
    ],
)
def test_a_header_that_lies_costs_its_own_burst_alone(symbols, lie, reason):
    values = np.concatenate([symbols.values, symbols.values])
    tags = burst_tags(symbols, **lie) + burst_tags(symbols, len(symbols.values), image_id=1)
    counters, images = receive(values, tags)
    assert counters["dropped"] == {reason: 1}
    assert [metadata["image_id"] for _, metadata in images] == [1]


def test_a_header_that_is_no_dictionary_and_a_burst_without_length_are_survived(symbols):
    values = np.concatenate([symbols.values] * 2)
    count = len(symbols.values)
    tags = [(0, "image_header", "nonsense"), burst_tags(symbols, count, image_id=1)[1]]
    counters, images = receive(values, tags)
    assert counters["dropped"] == {"header": 1}
    assert [metadata["image_id"] for _, metadata in images] == [1]


def test_symbols_that_are_not_finite_count_as_lost(symbols):
    values = symbols.values.copy()
    values[::20] = np.nan
    values[5::20] = np.inf
    counters, images = receive(values, burst_tags(symbols), snr_db=10.0)
    assert counters["decoded"] == 1
    assert psnr(to_tensor(images[0][0]), photograph(128, 160)) > 15


def test_a_model_that_is_not_installed_is_named_in_the_counters(symbols):
    for codec in ("lite", ""):
        counters, _ = receive(symbols.values, burst_tags(symbols, codec="unheard-of"), codec=codec)
        assert counters["dropped"] == {"codec": 1}
    counters, _ = receive(symbols.values, burst_tags(symbols), codec="")
    assert counters["decoded"] == 1


def test_the_snr_is_told_tagged_or_estimated_in_this_order(symbols):
    tag = [(0, "snr_db", 4.0)]
    for options, tags, expected in [({"snr_db": 2.0}, tag, 2.0), ({}, tag, 4.0), ({}, [], 30.0)]:
        _, images = receive(symbols.values, burst_tags(symbols) + tags, **options)
        assert images[0][1]["snr_db"] == pytest.approx(expected, abs=0.5)


class SlowSink(diffjscc.jscc_sink):
    """A sink whose decoder takes its time."""

    def _decode(self, burst):
        time.sleep(0.15)
        return super()._decode(burst)


def run_slow(symbols, on_full, bursts=12):
    count = len(symbols.values)
    values = np.concatenate([symbols.values] * bursts)
    tags = sum((burst_tags(symbols, i * count, image_id=i) for i in range(bursts)), [])
    source, sink, received = SymbolSource(values, tags), SlowSink(on_full=on_full, queue_size=2), MessageSink()
    flowgraph = gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    flowgraph.run()
    return sink.counters(), [metadata["image_id"] for _, metadata in received.images()]


def test_a_slow_decoder_holds_a_file_back_and_loses_nothing(symbols):
    counters, ids = run_slow(symbols, "wait")
    assert ids == list(range(12))
    assert counters["received"] == counters["decoded"] == 12 and counters["dropped"] == {}


def test_a_slow_decoder_drops_the_oldest_of_a_live_stream_and_counts_it(symbols):
    counters, ids = run_slow(symbols, "drop")
    assert counters["received"] == 12
    assert counters["dropped"]["queue full"] == 12 - counters["decoded"] > 0
    # The newest are the ones that were kept; the first may have been taken before the queue filled.
    assert counters["decoded"] <= 4


def test_pdus_that_are_not_what_they_should_be_are_refused():
    from gnuradio.diffjscc.pdus import image_from_pdu, symbols_from_pdu

    body = pmt.init_u8vector(12, [0] * 12)
    for message in (
        pmt.PMT_NIL,
        pmt.intern("x"),
        pmt.cons(pmt.PMT_NIL, body),
        pmt.cons(pmt.to_pmt({"width": 2, "height": 3}), body),
        pmt.cons(pmt.to_pmt({"width": 0, "height": 0}), body),
        pmt.cons(pmt.to_pmt({"width": 1 << 40, "height": 1 << 40}), body),
        pmt.cons(pmt.to_pmt({"width": 2, "height": 2}), pmt.init_c32vector(4, [0j] * 4)),
        pmt.cons(pmt.intern("x"), body),
    ):
        with pytest.raises(ValueError):
            image_from_pdu(message)
    with pytest.raises(ValueError):
        symbols_from_pdu(pmt.cons(pmt.to_pmt({}), body))
    assert image_from_pdu(pmt.cons(pmt.to_pmt({"width": 2, "height": 2}), body))[0].shape == (2, 2, 3)
