# SPDX-License-Identifier: GPL-3.0-or-later
"""Samplers: which of diffusers' schedulers walks from noise to an image, and through which timesteps."""

from __future__ import annotations

import numpy as np
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

#: Samplers of a network that predicts noise. "flow" is the one of a network that predicts a flow's velocity.
SAMPLERS = ("ddpm", "ddim", "dpm++", "dpm++karras")


def make_sampler(scheduler, sampler: str, steps: int):
    """A scheduler, set to ``steps`` timesteps, that walks as ``sampler`` says over the noise schedule of ``scheduler``.

    ddpm         ancestral, over evenly spaced timesteps with the posterior's variance ("fixed small"), as the authors do
                 (Nichol and Dhariwal, 2021)
    ddim         without noise (Song et al., 2021)
    dpm++        DPM-Solver++, second order, multistep (Lu et al., 2022)
    dpm++karras  the same with the noise levels of Karras et al. (2022)
    flow         Euler's method on a flow

    Raises ValueError for another sampler, one that does not fit the model, or steps outside 1 … the trained timesteps.
    """
    flow = is_flow(scheduler)
    known = ("flow",) if flow else SAMPLERS
    if sampler not in known:
        raise ValueError(f"sampler '{sampler}' does not fit this model: choose from {', '.join(known)}")
    trained = scheduler.config.num_train_timesteps
    if not 1 <= steps <= trained:
        raise ValueError(f"steps = {steps}: must be from 1 to {trained}, the timesteps that the model was trained with")
    if flow:
        walker = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
        walker.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    elif sampler == "ddpm":
        walker = DDPMScheduler.from_config(scheduler.config, variance_type="fixed_small", clip_sample=False)
        walker.set_timesteps(timesteps=spaced_timesteps(trained, steps)[::-1])
    elif sampler == "ddim":
        walker = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
        walker.set_timesteps(steps)
    else:
        walker = DPMSolverMultistepScheduler.from_config(
            scheduler.config,
            algorithm_type="dpmsolver++",
            solver_order=2,
            final_sigmas_type="zero",
            use_karras_sigmas=sampler.endswith("karras"),
        )
        walker.set_timesteps(steps)
    return walker


def is_flow(scheduler) -> bool:
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler)


def spaced_timesteps(trained: int, steps: int) -> list[int]:
    """``steps`` of the timesteps 0 … trained − 1, evenly spaced, both ends among them, ascending.

    The stride is accumulated and then rounded (Nichol and Dhariwal, 2021), as the authors do. One step is timestep 0
    there, the clean end, from which a walk out of pure noise cannot start: here it is the last timestep.
    """
    if steps == 1:
        return [trained - 1]
    stride = (trained - 1) / (steps - 1)
    position, timesteps = 0.0, []
    for _ in range(steps):
        timesteps.append(round(position))
        position += stride
    return timesteps


def predicted_original(scheduler, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
    """The clean latent that a network's output implies, (N, C, h, w), for a sample at one timestep of ``scheduler``."""
    if is_flow(scheduler):
        return sample - timestep / scheduler.config.num_train_timesteps * output
    alpha = scheduler.alphas_cumprod[timestep.long().cpu()].to(sample)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
    return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()
