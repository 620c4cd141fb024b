# SPDX-License-Identifier: GPL-3.0-or-later
"""The paper's codec against numbers that the authors' own code computes for the same small random weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffjscc.codec import ChannelState, ResnetCodec
from diffjscc.codec.latent import latent_to_symbols, normalise_power, symbols_to_latent

DATA = Path(__file__).parents[1] / "data"
PREFIX = "preprocess_model."


class Parity:
    """A codec with the fixture's weights, and the authors' inputs and outputs for it."""

    def __init__(self, channel):
        config = json.loads((DATA / f"jscc_cnn_{channel}.json").read_text())
        kept = {key: config[key] for key in ("ngf", "max_ngf_E", "max_ngf_D", "n_blocks_E", "n_blocks_D")}
        self.codec = ResnetCodec(rate=f"{config['C_channel']}/512", csi=config["channel"].lower(), **kept).eval()
        weights = load_file(DATA / f"jscc_cnn_{channel}.weights.safetensors")
        self.codec.load_state_dict({k.removeprefix(PREFIX): v.float() if v.is_floating_point() else v for k, v in weights.items()})
        self.io = load_file(DATA / f"jscc_cnn_{channel}.io.safetensors")
        csi = self.io["csi"]
        fading = torch.complex(csi[:, 1], csi[:, 2]) if channel == "rayleigh" else torch.ones(len(csi), dtype=torch.complex64)
        self.state = ChannelState(csi[:, 0], fading, csi[:, 0])
        self.channels = torch.full((len(csi),), config["C_channel"])

    def complex(self, name):
        return torch.view_as_complex(self.io[name].contiguous()).flatten(1)


@pytest.fixture(params=["awgn", "rayleigh"])
def parity(request):
    return Parity(request.param)


@torch.no_grad()
def test_the_encoder_gives_the_authors_latent_and_symbols(parity):
    latent = parity.codec.analyse(parity.io["x"], parity.state, parity.channels)
    torch.testing.assert_close(latent, parity.io["latent"], atol=1e-4, rtol=1e-4)
    sent = latent_to_symbols(normalise_power(latent, parity.channels))
    torch.testing.assert_close(sent, parity.complex("tx"), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_gives_the_authors_image(parity):
    received = symbols_to_latent(parity.complex("rx_equalised"), 4, parity.io["latent"].shape[-2:])
    reliability = torch.full_like(received, 0.5)
    image = parity.codec.synthesise(received, reliability, parity.state, parity.channels)
    torch.testing.assert_close(image, parity.io["xhat"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_authors_noise_is_what_our_equaliser_leaves(parity):
    received = parity.complex("tx") + parity.complex("noise") / parity.state.fading[:, None]
    torch.testing.assert_close(received, parity.complex("rx_equalised"), atol=1e-4, rtol=1e-4)
