# SPDX-License-Identifier: GPL-3.0-or-later
"""HEVC and LDPC in the place of a codec: the decoder that keeps up with a flowgraph, and what a viewer sees."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage import data

from diffjscc.channel import transmit
from diffjscc.evaluate.systems import wifi_ldpc
from diffjscc.evaluate.systems.channel_codes import find_code
from diffjscc.evaluate.systems.hevc_ldpc import HevcLdpc
from diffjscc.images import to_tensor
from diffjscc.metrics import psnr
from diffjscc.symbols import Reception


@pytest.fixture(scope="module")
def image():
    return to_tensor(np.ascontiguousarray(data.astronaut()[:240, 100:420]))


def noisy_words(rate, variance, count, seed):
    """Code words over BPSK: (bits, ln p(1)/p(0))."""
    random = np.random.default_rng(seed)
    words = wifi_ldpc.encode(rate, random.integers(0, 2, (count, int(1944 * Fraction(rate))), dtype=np.uint8))
    received = 2.0 * words - 1 + random.normal(0, np.sqrt(variance / 2), words.shape)
    return words, (4 * received / variance).astype(np.float32)


@pytest.mark.parametrize("rate, snr_db", [("1/2", -2.1), ("2/3", -0.2), ("3/4", 0.9), ("5/6", 2.0)])
def test_belief_propagation_decodes_as_many_words_as_sionna_s(rate, snr_db):
    """Where some of the words fail; 30 layered iterations against 10, then 50, of Sionna."""
    words, llrs = noisy_words(rate, 10 ** (-snr_db / 10), 12, 5)
    decided, right = wifi_ldpc.decode(rate, llrs, 30)
    assert (decided[right] == words[right]).all() and not (decided[~right] == words[~right]).all(axis=1).any()
    code = find_code(f"wifi-{rate}")
    _, accepted = code.decode(llrs.ravel(), code.split(1944 * 12, 1), 1)
    assert 2 < accepted.sum() < 12
    assert right.sum() >= accepted.sum() - 2


@pytest.mark.parametrize("constellation", ("bpsk", "qpsk"))
def test_an_image_comes_whole_above_the_cliff_and_grey_below(image, constellation):
    codec = HevcLdpc("wifi-1/2", constellation)
    symbols = codec.encode(image, 10.0, "1/8")
    assert len(symbols.values) == 9600 and np.mean(np.abs(symbols.values) ** 2) == pytest.approx(1, abs=1e-6)
    whole = codec.decode(transmit(symbols, 4.0, seed=1), symbols.header)
    assert psnr(whole, image) > 24
    grey = codec.decode(transmit(symbols, -5.0, seed=1), symbols.header)
    assert (grey == 128 / 255).all() and codec.shown == {"whole": 1, "nothing": 1}


def test_what_comes_before_a_lost_block_is_shown_or_the_last_image_frozen(image):
    for on_failure, shown in (("show", "part"), ("freeze", "frozen")):
        codec = HevcLdpc("wifi-3/4", "qpsk", on_failure)
        symbols = codec.encode(image, 10.0, "1/16")
        first = codec.decode(transmit(symbols, 20.0, seed=1), symbols.header)
        reception = transmit(symbols, 20.0, seed=1)
        noise_var = reception.noise_var.copy()
        noise_var[3900:] = np.inf
        again = codec.decode(Reception(reception.values, noise_var, 20.0), symbols.header)
        assert codec.shown == {"whole": 1, shown: 1}
        assert torch.equal(again, first) == (shown == "frozen")
        assert torch.equal(again[:, :64], first[:, :64])


def test_an_image_that_does_not_fit_is_one_line():
    noise = torch.from_numpy(np.random.default_rng(1).random((3, 64, 96), np.float32))
    with pytest.raises(ValueError, match=r"^image of 96×64 does not fit into 0 bytes, 48 symbols, as HEVC: raise the rate$"):
        HevcLdpc().encode(noise, 1.0, "1/128")


@pytest.mark.parametrize("options", ({"code": "wifi-2/4"}, {"constellation": "16qam"}, {"on_failure": "blue"}, {"code": 3}))
def test_options_that_do_not_exist_are_one_line(options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))} = .*: must be one of "):
        HevcLdpc(**options)
