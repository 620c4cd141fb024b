# SPDX-License-Identifier: GPL-3.0-or-later
"""DDNM on Stable Diffusion, as the paper's baseline has it, on networks small enough to run anywhere."""

import pytest
import torch
from refine.tiny import diffusion_refiner, flow_refiner, refine

from diffjscc.refine.range_null import RangeNull

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def diffusion():
    return diffusion_refiner()


def image(height=32, width=48, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_operator_and_its_pseudo_inverse_satisfy_the_equations():
    guidance = RangeNull()
    x, initial = image(seed=1)[None], image(seed=2)[None]
    pooled = guidance.pool(x)
    assert torch.allclose(guidance.pool(guidance.spread(pooled)), pooled, atol=1e-6)  # A·A⁺ = 1
    corrected = guidance.correct(x, initial)
    # The range part is that of the initial reconstruction, the null part that of the prediction.
    assert torch.allclose(guidance.pool(corrected), guidance.pool(initial), atol=1e-6)
    null = x - guidance.spread(pooled)
    assert torch.allclose(corrected - guidance.spread(guidance.pool(corrected)), null, atol=1e-6)


def test_one_step_is_that_of_the_equations(diffusion):
    """DDNM's step written out: ε → x₀ → pixels → A⁺A·x̂ + (1 − A⁺A)·x₀ → latent → the posterior's mean and noise."""
    initial, guidance = image(), RangeNull()
    states = []

    def keep(pipeline, step, timestep, tensors):
        states.append((int(timestep), tensors["latents"]))

    refine(
        diffusion,
        initial,
        1.0,
        range_null=guidance,
        controlnet_conditioning_scale=0.0,
        use_text=False,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(5),
        callback_on_step_end=keep,
    )
    random = torch.Generator().manual_seed(5)
    times = [t for t, _ in states]
    alphas = diffusion.scheduler.alphas_cumprod
    text = diffusion.encode_prompt("")[0]
    with torch.no_grad():
        z = torch.randn(states[0][1].shape, generator=random)
        for index, (t, stepped) in enumerate(states):
            alpha = alphas[t]
            before = alphas[times[index + 1]] if index + 1 < len(times) else torch.tensor(1.0)
            noise = diffusion.unet(z, torch.tensor(t), encoder_hidden_states=text).sample
            z0 = (z - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            pixels = diffusion.vae.decode(z0 / 4.0).sample / 2 + 0.5
            mean = torch.nn.functional.avg_pool2d(pixels, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
            wanted = torch.nn.functional.avg_pool2d(initial[None], 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
            z0 = diffusion.vae.encode((wanted + pixels - mean) * 2 - 1).latent_dist.mode() * 4.0
            step = alpha / before
            z = before.sqrt() * (1 - step) / (1 - alpha) * z0 + step.sqrt() * (1 - before) / (1 - alpha) * z
            if index + 1 < len(times):
                z = z + ((1 - before) / (1 - alpha) * (1 - step)).sqrt() * torch.randn(z.shape, generator=random)
            assert (z - stepped).abs().max() < 2e-3 * stepped.abs().max(), f"step {index}"
            z = stepped


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "dpm++karras"])
def test_other_samplers_take_it_and_the_result_follows_the_initial_reconstruction(diffusion, sampler):
    bright, dark = (
        refine(
            diffusion,
            torch.full((3, 32, 32), level),
            1.0,
            range_null=RangeNull(),
            controlnet_conditioning_scale=0.0,
            sampler=sampler,
            colour_fix="none",
            generator=torch.Generator().manual_seed(0),
        )
        for level in (0.9, 0.1)
    )
    assert torch.isfinite(bright).all()
    assert (bright - dark).abs().max() > 1e-4


def test_without_the_control_module_its_weights_do_not_matter(diffusion):
    other = diffusion_refiner()
    with torch.no_grad():
        for parameter in other.control.parameters():
            parameter.fill_(float("nan"))
    options = {"controlnet_conditioning_scale": 0.0, "generator": None}
    images = [
        refine(refiner, image(), 1.0, **options | {"generator": torch.Generator().manual_seed(1)}) for refiner in (diffusion, other)
    ]
    assert torch.equal(*images)


def test_bad_input_is_refused_in_one_line(diffusion):
    with pytest.raises(ValueError, match="^range_null needs a refiner that predicts noise"):
        refine(flow_refiner(), image(), 1.0, range_null=RangeNull())
    with pytest.raises(ValueError, match="^range_null with factor 3: must divide"):
        refine(diffusion, image(), 1.0, range_null=RangeNull(3))
    with pytest.raises(ValueError, match="^factor 0 of range-null guidance"):
        RangeNull(0)
