# SPDX-License-Identifier: GPL-3.0-or-later
"""The Swin codec's structure, as the authors configure it."""

import pytest
import torch
from conftest import small_codec

from diffjscc.codec import SwinCodec, swin
from diffjscc.codec.swin import SwinBlock


def test_the_default_is_the_authors_configuration():
    codec = SwinCodec()
    assert (codec.widths, codec.depths, codec.heads, codec.window) == ((128, 192, 256, 320), (2, 2, 2, 2), (4, 6, 8, 10), 8)
    names = codec.state_dict()
    # Names and shapes of the authors' checkpoints.
    assert names["encoder.patch_embed.proj.weight"].shape == (128, 3, 2, 2)
    assert names["encoder.layers.3.downsample.reduction.weight"].shape == (320, 4 * 256)
    assert names["encoder.layers.0.blocks.1.attn.relative_position_bias_table"].shape == (15 * 15, 4)
    assert names["encoder.bm_list.6.fc.4.weight"].shape == (480, 480)
    assert names["encoder.sm_list.7.weight"].shape == (320, 480)
    assert names["decoder.layers.3.upsample.increment.weight"].shape == (12, 128)
    assert names["decoder.head_list.weight"].shape == (320, 4)


@pytest.mark.parametrize("shift", [0, 4])
def test_padding_tokens_are_seen_by_none(monkeypatch, shift):
    torch.manual_seed(0)
    block = SwinBlock(8, heads=2, window=8, shift=shift).eval()
    tokens = torch.randn(1, 11, 5, 8)
    padded_with_zeros = block(tokens)
    pad = swin.F.pad
    monkeypatch.setattr(swin.F, "pad", lambda x, amounts: pad(x, amounts, value=1000.0))
    assert torch.equal(block(tokens), padded_with_zeros)


def test_shifted_windows_do_not_join_opposite_edges():
    torch.manual_seed(0)
    block = SwinBlock(8, heads=2, window=4, shift=2).eval()
    tokens = torch.randn(1, 8, 8, 8)
    changed = tokens.clone()
    changed[:, 0] += 1
    difference = (block(changed) - block(tokens)).abs().amax((0, 2, 3))
    assert difference[0] > 0
    # Row 7 shares a rolled window with row 0, and the mask keeps them apart.
    assert difference[7] == 0


def test_a_step_of_training_lowers_the_loss():
    codec = small_codec("swin").train()
    optimiser = torch.optim.Adam(codec.parameters(), 1e-2)
    images = torch.rand(2, 3, 64, 64)
    snr_db = torch.ones(2, 1)
    losses = []
    for _ in range(12):
        loss = (codec.decoder(codec.encoder(images, snr_db), snr_db) - images).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]
