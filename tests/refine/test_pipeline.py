# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user of the refiner relies on, on networks small enough to run anywhere."""

import logging

import numpy as np
import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from PIL import Image
from refine.tiny import CountingTokenizer, diffusion_refiner, flow_refiner, refine, tiny_blip2

from diffjscc.hub import load_refiner
from diffjscc.refine.captions import caption
from diffjscc.refine.guidance import LatentGuidance
from diffjscc.refine.pipeline import FALLBACK_TILE, DiffJSCCPipeline
from diffjscc.refine.unet import SmoothUpsample2D

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {"diffusion": diffusion_refiner, "flow": flow_refiner}


@pytest.fixture(scope="module", params=KINDS)
def refiner(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def diffusion():
    return diffusion_refiner()


@pytest.fixture(scope="module")
def flow():
    return flow_refiner()


def image(height=48, width=64, seed=0):
    """Smooth colours with some noise: float (3, H, W)."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 51), (48, 64)])
def test_an_image_of_any_size_keeps_it(refiner, height, width):
    refined = refine(refiner, image(height, width), 1.0, generator=seeded())
    assert refined.shape == (3, height, width)
    assert refined.dtype == torch.float32
    assert 0 <= refined.min() <= refined.max() <= 1


def test_the_seed_decides_the_image(refiner):
    first, again, other = (refine(refiner, image(), 1.0, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert difference(first, other) > 1e-3


def test_an_image_does_not_depend_on_its_batch(refiner):
    images = torch.stack([image(seed=seed) for seed in range(3)])
    together = refine(refiner, images, torch.tensor([1.0, 7.0, 13.0]), generator=[seeded(seed) for seed in range(3)])
    for index, snr_db in enumerate((1.0, 7.0, 13.0)):
        alone = refine(refiner, images[index], snr_db, generator=seeded(index))
        assert difference(alone, together[index]) < 1e-4


def test_the_snr_matters_and_can_be_left_out(refiner):
    near, far, without, unknown = (
        refine(refiner, image(), snr_db, use_snr=use, generator=seeded())
        for snr_db, use in ((1.0, True), (15.0, True), (1.0, False), (None, True))
    )
    assert difference(near, far) > 1e-5
    assert difference(near, without) > 1e-5
    assert torch.equal(without, unknown)


def test_saved_and_loaded_it_refines_the_same(refiner, tmp_path):
    refiner.save_pretrained(tmp_path)
    loaded = DiffJSCCPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert difference(refine(loaded, image(), 1.0, generator=seeded()), refine(refiner, image(), 1.0, generator=seeded())) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_full(flow, dtype):
    half = flow_refiner().to(dtype)
    assert (refine(half, image(), 1.0, generator=seeded()) - refine(flow, image(), 1.0, generator=seeded())).abs().mean() < 0.02


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "dpm++karras"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_sampler_walks_as_many_steps_as_it_says(diffusion, sampler, strength):
    timesteps = []
    refined = refine(
        diffusion,
        image(),
        1.0,
        num_inference_steps=6,
        sampler=sampler,
        strength=strength,
        generator=seeded(),
        callback_on_step_end=lambda pipeline, step, timestep, tensors: timesteps.append(int(timestep)),
    )
    assert torch.isfinite(refined).all()
    assert len(timesteps) == round(6 * strength)
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 999 if strength == 1 else timesteps[0] < 700


def test_a_little_strength_stays_near_the_initial_reconstruction(refiner):
    initial = image()
    round_trip = refine(refiner, initial, 1.0, strength=0.001, colour_fix="none", generator=seeded(), **_thousand_steps(refiner))
    painted = refine(refiner, initial, 1.0, strength=1.0, colour_fix="none", generator=seeded())
    anchor = initial if refiner.is_flow else refiner.decode(refiner.encode(initial[None]))[0]
    assert (round_trip - anchor.clamp(0, 1)).abs().mean() < 0.3 * (painted - anchor).abs().mean()


def _thousand_steps(refiner):
    return {} if refiner.is_flow else {"num_inference_steps": 1000}


def test_latent_guidance_pulls_towards_the_initial_reconstruction(diffusion):
    initial = image()
    wanted = diffusion.encode(initial[None])
    distances = []
    for scale in (0.0, 200.0, 1000.0):
        ends = []
        refine(
            diffusion,
            initial,
            1.0,
            latent_guidance=LatentGuidance(scale),
            generator=seeded(),
            callback_on_step_end=lambda pipeline, step, timestep, tensors, ends=ends: ends.append(tensors["latents"]),
        )
        distances.append((ends[-1] - wanted).square().mean().item())
    assert distances[0] > distances[1] > distances[2]


def test_guidance_outside_its_timesteps_does_nothing(diffusion):
    late = LatentGuidance(1000.0, start=1, stop=-1)
    assert torch.equal(
        refine(diffusion, image(), 1.0, latent_guidance=late, generator=seeded()),
        refine(diffusion, image(), 1.0, generator=seeded()),
    )


def test_a_callback_may_replace_the_sample(diffusion):
    replaced = refine(
        diffusion,
        image(),
        1.0,
        generator=seeded(),
        callback_on_step_end=lambda p, s, t, tensors: {"latents": tensors["latents"] * 0},
    )
    black = diffusion.decode(torch.zeros(1, 4, 24, 32))[0]
    from diffjscc.refine.colour import match_low_frequencies

    assert difference(replaced, match_low_frequencies(black[None], image()[None])[0].clamp(0, 1)) < 1e-4


class Captioner:
    """Stands where BLIP-2 stands: processor and model in one."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, text="a red barn", broken=False):
        self.text, self.broken, self.calls = text, broken, 0

    def __call__(self, images, return_tensors):
        return self

    def to(self, *args):
        return {}

    def generate(self, **inputs):
        self.calls += 1
        if self.broken:
            raise RuntimeError("no such device")
        return [self.text]

    def batch_decode(self, tokens, skip_special_tokens):
        return tokens


@pytest.fixture
def speaking():
    refiner = diffusion_refiner()
    refiner.tokenizer = CountingTokenizer()
    return refiner


def test_prompts_and_classifier_free_guidance_change_the_image(speaking):
    def paint(prompt, **options):
        return refine(speaking, image(), 1.0, prompt, generator=seeded(), **options)

    assert difference(paint("a dog"), paint("two elephants")) > 1e-5
    assert difference(paint("a dog"), paint("a dog", use_text=False)) > 1e-5
    assert torch.equal(paint("a dog", guidance_scale=1.0), paint("a dog"))
    assert difference(paint("a dog", guidance_scale=5.0), paint("a dog")) > 1e-4


def test_a_caption_is_asked_for_once_an_image(speaking):
    speaking.captioner = speaking.caption_processor = captioner = Captioner()
    captioned = refine(speaking, image(), 1.0, generator=seeded())
    assert torch.equal(captioned, refine(speaking, image(), 1.0, generator=seeded()))
    assert captioner.calls == 1
    refine(speaking, image(seed=5), 1.0, generator=seeded())
    assert captioner.calls == 2
    assert torch.equal(captioned, refine(speaking, image(), 1.0, "a red barn", generator=seeded()))


def test_captions_come_from_a_blip2_checkpoint(tmp_path):
    tiny_blip2(tmp_path / "blip2")
    diffusion_refiner().save_pretrained(tmp_path / "refiner")
    refiner = load_refiner(tmp_path / "refiner", dtype=torch.float32, captioner=tmp_path / "blip2")
    refiner.tokenizer = CountingTokenizer()
    (said,) = caption(refiner.captioner, refiner.caption_processor, image()[None])
    assert said and set(said.split()) <= {"a", "red", "barn", "dog", "on", "the", "hill"}
    captioned = refine(refiner, image(), 1.0, generator=seeded())
    assert refiner.caption_failures == 0
    assert torch.equal(captioned, refine(refiner, image(), 1.0, said, generator=seeded()))
    with pytest.raises(ValueError, match="no BLIP-2 there"):
        load_refiner(tmp_path / "refiner", captioner=tmp_path / "refiner")


def test_a_captioner_that_fails_costs_the_text_alone(speaking, caplog):
    silent = refine(speaking, image(), 1.0, generator=seeded())
    speaking.captioner = speaking.caption_processor = Captioner(broken=True)
    with caplog.at_level(logging.WARNING, "diffjscc"):
        for seed in (0, 1):
            refined = refine(speaking, image(seed=seed), 1.0, generator=seeded())
    assert torch.equal(refine(speaking, image(), 1.0, generator=seeded()), silent)
    assert refined.isfinite().all()
    assert speaking.caption_failures == 2
    assert len([r for r in caplog.records if "captioner failed" in r.message]) == 1


def test_tiles_fade_into_nearly_the_whole_image(flow):
    initial = image(128, 192)
    whole, tiled = (refine(flow, initial, 1.0, tile=tile, generator=seeded()) for tile in (None, 64))
    # Group normalisation sees other neighbourhoods in a tile, so that the two are alike and not equal.
    assert (whole - tiled).abs().mean() < 0.25 * (whole - initial).abs().mean()


def test_an_image_beyond_the_memory_budget_is_refined_in_tiles():
    refiner = flow_refiner()
    widest = []
    refiner.unet.register_forward_pre_hook(lambda unet, inputs: widest.append(inputs[0].shape[-1]))
    initial = image(64, FALLBACK_TILE + 64)
    whole = refine(refiner, initial, 1.0, generator=seeded())
    assert max(widest) == (FALLBACK_TILE + 64) // 4
    widest.clear()
    refiner.whole_pixels = 64 * FALLBACK_TILE
    assert refine(refiner, initial, 1.0, generator=seeded()).shape == whole.shape
    assert max(widest) == FALLBACK_TILE // 4 and len(widest) == 2


def test_tiles_of_a_function_of_each_value_are_exact():
    from fractions import Fraction

    from diffjscc.refine.tiling import in_tiles

    x = torch.rand(2, 3, 100, 92, generator=seeded())
    assert difference(in_tiles(lambda a: a * 2, (x,), 32), x * 2) < 1e-6
    doubled = in_tiles(lambda a: a.repeat_interleave(2, -1).repeat_interleave(2, -2), (x,), 32, Fraction(2))
    assert difference(doubled, x.repeat_interleave(2, -1).repeat_interleave(2, -2)) < 1e-6


@pytest.fixture
def small_memory(monkeypatch):
    """Tiles of 64 pixels, and a UNet that runs out of memory in its nth run on a larger image."""

    def limit(refiner, nth=1):
        whole, larger = refiner.unet.forward, []

        def forward(sample, *args, **kwargs):
            if max(sample.shape[-2:]) > 64 // refiner.downsampling:
                larger.append(sample.shape)
                if len(larger) >= nth:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(sample, *args, **kwargs)

        monkeypatch.setattr(refiner.unet, "forward", forward)

    monkeypatch.setattr("diffjscc.refine.pipeline.FALLBACK_TILE", 64)
    return limit


def test_out_of_memory_falls_back_to_tiles_and_says_so_once(small_memory, caplog):
    refiner = flow_refiner()
    small_memory(refiner)
    with caplog.at_level(logging.WARNING, "diffjscc"):
        for _ in range(2):
            assert refine(refiner, image(96, 96), 1.0, generator=seeded()).shape == (3, 96, 96)
    assert len([r for r in caplog.records if "out of GPU memory" in r.message]) == 1


@pytest.mark.parametrize("generators", [lambda: seeded(3), lambda: [seeded(3)], lambda: torch.manual_seed(3) and None])
def test_after_a_fall_back_to_tiles_the_seed_gives_the_image_of_tiles(small_memory, generators):
    """Until it runs out of memory, the first try draws the noise of its start and of two steps."""
    refiner = diffusion_refiner()
    tiled = refine(refiner, image(48, 96), 1.0, tile=64, generator=generators())
    small_memory(refiner, nth=3)
    assert torch.equal(refine(refiner, image(48, 96), 1.0, generator=generators()), tiled)


def test_out_of_memory_in_tiles_is_one_line(flow, monkeypatch):
    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(flow.unet, "forward", no_memory)
    with pytest.raises(ValueError, match="smaller tile"):
        refine(flow, image(), 1.0, tile=64)


@pytest.mark.parametrize("steps", [0, -3, 5000])
def test_steps_that_no_schedule_has_are_refused(diffusion, steps):
    with pytest.raises(ValueError, match="from 1 to 1000"):
        refine(diffusion, image(), 1.0, num_inference_steps=steps)


@pytest.mark.parametrize("steps", [0, 2, 5000])
def test_a_flow_is_walked_as_it_was_trained(flow, steps):
    with pytest.raises(ValueError, match="leave it out"):
        refine(flow, image(), 1.0, num_inference_steps=steps)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01])
def test_strength_outside_its_range_is_refused(refiner, strength):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        refine(refiner, image(), 1.0, strength=strength)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sampler": "euler"}, "choose from"),
        ({"output_type": "jpeg"}, "choose from pil, np, pt, latent"),
        ({"negative_prompt": "a dog"}, "no effect without guidance"),
        ({"negative_prompt_embeds": torch.zeros(1, 8, 16)}, "no effect without guidance"),
        ({"prompt": "a dog", "prompt_embeds": torch.zeros(1, 8, 16)}, "both given"),
        ({"prompt_embeds": torch.zeros(2, 8, 16)}, "2 texts for 1 images"),
        ({"prompt_embeds": torch.zeros(1, 8, 5)}, "expected \\(N, L"),
        ({"generator": [torch.Generator()] * 3}, "3 generators for 1 images"),
        ({"callback_on_step_end_tensor_inputs": ["f_s"]}, "choose from latents"),
        ({"colour_fix": "sepia"}, "choose from none, adain, wavelet"),
        ({"tile": 100}, "multiple of"),
        ({"prompt": ["one", "two"]}, "2 prompts for 1 images"),
        ({"prompt": "a dog"}, "no tokenizer|no text encoder"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(refiner, options, line):
    with pytest.raises(ValueError, match=line) as refusal:
        refiner(image(), 1.0, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("initial", "line"),
    [
        (torch.zeros(1, 48, 64), "expected PIL images"),
        (torch.zeros(4, 48, 64), "expected PIL images"),
        (torch.zeros(3, 48, 64, dtype=torch.uint8), "expected PIL images"),
        (torch.full((3, 48, 64), torch.nan), "NaN"),
        (torch.full((3, 48, 64), 255.0), "in \\[0, 1\\]"),
        (torch.zeros(3, 8, 64), "at least 16"),
        (np.zeros((48, 64), np.uint8), "expected PIL images"),
        (np.zeros((48, 64, 3), np.int32), "expected PIL images"),
        (Image.new("RGB", (8, 64)), "at least 16"),
        ([torch.zeros(3, 48, 64), torch.zeros(3, 64, 64)], "2 different sizes"),
        ([torch.zeros(3, 48, 64), Image.new("RGB", (64, 48))], "one type"),
        ([], "empty list"),
        ("photo.png", "image is str"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(refiner, initial, line):
    with pytest.raises(ValueError, match=line) as refusal:
        refiner(initial, 1.0)
    assert "\n" not in str(refusal.value)


def test_one_snr_or_one_for_each(refiner):
    with pytest.raises(ValueError, match="2 values for 3 images"):
        refine(refiner, torch.stack([image()] * 3), torch.tensor([1.0, 2.0]))


def test_a_smooth_unet_leaves_no_steps_where_it_doubles_the_resolution():
    """Its weights are the plain UNet's; a gradient at the coarse level stays one at the fine level."""
    layer = Upsample2D(4, use_conv=True)
    smooth = SmoothUpsample2D(4, use_conv=True)
    smooth.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for upsample in (layer, smooth):
            torch.nn.init.dirac_(upsample.conv.weight)
            torch.nn.init.zeros_(upsample.conv.bias)
        ramp = torch.arange(16.0).expand(1, 4, 16, 16)
        steps = [upsample(ramp)[0, 0, 8, 4:-4].diff() for upsample in (layer, smooth)]
    assert steps[0].unique().tolist() == [0, 1]
    assert steps[1] == pytest.approx(0.5)
    assert smooth(ramp, output_size=(31, 30)).shape[-2:] == (31, 30)
