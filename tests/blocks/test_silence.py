# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing comes, and the log says why: one line for each kind of trouble, however often it happens."""

import builtins
import io
import os

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import SymbolSource, burst_tags
from conftest import photograph, small_codec
from gnuradio import blocks, channels, diffjscc, gr
from gnuradio.diffjscc.incoming import Incoming
from gnuradio.diffjscc.receiver import Receiver

from diffjscc.air.header import Fragment, pack_image
from diffjscc.hub import load_codec, save_codec


@pytest.fixture(scope="module")
def symbols(lite):
    return lite.encode(photograph(160, 224), 10.0, "1/32")


def receive(values, tags, chunk=1 << 30, **options):
    source, sink, flowgraph = SymbolSource(values, tags, chunk), diffjscc.jscc_sink(**options), gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.run()
    return sink


def fragment_tags(symbols, index, count, offset, codec="lite"):
    """Tags of a burst off the air: a fragment's, and its length."""
    header = type(symbols.header)(**symbols.header.to_dict() | {"codec": codec})
    fragment = Fragment(header, index, count)
    packed = np.frombuffer(pack_image(fragment), np.uint8)
    return fragment.length, [(offset, "burst_header", packed), (offset, "packet_len", fragment.length)]


def logged(capfd, word):
    return [line for line in capfd.readouterr().out.splitlines() if word in line]


@pytest.mark.parametrize("count", [300, 1 << 15])
def test_symbols_without_tags_are_reported_with_their_number_and_what_it_means(count, capfd):
    sink = receive(np.ones(count, np.complex64), [])
    assert sink.counters()["stray"] == count and sink.counters()["received"] == 0
    lines = logged(capfd, "jscc_sink")
    assert len(lines) == 1 and "symbols outside any burst: a block before this one loses the tags" in lines[0]
    assert count > 1 << 14 or f"{count} symbols" in lines[0]


def test_a_block_that_loses_tags_is_reported_once_while_symbols_go_on(images, capfd):
    source, deaf, sink = diffjscc.jscc_source(str(images), rate="1/16"), blocks.copy(8), diffjscc.jscc_sink()
    deaf.set_tag_propagation_policy(gr.TPP_DONT)
    flowgraph = gr.top_block()
    flowgraph.connect(source, deaf, sink)
    flowgraph.run()
    assert sink.counters()["stray"] == 3 * (160 * 224 // 16 + 48)
    assert len(logged(capfd, "outside any burst")) == 1


def test_one_burst_in_five_that_lost_its_tags_is_reported(symbols, capfd):
    count = len(symbols.values)
    tags = sum((burst_tags(symbols, index * count, image_id=index) for index in (0, 1, 3, 4)), [])
    sink = receive(np.tile(symbols.values, 5), tags)
    assert sink.counters()["stray"] == count and sink.counters()["decoded"] == 4
    assert len(logged(capfd, f"{count} symbols outside any burst")) == 1


def test_the_silence_behind_each_burst_is_not_reported(images, capfd):
    source, sink = diffjscc.jscc_source(str(images), guard=200), diffjscc.jscc_sink()
    flowgraph = gr.top_block()
    flowgraph.connect(source, channels.channel_model(0.5, taps=[0, 0, 0, 1]), sink)
    flowgraph.run()
    assert sink.counters()["stray"] > 500
    assert logged(capfd, "jscc_sink") == []


def test_bursts_of_another_codec_are_one_line_that_names_it(symbols, capfd):
    values, tags = [], []
    for index in range(20):
        length, new = fragment_tags(symbols, 0, 1, index * len(symbols.values), codec="unheard-of")
        tags += new
        values.append(symbols.values)
    sink = receive(np.concatenate(values), tags)
    assert sink.counters()["dropped"] == {"codec": 20}
    lines = logged(capfd, "burst dropped")
    assert len(lines) == 1 and "codec number" in lines[0] and "this receiver decodes 'lite'" in lines[0]


def test_late_fragments_are_counted_and_one_line(symbols, capfd):
    """The second half of an image comes behind another image."""
    half, first = fragment_tags(symbols, 0, 2, 0)
    other = type(symbols)(symbols.values, type(symbols.header)(**symbols.header.to_dict() | {"image_id": 7}))
    whole, between = fragment_tags(other, 0, 1, half)
    _, second = fragment_tags(symbols, 1, 2, half + whole)
    values = np.concatenate([symbols.values[:half], symbols.values, symbols.values[half:]])
    sink = receive(values, first + between + second)
    assert sink.counters()["late"] == 1 and sink.counters()["decoded"] == 2
    lines = logged(capfd, "late fragment")
    assert len(lines) == 1 and "1 late fragment" in lines[0] and "deadline of 2.0 s" in lines[0]


def test_a_full_decoder_is_one_line_and_its_number_is_counted(symbols, capfd):
    count = len(symbols.values)
    tags = sum((burst_tags(symbols, index * count, image_id=index) for index in range(60)), [])
    sink = receive(np.tile(symbols.values, 60), tags, on_full="drop", queue_size=1)
    assert sink.counters()["dropped"]["queue full"] > 20
    assert len(logged(capfd, "decoder is behind")) == 1


def test_burst_tx_says_once_why_it_drops_bursts(symbols, capfd):
    count = len(symbols.values)
    tags = sum((burst_tags(symbols, index * count, width=64, height=64) for index in range(30)), [])
    flowgraph, source, transmitter = gr.top_block(), SymbolSource(np.tile(symbols.values, 30), tags), diffjscc.burst_tx()
    flowgraph.connect(source, transmitter, blocks.null_sink(8))
    flowgraph.run()
    assert transmitter.counters() == {"sent": 0, "dropped": {"header": 30}}
    assert len(logged(capfd, "burst not sent")) == 1


def test_a_folder_that_is_no_codec_and_appears_later_costs_no_burst(symbols, lite, tmp_path, monkeypatch):
    """With codec "" a receiver knows the codecs of the moment at which it was made, and no burst makes it look at the disk."""
    models = tmp_path / "models"
    save_codec(load_codec("lite"), models / "mine")
    monkeypatch.setenv("DIFFJSCC_MODELS", str(models))
    sink = diffjscc.jscc_sink(codec="")
    (models / "mine2").mkdir()
    (models / "mine2" / "config.json").write_text("no JSON")
    count, first = fragment_tags(symbols, 0, 1, 0, codec="mine")
    _, second = fragment_tags(symbols, 0, 1, count, codec="lite")
    source, flowgraph = SymbolSource(np.tile(symbols.values, 2), first + second), gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.run()
    assert sink.counters()["decoded"] == 2 and sink.counters()["dropped"] == {}


def test_of_two_codecs_with_one_number_on_the_air_the_first_is_decoded_and_one_line_says_so(tmp_path, monkeypatch, caplog):
    # The low twelve bits of the CRC-32 of both are 0x6d5.
    for name in ("c500", "c59"):
        save_codec(small_codec("resnet"), tmp_path / name)
    monkeypatch.setenv("DIFFJSCC_MODELS", str(tmp_path))
    assert Receiver("", None, "cpu").find_codec(0x6D5) == "c500"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "codec 'c59' is never decoded" in line and "'c500'" in line


@pytest.mark.parametrize("codec", ["lite", ""])
def test_taking_bursts_touches_no_file(symbols, codec, monkeypatch):
    """Models may lie on a slow disk, and `work` must not wait for it."""
    tag = gr.tag_t()
    tag.offset, tag.key = 0, pmt.intern("burst_header")
    tag.value = pmt.init_u8vector(11, list(pack_image(Fragment(symbols.header, 0, 1))))
    incoming = Incoming("packet_len", Receiver(codec, None, "cpu"), None, None)
    touched = []
    with monkeypatch.context() as patch:
        for module, name in ((builtins, "open"), (io, "open"), (os, "stat"), (os, "scandir"), (os, "listdir")):
            patch.setattr(module, name, lambda *args, name=name: touched.append((name, args)))
        incoming.push(symbols.values, 0, [tag], None)
    assert len(incoming.ended) == 1 and touched == []
