# SPDX-License-Identifier: GPL-3.0-or-later
"""The refiner against numbers that the authors' own code computes for the same small random weights."""

import json

import pytest
import torch
from refine.tiny import DATA, Authors

from diffjscc.codec import build_codec
from diffjscc.refine import convert, samplers
from diffjscc.refine.pipeline import DiffJSCCPipeline
from diffjscc.weights import check_weights

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def authors():
    return Authors()


@pytest.fixture(scope="module")
def refiner(authors):
    networks, _ = convert.split_state(authors.tensors)
    return DiffJSCCPipeline(
        convert.convert_vae(networks[convert.VAE], authors.config),
        convert.convert_unet(networks[convert.UNET], authors.config),
        convert.convert_control(networks[convert.CONTROL], authors.config),
        convert.convert_scheduler(authors.config),
    )


@torch.no_grad()
def test_the_condition_latent_and_the_decoded_image_are_theirs(authors, refiner):
    latent = refiner.encode(authors.io["image"])
    torch.testing.assert_close(latent, authors.io["latent_mode_scaled"], **CLOSE)
    torch.testing.assert_close(refiner.decode(latent) * 2 - 1, authors.io["decoded"], **CLOSE)


@torch.no_grad()
def test_every_output_of_the_control_module_is_theirs(authors, refiner):
    io = authors.io
    down, middle = refiner.control(
        io["z_t"],
        io["timesteps"],
        encoder_hidden_states=io["context"],
        controlnet_cond=io["latent_mode_scaled"],
        class_labels=io["snr_db"].flatten() * 100,
        return_dict=False,
    )
    theirs = [io[name] for name in sorted(io) if name.startswith("control_")]
    assert len(theirs) == len(down) + 1
    for ours, wanted in zip((*down, middle), theirs):
        torch.testing.assert_close(ours, wanted, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "expected"), [(1.0, "eps"), (0.0, "eps_no_control")])
def test_the_predicted_noise_is_theirs(authors, refiner, scale, expected):
    io = authors.io
    ours = refiner.predict(io["z_t"], io["timesteps"], io["latent_mode_scaled"], io["snr_db"].flatten(), io["context"], scale)
    torch.testing.assert_close(ours, io[expected], **CLOSE)


def test_the_timesteps_of_ten_steps_are_theirs(authors):
    assert samplers.spaced_timesteps(1000, 10) == authors.io["sampler_timesteps"].tolist()


def test_ten_steps_of_the_sampler_end_where_theirs_do(authors, refiner, monkeypatch):
    """Spaced DDPM from their z_T, with the posterior's noise set to zero."""
    io = authors.io
    ends = []
    monkeypatch.setattr("diffjscc.refine.pipeline.randn_tensor", lambda *args, **kwargs: io["z_t"])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **kwargs: torch.zeros(shape))
    refiner(
        io["image"],
        io["snr_db"].flatten(),
        num_inference_steps=10,
        sampler="ddpm",
        prompt_embeds=io["context"],
        callback_on_step_end=lambda pipeline, step, timestep, tensors: ends.append(tensors["latents"]),
    )
    assert len(ends) == 10
    torch.testing.assert_close(ends[-1], io["sampled_10_steps_zero_noise"], atol=1e-3, rtol=1e-3)


def test_every_tensor_of_a_full_size_checkpoint_finds_its_place():
    """Names and shapes of a published checkpoint, on the meta device: none left over, none missing, none misshapen."""
    manifest = json.loads((DATA / "official_checkpoint_manifest.json").read_text())
    assert len(manifest) == 1883
    integers = {name: torch.int64 for name in manifest if name.endswith("num_batches_tracked")}
    tensors = {name: torch.empty(shape, dtype=integers.get(name), device="meta") for name, shape in manifest.items()}
    networks, ignored = convert.split_state(tensors)
    assert sum(map(len, networks.values())) + len(ignored) == 1883
    config = {**convert.STABLE_DIFFUSION_2, "control_stage_config": convert.STABLE_DIFFUSION_2["unet_config"]}
    unet = convert.convert_unet(networks[convert.UNET], config)
    control = convert.convert_control(networks[convert.CONTROL], config)
    vae = convert.convert_vae(networks[convert.VAE], config)
    text = convert.convert_text_encoder(networks[convert.TEXT])
    millions = [round(sum(p.numel() for p in network.parameters()) / 1e6) for network in (unet, control, vae, text)]
    assert millions == [866, 365, 84, 340]
    assert not [
        n for n in ignored if not n.startswith("cond_encoder.") and n.split(".")[-1] not in ("logit_scale", "text_projection")
    ]
    codec = build_codec({"architecture": "resnet", "rate": "1/128"})
    check_weights(codec.state_dict(), {n.removeprefix(convert.CODEC): v for n, v in networks[convert.CODEC].items()}, "codec")
