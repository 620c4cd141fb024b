# SPDX-License-Identifier: GPL-3.0-or-later
"""DiffJSCC's refiner as a diffusers pipeline."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .captions import CaptionFailed, caption, text_features
from .colour import COLOUR_FIXES
from .control import SNR_SCALE
from .guidance import LatentGuidance
from .samplers import is_flow, make_sampler, predicted_original
from .tiling import in_tiles

logger = logging.getLogger(__name__)

#: How a refiner that predicts noise is used unless told otherwise: as in the paper.
DIFFUSION_DEFAULTS = {"sampler": "ddpm", "steps": 100, "colour_fix": "wavelet"}

#: Images whose text features are kept.
FEATURES_KEPT = 64

#: Tiles of this many pixels a side are used when the whole image does not fit.
FALLBACK_TILE = 512

#: Pixels of the largest image that is refined as a whole unless told otherwise.
WHOLE_PIXELS = 2 << 20


class DiffJSCCPipeline(DiffusionPipeline):
    """Repaints an initial reconstruction: JSCC decoder's image in, realistic image out (paper, section III).

        initial ─► VAE encoder ─► f_s ─┬──────────► control module ◄─ γ
           │                           │ (start)      │
           └─► caption ─► text encoder │              ▼
                              │        └─► z_T ─► UNet × steps ─► z_0 ─► VAE decoder ─► colours ─► refined
                              └── f_l ──────────────▲

    vae, unet, scheduler        of Stable Diffusion, or small ones of the same classes; AutoencoderKL or AutoencoderTiny
    control                     ControlModule
    text_encoder, tokenizer     of Stable Diffusion; without them every image gets the same, empty text features
    captioner, caption_processor  Blip2ForConditionalGeneration and its processor; without them only given prompts count
    defaults                    sampler, steps, colour_fix and, if it is there, strength, where a call gives none; of a flow,
                                also start_noise: the deviation of the noise on its start, the latent of the initial
                                reconstruction

    A scheduler of the flow-matching kind makes it a flow from the initial reconstruction to the refined image, walked
    in as many steps as it was trained for; any other kind makes it a diffusion that predicts noise.

    ``whole_pixels`` is the memory budget: larger images are refined in tiles.
    ``caption_failures`` counts the images that went on without text because the captioner failed.

    Example:
        refiner = load_refiner("mini")
        refined = refiner(initial, snr_db=1.0, generator=torch.Generator().manual_seed(0))
    """

    model_cpu_offload_seq = "captioner->text_encoder->control->unet->vae"
    _optional_components = ["text_encoder", "tokenizer", "captioner", "caption_processor"]

    def __init__(
        self,
        vae,
        unet,
        control,
        scheduler,
        text_encoder=None,
        tokenizer=None,
        captioner=None,
        caption_processor=None,
        defaults: dict | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            control=control,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            captioner=captioner,
            caption_processor=caption_processor,
        )
        self.register_to_config(defaults=dict(defaults or DIFFUSION_DEFAULTS))
        self.whole_pixels = WHOLE_PIXELS
        self.caption_failures = 0
        self._features: OrderedDict[tuple, Tensor] = OrderedDict()
        self._warned: set[str] = set()
        self.set_progress_bar_config(disable=True)

    @property
    def downsampling(self) -> int:
        """Pixels of an image a value of its latent, along each side."""
        if hasattr(self.vae.config, "decoder_block_out_channels"):
            return 2 ** (len(self.vae.config.decoder_block_out_channels) - 1)
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def granularity(self) -> int:
        """Sides of an image are padded to a multiple of this, pixels."""
        return self.downsampling * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @torch.inference_mode()
    def __call__(
        self,
        initial: Tensor,
        snr_db: float | Tensor | None,
        prompt: str | Sequence[str] | None = None,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        strength: float | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str = "",
        latent_guidance: LatentGuidance | None = None,
        control_scale: float = 1.0,
        use_snr: bool = True,
        use_text: bool = True,
        colour_fix: str | None = None,
        tile: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback_on_step_end: Callable[[DiffJSCCPipeline, int, Tensor, dict], dict | None] | None = None,
    ) -> Tensor:
        """Initial reconstructions to refined images.

        initial          float (3, H, W), or (N, 3, H, W) for N images at once; RGB in [0, 1]; any H and W of at least 16
        snr_db           at which they were received, dB: one for all or (N,); None where it is not known
        prompt           what they show, one for all or one each; default: a caption where there is a captioner, else none
        steps, sampler   see `samplers.make_sampler`; defaults: the model's
        strength         in (0, 1]. A diffusion starts at the initial reconstruction with noise of that share of the
                         timesteps, and takes that share of the steps; 1 starts from pure noise. A flow ends that share of
                         the way from the initial reconstruction. Default: the model's, else 1
        guidance_scale   of classifier-free guidance by the text against ``negative_prompt``; 1 is none
        latent_guidance  a pull towards the initial reconstruction
        control_scale    factor on what the control module says
        use_snr, use_text  False leaves out what the paper's ablation leaves out
        colour_fix       "none", "wavelet" or "adain"; default: the model's
        tile             side of the tiles in which networks run, pixels; default: the whole image at once, or tiles of
                         512 where it has more than ``whole_pixels`` or does not fit in the memory of a GPU
        generator        one for all, or one each, which makes an image independent of its batch
        callback_on_step_end  called as (pipeline, step, timestep, {"latents": z}) after each step; may return {"latents": z}

        Returns float32 (3, H, W), or (N, 3, H, W), in [0, 1], on the pipeline's device. Raises ValueError for bad input.
        """
        images = self._check_images(initial)
        sampler = sampler or self.config.defaults["sampler"]
        strength = self.config.defaults.get("strength", 1.0) if strength is None else strength
        steps = self._check_steps(steps, strength)
        colour_fix = colour_fix or self.config.defaults["colour_fix"]
        if colour_fix not in COLOUR_FIXES:
            raise ValueError(f"colour_fix '{colour_fix}': choose from {', '.join(COLOUR_FIXES)}")
        if tile is not None and (tile < 4 * self.granularity or tile % (4 * self.granularity)):
            raise ValueError(f"tile = {tile}: must be a multiple of {4 * self.granularity} pixels for this model")
        elif tile is None and images.shape[-2] * images.shape[-1] > self.whole_pixels:
            tile = FALLBACK_TILE
        make_sampler(self.scheduler, sampler, steps)
        snr = self._check_snr(snr_db if use_snr else None, len(images))

        def run(tile: int | None) -> Tensor:
            text = self._text(images, prompt if use_text else "", use_text)
            contrast = self.encode_prompts([negative_prompt] * len(images)) if guidance_scale != 1 else None
            f_s = self.encode(self.pad(images), tile)
            walker = make_sampler(self.scheduler, sampler, steps)
            z, timesteps = self._start(walker, f_s, strength, generator)
            for step, timestep in enumerate(self.progress_bar(timesteps)):
                output = self._predict(z, timestep, f_s, snr, text, contrast, guidance_scale, control_scale, tile)
                pull: Tensor | float = 0.0
                if latent_guidance is not None:
                    original = predicted_original(walker, output, timestep, z)
                    pull = latent_guidance.shift(original, f_s, int(timestep))
                z = walker.step(output, timestep, z, **self._noise_source(walker, generator)).prev_sample + pull
                if callback_on_step_end is not None:
                    z = (callback_on_step_end(self, step, timestep, {"latents": z}) or {}).get("latents", z)
            refined = self.decode(z, tile)[..., : images.shape[-2], : images.shape[-1]].float()
            if is_flow(self.scheduler):
                refined = images + strength * (refined - images)
            return COLOUR_FIXES[colour_fix](refined, images).clamp(0, 1)

        refined = self._within_memory(run, tile)
        return refined if initial.ndim == 4 else refined[0]

    def encode(self, images: Tensor, tile: int | None = None) -> Tensor:
        """(N, 3, H, W) in [0, 1], sides multiples of ``granularity`` → scaled latent (N, C, h, w), f_s of an initial image."""

        def encoder(pixels: Tensor) -> Tensor:
            encoded = self.vae.encode(pixels)
            return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()

        pixels = (images * 2 - 1).to(self.vae.dtype, memory_format=torch.channels_last)
        return in_tiles(encoder, (pixels,), tile, Fraction(1, self.downsampling)) * self.vae.config.scaling_factor

    def decode(self, latent: Tensor, tile: int | None = None) -> Tensor:
        """Scaled latent (N, C, h, w) → (N, 3, H, W), about [0, 1]."""
        latent = (latent / self.vae.config.scaling_factor).to(self.vae.dtype)
        side = tile and tile // self.downsampling
        return in_tiles(lambda z: self.vae.decode(z).sample, (latent,), side, Fraction(self.downsampling)) / 2 + 0.5

    def predict(self, z: Tensor, timestep: Tensor, f_s: Tensor, snr: Tensor, text: Tensor, control_scale: float = 1.0) -> Tensor:
        """One run of control module and UNet: what the UNet predicts, (N, C, h, w).

        z, f_s (N, C, h, w) scaled latents; timestep () or (N,); snr (N,) dB, NaN where not known; text (N, L, D)
        """
        down, middle = self.control(
            z,
            timestep,
            encoder_hidden_states=text,
            controlnet_cond=f_s,
            conditioning_scale=control_scale,
            class_labels=snr * SNR_SCALE,
            return_dict=False,
        )
        return self.unet(
            z,
            timestep,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]

    def _predict(self, z, timestep, f_s, snr, text, contrast, guidance_scale, control_scale, tile) -> Tensor:
        """`predict` in tiles, with classifier-free guidance where ``contrast`` holds the text to turn away from."""
        inputs = (z.to(self.unet.dtype), f_s.to(self.unet.dtype))
        if contrast is None:
            contexts, snrs, copies = text, snr, 1
        else:
            contexts, snrs, copies = torch.cat((text, contrast)), snr.repeat(2), 2
        inputs = tuple(x.repeat(copies, 1, 1, 1) for x in inputs)
        output = in_tiles(
            lambda z, f_s: self.predict(z, timestep.to(z.device), f_s, snrs, contexts, control_scale),
            inputs,
            tile and tile // self.downsampling,
        )
        if contrast is None:
            return output.to(z.dtype)
        wanted, unwanted = output.to(z.dtype).chunk(2)
        return unwanted + guidance_scale * (wanted - unwanted)

    def _start(self, walker, f_s: Tensor, strength: float, generator) -> tuple[Tensor, Tensor]:
        """The first sample, float32, and the timesteps to walk."""
        f_s = f_s.float()
        noise = randn_tensor(f_s.shape, generator=generator, device=f_s.device, dtype=torch.float32)
        if is_flow(walker):
            return f_s + self.config.defaults["start_noise"] * noise, walker.timesteps
        if strength == 1:
            return noise * walker.init_noise_sigma, walker.timesteps
        walked = max(1, round(len(walker.timesteps) * strength))
        timesteps = walker.timesteps[-walked:]
        if hasattr(walker, "set_begin_index"):
            walker.set_begin_index(len(walker.timesteps) - walked)
        return walker.add_noise(f_s, noise, timesteps[:1].repeat(len(f_s))), timesteps

    @staticmethod
    def _noise_source(walker, generator) -> dict:
        # Walkers without noise of their own draw nothing, and DDIM would refuse a list of generators for nothing.
        return {"generator": generator} if type(walker).__name__ == "DDPMScheduler" else {}

    def _check_images(self, initial: Tensor) -> Tensor:
        if initial.ndim not in (3, 4) or initial.shape[-3] != 3 or not initial.is_floating_point():
            raise ValueError(
                f"initial reconstruction is {initial.dtype} {tuple(initial.shape)}: expected float (3, H, W) or (N, 3, H, W)"
            )
        if min(initial.shape[-2:]) < 16:
            raise ValueError(f"initial reconstruction is {initial.shape[-1]}×{initial.shape[-2]}: both sides must be at least 16")
        if not torch.isfinite(initial).all():
            raise ValueError("initial reconstruction holds NaN or infinite values: expected RGB in [0, 1]")
        images = initial if initial.ndim == 4 else initial[None]
        return images.to(self.device, torch.float32).clamp(0, 1)

    def _check_steps(self, steps: int | None, strength: float) -> int:
        if not 0 < strength <= 1:
            raise ValueError(f"strength = {strength}: must be above 0 and at most 1")
        usual = self.config.defaults["steps"]
        if is_flow(self.scheduler) and steps not in (None, usual):
            raise ValueError(f"steps = {steps}: this model is a flow trained to be walked in {usual}: leave steps out")
        return usual if steps is None else steps

    def _check_snr(self, snr_db: float | Tensor | None, count: int) -> Tensor:
        snr = torch.as_tensor(float("nan") if snr_db is None else snr_db, dtype=torch.float32, device=self.device)
        if snr.numel() not in (1, count):
            raise ValueError(f"snr_db holds {snr.numel()} values for {count} images: give one, or one each")
        return snr.reshape(-1).expand(count)

    def pad(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) with both sides grown to multiples of ``granularity`` by repeating the last row and column."""
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % self.granularity, 0, -height % self.granularity), mode="replicate")

    def _text(self, images: Tensor, prompt: str | Sequence[str] | None, use_text: bool) -> Tensor:
        """f_l (N, L, D): of the prompts, or of captions, which are kept by image."""
        count = len(images)
        if prompt is not None:
            prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
            if len(prompts) != count:
                raise ValueError(f"{len(prompts)} prompts for {count} images: give one, or one each")
            return self.encode_prompts(prompts)
        if self.captioner is None or not use_text:
            return self.encode_prompts([""] * count)
        keys = [("image", hashlib.sha256(image.cpu().numpy().tobytes()).digest()) for image in images]

        def encode(image: Tensor) -> Tensor:
            return self.encode_prompts([self._caption(image)])[0]

        return torch.stack([self._kept(key, partial(encode, image)) for key, image in zip(keys, images)])

    def _caption(self, image: Tensor) -> str:
        try:
            return caption(self.captioner, self.caption_processor, image[None])[0]
        except CaptionFailed as error:
            self.caption_failures += 1
            self._warn_once(f"captioner failed, going on without text ({error})")
            return ""

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """f_l (N, L, D) of prompts, each encoded once. Raises ValueError for words where there is no text encoder or tokenizer."""
        if self.text_encoder is None:
            if any(prompts):
                raise ValueError("this model has no text encoder, so that it takes no prompt: leave it out")
            return torch.zeros(len(prompts), 1, self.unet.config.cross_attention_dim, dtype=self.unet.dtype, device=self.device)

        def encode(prompt: str) -> Tensor:
            return text_features(self.text_encoder, self.tokenizer, [prompt])[0].to(self.unet.dtype)

        return torch.stack([self._kept(("prompt", prompt), partial(encode, prompt)) for prompt in prompts])

    def _kept(self, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
        """What is kept under a key, computed the first time; the oldest make room. Threads may share the pipeline."""
        features = self._features.get(key)
        if features is None:
            features = self._features[key] = compute()
        while len(self._features) > FEATURES_KEPT:
            self._features.popitem(last=False)
        return features

    def _within_memory(self, run: Callable[[int | None], Tensor], tile: int | None) -> Tensor:
        try:
            return run(tile)
        except torch.OutOfMemoryError:
            if tile is not None:
                raise ValueError(
                    f"out of GPU memory in tiles of {tile} pixels: give a smaller tile, or fewer images at once"
                ) from None
        # Outside the handler, which would keep the failed run's tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._warn_once(f"out of GPU memory: going on in tiles of {FALLBACK_TILE} pixels")
        return self._within_memory(run, FALLBACK_TILE)

    def _warn_once(self, message: str) -> None:
        kind = message.split(":")[0].split("(")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", message)
