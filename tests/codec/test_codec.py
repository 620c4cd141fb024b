# SPDX-License-Identifier: GPL-3.0-or-later
"""What every codec promises, whatever its architecture and weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import photograph, small_codec
from hypothesis import given
from hypothesis import strategies as st

from diffjscc.channel import transmit
from diffjscc.codec import build_codec
from diffjscc.codec.latent import latent_to_symbols, normalise_power, symbols_to_latent, weigh
from diffjscc.codec.lite import effective_snr_db
from diffjscc.metrics import psnr
from diffjscc.symbols import ImageHeader, Reception

ARCHITECTURES = ("lite", "resnet", "swin")
CODECS = {name: small_codec(name) for name in ARCHITECTURES}


def mean_power(symbols):
    return np.mean(np.abs(symbols.values.astype(np.complex128)) ** 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(height=st.integers(32, 150), width=st.integers(32, 150), snr_db=st.floats(-30, 60), pick=st.integers(0, 3))
def test_any_size_rate_and_snr_round_trips_in_shape_with_unit_power(architecture, height, width, snr_db, pick):
    codec = CODECS[architecture]
    rate = codec.rates[pick % len(codec.rates)]
    symbols = codec.encode(photograph(height, width), snr_db, rate)
    assert len(symbols.values) == symbols.header.symbol_count == math.ceil(height / 16) * math.ceil(width / 16) * 256 * rate
    assert np.isfinite(symbols.values).all()
    assert mean_power(symbols) == pytest.approx(1, abs=1e-5)
    decoded = codec.decode(transmit(symbols, snr_db, seed=1), symbols.header)
    assert decoded.shape == (3, height, width) and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1


@given(height=st.integers(32, 200), width=st.integers(32, 200), snr_db=st.floats(-5, 20), pick=st.integers(0, 3))
def test_the_bundled_codec_keeps_the_same_promises(lite, height, width, snr_db, pick):
    symbols = lite.encode(photograph(height, width), snr_db, lite.rates[pick])
    assert np.isfinite(symbols.values).all()
    assert mean_power(symbols) == pytest.approx(1, abs=1e-5)
    decoded = lite.decode(transmit(symbols, snr_db, seed=2), symbols.header)
    assert decoded.shape == (3, height, width)


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 48, 64), torch.ones(3, 48, 64), torch.full((3, 48, 64), 0.5), torch.rand(3, 48, 64)]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flat_and_random_images_give_finite_symbols_of_unit_power(architecture, image):
    symbols = CODECS[architecture].encode(image, 1.0)
    assert np.isfinite(symbols.values).all()
    assert mean_power(symbols) == pytest.approx(1, abs=1e-5)


@given(scale=st.floats(-38, 30), seed=st.integers(0, 1000), channels=st.sampled_from([4, 8, 16]))
def test_power_is_normalised_whatever_the_latent_holds(scale, seed, channels):
    latent = torch.randn(1, 16, 3, 5, generator=torch.Generator().manual_seed(seed)) * 10.0**scale
    sent = normalise_power(latent, torch.tensor([channels]))
    assert torch.isfinite(sent).all()
    assert sent[:, channels:].abs().max() == 0 if channels < 16 else True
    power = latent_to_symbols(sent[:, :channels]).abs().double().square().mean().item()
    assert power == pytest.approx(1, abs=1e-5)


def test_a_latent_of_zeros_becomes_symbols_of_unit_power():
    sent = normalise_power(torch.zeros(1, 4, 2, 2), torch.tensor([4]))
    assert latent_to_symbols(sent).abs().square().mean().item() == pytest.approx(1)


def test_symbols_and_latent_are_inverse():
    latent = torch.randn(2, 8, 3, 4)
    assert torch.equal(symbols_to_latent(latent_to_symbols(latent), 8, (3, 4)), latent)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_seeds_and_zero_noise_give_equal_images(architecture):
    codec = CODECS[architecture]
    symbols = codec.encode(photograph(64, 96), 7.0)
    again = codec.encode(photograph(64, 96), 7.0)
    assert np.array_equal(symbols.values, again.values)
    clean = Reception(symbols.values, np.zeros(len(symbols.values), np.float32), 7.0)
    assert torch.equal(codec.decode(clean, symbols.header), codec.decode(clean, again.header))
    noisy = [codec.decode(transmit(symbols, 7.0, seed=5), symbols.header) for _ in range(2)]
    assert torch.equal(*noisy)
    assert not torch.equal(noisy[0], codec.decode(transmit(symbols, 7.0, seed=6), symbols.header))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_gives_what_its_images_give_alone(architecture):
    codec = CODECS[architecture]
    batch = torch.stack([photograph(64, 80), photograph(64, 80).flip(2)])
    together = codec.encode_batch(batch, 4.0, image_id=7)
    alone = [codec.encode(image, 4.0) for image in batch]
    assert [s.header.image_id for s in together] == [7, 8]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-4)
    receptions = [transmit(s, 4.0, seed=i) for i, s in enumerate(together)]
    decoded = codec.decode(receptions, [s.header for s in together])
    for image, reception, symbols in zip(decoded, receptions, together, strict=True):
        torch.testing.assert_close(image, codec.decode(reception, symbols.header), atol=1e-4, rtol=0)


def test_images_of_different_sizes_and_rates_decode_in_one_call(lite):
    symbols = [lite.encode(photograph(64, 80), 4.0, "1/64"), lite.encode(photograph(48, 48), 4.0, "1/16", image_id=1)]
    images = lite.decode([transmit(s, 4.0) for s in symbols], [s.header for s in symbols])
    assert [tuple(image.shape) for image in images] == [(3, 64, 80), (3, 48, 48)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_comes_close_to_float32(architecture):
    image = photograph(64, 96)
    exact = CODECS[architecture]
    symbols = exact.encode(image, 7.0)
    reception = transmit(symbols, 7.0)
    rough = small_codec(architecture).to(torch.bfloat16)
    assert np.abs(rough.encode(image, 7.0).values - symbols.values).mean() < 0.1
    difference = rough.decode(reception, symbols.header) - exact.decode(reception, symbols.header)
    assert difference.abs().mean() < 0.02


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.0, 20.0])
def test_equal_noise_is_a_channel_of_its_snr(snr_db):
    """Decoders that are told one SNR get the values unchanged; the one that is told each variance finds that SNR."""
    reliability = torch.full((1, 4, 2, 3), 1 / (1 + 10 ** (-snr_db / 10)))
    latent = torch.randn(1, 4, 2, 3)
    assert torch.equal(weigh(latent, reliability), latent)
    assert effective_snr_db(reliability).item() == pytest.approx(snr_db, abs=1e-3)


def test_the_bundled_codec_goes_by_the_symbols_variances(lite):
    symbols = lite.encode(photograph(64, 96), 5.0)
    reception = transmit(symbols, 5.0)
    decoded = lite.decode(reception, symbols.header)
    assert torch.equal(lite.decode(replace(reception, snr_db=12.0), symbols.header), decoded)
    better = replace(reception, noise_var=reception.noise_var / 5)
    assert (lite.decode(better, symbols.header) - decoded).abs().mean() > 0.003


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lost_symbols_count_as_erasures_whatever_their_values(architecture):
    codec = CODECS[architecture]
    symbols = codec.encode(photograph(64, 96), 7.0)
    reception = transmit(symbols, 7.0)
    noise_var = reception.noise_var.copy()
    noise_var[::10] = np.inf
    zeros, junk = reception.values.copy(), reception.values.copy()
    zeros[::10], junk[::10] = 0, np.nan
    a = codec.decode(replace(reception, values=zeros, noise_var=noise_var), symbols.header)
    b = codec.decode(replace(reception, values=junk, noise_var=noise_var), symbols.header)
    c = codec.decode(replace(reception, values=junk), symbols.header)
    assert torch.equal(a, b) and torch.equal(a, c)
    assert torch.isfinite(a).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_that_loads_meanwhile_changes_nothing(architecture):
    """Loading one in half precision changes torch's default type for the whole process for a while."""
    codec, image = CODECS[architecture], photograph(64, 96)
    symbols = codec.encode(image, 7.0)
    received = transmit(symbols, 7.0)
    decoded = codec.decode(received, symbols.header)
    for dtype in (torch.bfloat16, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            again = codec.encode(image, 7.0).values, codec.decode(received, symbols.header)
        finally:
            torch.set_default_dtype(torch.float32)
        assert np.array_equal(again[0], symbols.values) and torch.equal(again[1], decoded)


def test_a_tenth_of_the_symbols_lost_costs_the_bundled_codec_at_most_a_decibel_and_a_half(lite):
    image = photograph(512, 512)
    symbols = lite.encode(image, 7.0, "1/32")
    whole, holed = (lite.decode(transmit(symbols, 7.0, seed=1, erasures=share), symbols.header) for share in (0.0, 0.1))
    assert 0 < psnr(whole, image) - psnr(holed, image) <= 1.5


def test_an_image_of_which_nothing_arrived_still_decodes(lite):
    symbols = lite.encode(photograph(64, 96), 1.0)
    nothing = Reception(symbols.values, np.full(len(symbols.values), np.inf, np.float32), 1.0)
    assert torch.isfinite(lite.decode(nothing, symbols.header)).all()


def test_a_20_megapixel_image_crosses_whole(lite):
    image = photograph(3648, 5472)
    symbols = lite.encode(image, 13.0, "1/128")
    assert len(symbols.values) == 5472 * 3648 // 128
    decoded = lite.decode(transmit(symbols, 13.0), symbols.header)
    assert decoded.shape == image.shape
    assert (decoded - image).square().mean() < 10**-1.7


def test_bad_input_is_refused_in_one_line(lite):
    image = photograph(64, 96)
    for arguments, message in [
        ((image, math.nan), "snr_db = nan is not an SNR"),
        ((image, 1.0, "1/100"), "whole number of symbols"),
        ((image, 1.0, "1/256"), "rate 1/256 is not one that codec 'lite' has: choose from 1/128, 1/64, 1/32, 1/16"),
        ((torch.zeros(3, 1, 1), 1.0), "1×1 pixels: both sides must be at least 32"),
        ((torch.zeros(3, 9000, 9000), 1.0), "81 megapixels"),
        ((torch.zeros(1, 64, 64), 1.0), "expected float"),
        ((torch.zeros(2, 3, 64, 64), 1.0), "`encode_batch` takes several"),
        ((torch.zeros(3, 64, 64, dtype=torch.uint8), 1.0), "expected float"),
        ((torch.full((3, 64, 64), math.nan), 1.0), "NaN"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            lite.encode(*arguments)
        assert "\n" not in str(error.value)


def test_a_header_that_lies_about_its_size_is_refused(lite):
    symbols = lite.encode(photograph(64, 96), 1.0)
    lie = ImageHeader(0, 960, 640, "lite", "1/128", 1.0)
    with pytest.raises(ValueError, match="burst has 48 symbols, but its header .* asks for 4800"):
        lite.decode(transmit(symbols, 1.0), lie)


def test_receptions_without_headers_are_refused(lite):
    symbols = lite.encode(photograph(64, 96), 1.0)
    with pytest.raises(ValueError, match="go together"):
        lite.decode([transmit(symbols, 1.0)] * 2, [symbols.header])


def test_unknown_architectures_and_options_are_refused():
    with pytest.raises(ValueError, match="architecture 'vit' is not one of lite, resnet, swin"):
        build_codec({"architecture": "vit"})
    with pytest.raises(ValueError, match="depth"):
        build_codec({"architecture": "lite", "depth": 3})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_effort_finds_better_symbols_of_unit_power_and_needs_no_other_receiver(architecture):
    codec, image = CODECS[architecture], photograph(64, 96)
    plain, better = (codec.encode(image, 13.0, effort=effort) for effort in (0, 12))
    assert mean_power(better) == pytest.approx(1.0, abs=1e-5) and better.header == plain.header
    # Other noise than the search had.
    received = [codec.decode(transmit(symbols, 13.0, seed=5), symbols.header) for symbols in (plain, better)]
    assert psnr(received[1], image) > psnr(received[0], image)
    assert np.array_equal(codec.encode(image, 13.0, effort=12).values, better.values)
    assert all(parameter.grad is None for parameter in codec.parameters())


def test_effort_pays_at_the_high_end(lite):
    image = photograph(160, 160)
    plain, better = (lite.encode(image, 13.0, "1/16", effort=effort) for effort in (0, 15))
    received = [lite.decode(transmit(symbols, 13.0, seed=5), symbols.header) for symbols in (plain, better)]
    assert psnr(received[1], image) > psnr(received[0], image) + 0.2


def test_a_search_that_is_ended_keeps_what_it_found(lite):
    image, asked = photograph(64, 96), []

    def enough():
        asked.append(True)
        return len(asked) > 3

    found = lite.encode(image, 13.0, "1/16", effort=100, enough=enough)
    assert len(asked) == 4 and mean_power(found) == pytest.approx(1.0, abs=1e-5)
    plain = lite.encode(image, 13.0, "1/16")
    received = [lite.decode(transmit(symbols, 13.0, seed=5), symbols.header) for symbols in (plain, found)]
    assert psnr(received[1], image) > psnr(received[0], image)


@pytest.mark.parametrize("effort", [-1, 1.5, True, "much", float("nan"), float("inf"), 10_001, None])
def test_an_effort_that_is_no_number_of_steps_is_refused(lite, effort):
    with pytest.raises(ValueError, match="whole number of steps"):
        lite.encode(photograph(64, 64), 1.0, effort=effort)


@pytest.mark.parametrize("gain", (3.0, 10.0, 1e6))
def test_a_receiver_of_the_wrong_gain_still_gets_the_image(lite, gain):
    image = photograph(64, 96)
    symbols = lite.encode(image, 10.0, "1/16")
    right = transmit(symbols, 10.0)
    wrong = replace(right, values=(right.values * gain).astype(np.complex64))
    assert psnr(lite.decode(wrong, symbols.header), image) > psnr(lite.decode(right, symbols.header), image) - 0.5


@pytest.mark.parametrize("strength", (30.0, 1e6, 1e30))
def test_impulses_count_as_lost_symbols(lite, strength):
    image = photograph(64, 96)
    symbols = lite.encode(image, 10.0, "1/16")
    right = transmit(symbols, 10.0)
    values, noise_var = right.values.copy(), right.noise_var.copy()
    values[[5, 100, 300]] = strength * np.exp(1j)
    noise_var[[5, 100, 300]] = np.inf
    hit = lite.decode(replace(right, values=values), symbols.header)
    assert torch.equal(hit, lite.decode(replace(right, noise_var=noise_var), symbols.header))


def test_attention_starts_as_the_identity_at_any_size(lite):
    plain, grown = (build_codec({"architecture": "lite", "attention": attention}) for attention in ([0, 0], [1, 2]))
    plain.load_state_dict(lite.state_dict(), strict=False)
    grown.load_state_dict(plain.state_dict(), strict=False)
    image = photograph(80, 176)
    symbols = plain.encode(image, 7.0, "1/32")
    assert np.abs(grown.encode(image, 7.0, "1/32").values - symbols.values).max() < 0.1
    received = transmit(symbols, 7.0)
    assert (grown.decode(received, symbols.header) - plain.decode(received, symbols.header)).abs().max() < 0.05


def test_attention_wants_whole_heads():
    with pytest.raises(ValueError, match=r"widths = \[8, 16, 48\]: with attention the last one must be a multiple of 32"):
        build_codec({"architecture": "lite", "widths": [8, 16, 48], "attention": [0, 1]})
