# SPDX-License-Identifier: GPL-3.0-or-later
"""Callsigns: from the transmitter's argument to what receivers show."""

import numpy as np
import pmt
import pytest
from air.signals import gaussian
from blocks.flowgraphs import MessageSink, SymbolSource, burst_tags
from blocks.test_air_interface import TAIL, loss_db, noisy
from conftest import photograph
from gnuradio import blocks, diffjscc, gr
from gnuradio.diffjscc.image_history import ImageHistory
from gnuradio.diffjscc.image_view_widget import describe
from gnuradio.diffjscc.pdus import image_from_pdu, image_to_pdu

from diffjscc.air import modulator
from diffjscc.air.callsign import callsign_bits, check_callsign
from diffjscc.air.modulator import Modulator
from diffjscc.air.preset import find_preset

CALLSIGN = "DL/N0CALL-9"


def receive(samples, preset):
    """[(symbols, noise variances, callsign or None), …]"""
    flowgraph, receiver = gr.top_block(), diffjscc.burst_rx(preset)
    symbols, noise_var = blocks.vector_sink_c(), blocks.vector_sink_f()
    flowgraph.connect(blocks.vector_source_c(samples), receiver, symbols)
    flowgraph.connect((receiver, 1), noise_var)
    flowgraph.connect((receiver, 2), blocks.null_sink(gr.sizeof_gr_complex))
    flowgraph.run()
    begins = sorted(tag.offset for tag in symbols.tags() if str(tag.key) == "packet_len")
    signs = {tag.offset: pmt.symbol_to_string(tag.value) for tag in symbols.tags() if str(tag.key) == "callsign"}
    parts = zip(np.split(np.array(symbols.data()), begins[1:]), np.split(np.array(noise_var.data()), begins[1:]), begins)
    return [(values, variances, signs.get(begin)) for values, variances, begin in parts]


def burst(preset, callsign, length=1500, image=bytes(11)):
    samples = Modulator(find_preset(preset), callsign=callsign)(gaussian(length, seed=1), image)
    return np.concatenate([np.zeros(300, np.complex64), samples, TAIL])


@pytest.mark.parametrize("preset", ["ofdm64", "ofdm256", "hf"])
@pytest.mark.parametrize("snr_db", [-3.0, 10.0])
def test_a_callsign_arrives_with_each_burst_and_costs_no_quality(preset, snr_db):
    ((symbols, _, callsign),) = receive(noisy(burst(preset, CALLSIGN), snr_db), preset)
    assert callsign == CALLSIGN
    ((without, _, none),) = receive(noisy(burst(preset, ""), snr_db), preset)
    assert none is None
    payload = gaussian(1500, seed=1)
    assert loss_db(symbols, payload, snr_db) < loss_db(without, payload, snr_db) + 0.25


def test_a_callsign_that_cannot_be_read_takes_nothing_from_the_payload(monkeypatch):
    def broken(callsign):
        return callsign_bits(callsign) ^ (np.arange(128) == 127)

    monkeypatch.setattr(modulator, "callsign_bits", broken)
    ((symbols, noise_var, callsign),) = receive(noisy(burst("ofdm256", CALLSIGN), 15.0), "ofdm256")
    assert callsign is None and np.isfinite(noise_var).all()
    assert loss_db(symbols, gaussian(1500, seed=1), 15.0) < 1.0


@pytest.mark.parametrize("cut", [1500, 2300, 4000])
def test_a_burst_with_a_callsign_that_another_cuts_is_dropped_or_holed(cut):
    """Within the callsign, the first has no payload; within the payload it lacks its end."""
    one, other = burst("ofdm256", CALLSIGN)[: 300 + cut], burst("ofdm256", "K1A", image=bytes(range(11)))[300:]
    received = receive(noisy(np.concatenate([one, other]), 20.0), "ofdm256")
    assert received[-1][2] == "K1A" and np.isfinite(received[-1][1]).all()
    assert [len(symbols) for symbols, _, _ in received] == [1500] * (2 if cut == 4000 else 1)


def test_an_images_callsign_is_in_its_pdu_and_in_the_caption(lite):
    flowgraph, images = gr.top_block(), MessageSink()
    transmitter = diffjscc.burst_tx(callsign="n0call", burst_symbols=800)
    symbols = lite.encode(photograph(128, 192), 10.0, "1/32", image_id=7)
    receiver = diffjscc.jscc_rx(codec=lite)
    source = SymbolSource(symbols.values, burst_tags(symbols))
    flowgraph.connect(source, transmitter, receiver)
    for port in range(2):
        flowgraph.connect((receiver, port), blocks.null_sink(gr.sizeof_gr_complex))
    flowgraph.msg_connect((receiver, "images"), (images, "in"))
    flowgraph.run()
    ((pixels, metadata),) = [image_from_pdu(message) for message in images.messages]
    assert metadata["callsign"] == "N0CALL"
    history = ImageHistory(1)
    history.add(*image_from_pdu(image_to_pdu(pixels, metadata)))
    assert "from N0CALL" in describe(history.newest())


@pytest.mark.parametrize("text", ["A1", "N0CALL-PORTABLE", "N0 CALL", "N0CALL_1", "Ä0CALL", "ⅯⅯⅯ", None, 3, "\0\0\0", "K1A\n?"])
def test_what_is_no_callsign_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="3 to 13 characters") as raised:
        check_callsign(text)
    assert "\n" not in str(raised.value)


def test_callsigns_are_sent_in_capitals():
    assert check_callsign(" dl/n0call-9 ") == CALLSIGN and check_callsign("") == ""
