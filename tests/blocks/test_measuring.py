# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio as a channel of `diffjscc evaluate`."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from air.signals import gaussian
from conftest import photograph
from gnuradio.diffjscc.measuring import MAX_CLOCK_PPM, Air, Flowgraph, Impairments

from diffjscc.evaluate.systems import build_system
from diffjscc.evaluate.systems.base import header_of_budget
from diffjscc.evaluate.systems.transports import find_radio
from diffjscc.metrics import psnr
from diffjscc.symbols import Symbols

IMAGE = photograph(256, 256)

#: Of the image at R = 1/16.
BUDGET = 4096


def symbols(count=BUDGET, seed=0):
    values = gaussian(count, seed=seed)
    return Symbols(values / np.sqrt(np.mean(np.abs(values) ** 2)), header_of_budget(IMAGE, count, "lite", 1.0))


def snr_db(reception, sent):
    there = np.isfinite(reception.noise_var)
    return -10 * np.log10(np.mean(np.abs(reception.values - sent.values)[there] ** 2))


def test_the_package_finds_both_radios_by_their_names():
    assert isinstance(find_radio("flowgraph"), Flowgraph) and isinstance(find_radio("air"), Air)


def test_without_the_blocks_the_message_says_what_to_do():
    code = """
from diffjscc.evaluate.systems.transports import find_radio
try:
    find_radio("air")
except ValueError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("channel 'air' needs this project's GNU Radio blocks"), done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("wanted", [1.0, 13.0])
def test_the_flowgraph_has_the_snr_that_is_asked_for_and_estimates_it(wanted):
    sent = symbols()
    received = Flowgraph().send_symbols(sent, wanted, 3)
    assert snr_db(received, sent) == pytest.approx(wanted, abs=0.3)
    assert received.snr_db == pytest.approx(wanted, abs=0.5)


def test_over_the_air_symbols_arrive_in_their_order_at_about_the_mean_snr():
    sent = symbols(2 * BUDGET)
    measured, lost = [], 0
    for seed in range(9):
        received = Air().send_symbols(sent, 20.0, seed)
        lost += not np.isfinite(received.noise_var).any()
        if np.isfinite(received.noise_var).all():
            measured.append(snr_db(received, sent))
    assert not lost and len(measured) >= 8
    # Fading: some transmissions are far better than others, and notches cost the mean more than the median.
    assert 10 < np.median(measured) < 20 and max(measured) < 26 and np.ptp(measured) > 1


def test_channels_have_a_mean_power_gain_of_one_and_different_offsets():
    drawn = [Impairments.draw(seed) for seed in range(2000)]
    assert np.mean([np.sum(np.abs(d.taps) ** 2) for d in drawn]) == pytest.approx(1, abs=0.05)
    assert len({d.carrier_offset for d in drawn}) == 2000
    assert max(abs(d.clock_offset) for d in drawn) <= MAX_CLOCK_PPM * 1e-6


def test_the_clock_offset_moves_the_last_sample_by_what_it_says():
    tone = np.exp(2j * np.pi * 0.05 * np.arange(20_000)).astype(np.complex64)
    moved = Impairments(clock_offset=50e-6)(tone)
    expected = np.exp(2j * np.pi * 0.05 * np.arange(20_000) * (1 + 50e-6))
    assert np.abs(moved - expected)[100:-100].max() < 0.01


@pytest.mark.parametrize("radio", [Flowgraph, Air])
def test_a_seed_gives_the_same_transmission_bit_for_bit(radio):
    sent, bits = symbols(2 * BUDGET), np.random.default_rng(0).integers(0, 2, 3000, dtype=np.uint8)
    first = radio().send_symbols(sent, 5.0, 11), radio().send_bits(bits, 1, 19.0, 11)
    for _ in range(3):
        again = radio().send_symbols(sent, 5.0, 11), radio().send_bits(bits, 1, 19.0, 11)
        assert np.array_equal(again[0].values, first[0].values) and np.array_equal(again[0].noise_var, first[0].noise_var)
        assert np.array_equal(again[1][0], first[1][0]) and again[1][1] == first[1][1]
    assert not np.array_equal(radio().send_symbols(sent, 5.0, 12).values, first[0].values)


def test_the_stock_chain_delivers_packets_or_nothing():
    bits = np.random.default_rng(0).integers(0, 2, 5000, dtype=np.uint8)
    read, details = Flowgraph().send_bits(bits, 2, 30.0, 1)
    arrived = read != 0
    assert np.array_equal(read[arrived] > 0, bits[arrived].astype(bool))
    # It loses a packet now and then at any SNR.
    assert details["packets"] == 7 and details["packets_lost"] <= 1 and arrived.mean() > 0.7
    read, details = Flowgraph().send_bits(bits, 2, 0.0, 1)
    assert not read.any() and details["packets_lost"] == 7
    with pytest.raises(ValueError, match="^GNU Radio's stock OFDM chain has no constellation of 4 bits"):
        Flowgraph().send_bits(bits, 4, 30.0, 1)


def test_images_come_through_the_radio_as_over_the_ideal_channel():
    system = build_system("deepjscc")
    ideal, flowgraph, air = (psnr(system.send(IMAGE, BUDGET, 10.0, c, 2).image, IMAGE) for c in ("awgn", "flowgraph", "air"))
    assert flowgraph == pytest.approx(ideal, abs=0.5)
    assert ideal - 6 < air < ideal + 1


def test_separate_coding_goes_through_the_stock_chain_with_the_same_bits_or_through_this_projects_radio():
    plain = torch.nn.functional.interpolate(IMAGE[None, :, ::32, ::32], (256, 256), mode="bilinear")[0]
    stock = build_system("separate")
    symbols_ = build_system({"system": "separate", "radio": "symbols"})
    ideal = stock.send(plain, BUDGET, 25.0, "awgn", 4)
    for system in (stock, symbols_):
        sent = system.send(plain, BUDGET, 25.0, "flowgraph", 4)
        assert (sent.details["failed"], sent.details["bytes"]) == (0, ideal.details["bytes"])
        assert torch.equal(sent.image, ideal.image)
    low = [system.send(plain, BUDGET, 4.0, "flowgraph", 4).details["failed"] for system in (stock, symbols_)]
    # The stock chain's packets fail, hard decisions and all; soft decisions do not need it.
    assert low == [1, 0]


def test_an_image_of_which_nothing_arrives_is_still_shown():
    sent = build_system("deepjscc").send(IMAGE, BUDGET, -30.0, "air", 0)
    assert torch.isfinite(sent.image).all()
