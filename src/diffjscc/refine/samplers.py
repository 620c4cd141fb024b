# SPDX-License-Identifier: GPL-3.0-or-later
"""Samplers: which of diffusers' schedulers goes from noise to an image, and through which timesteps."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import torch

# diffusers' pipelines look for SchedulerMixin in the module of a scheduler that is not their own.
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    SchedulerMixin,  # noqa: F401
)
from torch import Tensor

from ..errors import one_line


class SpacedDDPMScheduler(DDPMScheduler):
    """Ancestral sampling over evenly spaced timesteps, both ends included (Nichol and Dhariwal, 2021), as the authors do it.

    diffusers' spacings differ: "leading" and "trailing" leave out one end, and "linspace" rounds some timesteps differently.
    """

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        if timesteps is None and num_inference_steps is not None:
            timesteps = spaced_timesteps(self.config.num_train_timesteps, num_inference_steps)[::-1]
        super().set_timesteps(device=device, timesteps=timesteps)


_DPM_SOLVER = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "final_sigmas_type": "zero",
    # diffusers' default, "leading", would start pure noise at a timestep where an image should already show.
    "timestep_spacing": "trailing",
}

#: Samplers by name, for a refiner that predicts noise: the scheduler's class, and what is changed in the configuration.
SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddpm": (SpacedDDPMScheduler, {"timestep_spacing": "linspace", "variance_type": "fixed_small", "clip_sample": False}),
    "ddim": (DDIMScheduler, {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}),
    "dpm++": (DPMSolverMultistepScheduler, {**_DPM_SOLVER, "use_karras_sigmas": False}),
    "dpm++karras": (DPMSolverMultistepScheduler, {**_DPM_SOLVER, "use_karras_sigmas": True}),
}

#: The same for a refiner that predicts the velocity of a flow.
FLOW_SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {"flow": (FlowMatchEulerDiscreteScheduler, {})}

_FLOW_SCHEDULERS = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler)


def make_sampler(scheduler, sampler: str | None, steps: int, flow: bool = False):
    """A scheduler, set to ``steps`` timesteps, for one run; ``scheduler`` itself stays as it is.

    sampler  None: a copy of ``scheduler`` as it is. A name: another scheduler over the same noise schedule
             ddpm         ancestral, over evenly spaced timesteps with the posterior's variance ("fixed small"), as the
                          authors do (Nichol and Dhariwal, 2021)
             ddim         without noise (Song et al., 2021)
             dpm++        DPM-Solver++, second order, multistep (Lu et al., 2022)
             dpm++karras  the same with the noise levels of Karras et al. (2022)
             flow         Euler's method on a flow
    flow     whether the refiner predicts the velocity of a flow; else it predicts noise

    Raises ValueError for a name or a scheduler that does not fit the refiner, or steps outside 1 … the trained timesteps.
    """
    _check_kind(scheduler, flow)
    if sampler is None:
        chosen = copy.deepcopy(scheduler)
    else:
        known = FLOW_SAMPLERS if flow else SAMPLERS
        if sampler not in known:
            raise ValueError(f"sampler '{sampler}' does not fit this refiner: choose from {', '.join(known)}")
        cls, changes = known[sampler]
        chosen = cls.from_config(scheduler.config, **changes)  # type: ignore[attr-defined]
    trained = chosen.config.num_train_timesteps
    if not 1 <= steps <= trained:
        raise ValueError(
            f"num_inference_steps = {steps}: must be from 1 to {trained}, the timesteps that the refiner was trained with"
        )
    # As in diffusers' pipelines of flows: the schedulers' own spacing ends with a step of almost no noise.
    by_sigmas = flow and _takes(chosen.set_timesteps, "sigmas")
    spacing: dict[str, Any] = {"sigmas": np.linspace(1, 1 / steps, steps)} if by_sigmas else {"num_inference_steps": steps}
    try:
        chosen.set_timesteps(**spacing)
    except ValueError as error:
        raise ValueError(f"{type(chosen).__name__} takes no num_inference_steps = {steps}: {one_line(error)}") from None
    return chosen


def _check_kind(scheduler, flow: bool) -> None:
    name = type(scheduler).__name__
    if flow and not is_flow(scheduler):
        raise ValueError(
            f"scheduler {name} does not fit: this refiner predicts the velocity of a flow, "
            "so that it takes a flow-matching scheduler, such as FlowMatchEulerDiscreteScheduler"
        )
    if not flow and is_flow(scheduler):
        raise ValueError(
            f"scheduler {name} does not fit: this refiner predicts noise (its defaults hold no start_noise), "
            "so that it takes a diffusion scheduler, such as DDIMScheduler"
        )
    missing = [part for part in ("alphas_cumprod", "add_noise") if not flow and not hasattr(scheduler, part)]
    if missing:
        raise ValueError(f"scheduler {name} does not fit: it has no {missing[0]}: give one such as DDIMScheduler")


def is_flow(scheduler) -> bool:
    """Whether a scheduler expects the velocity of a flow."""
    config = scheduler.config
    return (
        isinstance(scheduler, _FLOW_SCHEDULERS)
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def _takes(function, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def step_options(scheduler, generator) -> dict:
    """The optional arguments of the scheduler's ``step``: its generator, where it draws noise."""
    return {"generator": generator} if _takes(scheduler.step, "generator") else {}


def spaced_timesteps(trained: int, steps: int) -> list[int]:
    """``steps`` of the timesteps 0 … trained − 1, evenly spaced, both ends included, ascending.

    The stride is accumulated and then rounded (Nichol and Dhariwal, 2021), as the authors do. For one step they take timestep
    0, the clean end, where pure noise cannot start: here it is the last timestep.
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
    """The clean latent that a network's output implies, (N, C, h, w).

    sample  what the network was given at this timestep of ``scheduler``: for a diffusion, scaled to unit variance
    """
    if is_flow(scheduler):
        return sample - timestep / scheduler.config.num_train_timesteps * output
    alpha = _alpha(scheduler, timestep).to(sample)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
    return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()


def implied_output(scheduler, original: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
    """The network's output that implies this clean latent, (N, C, h, w): the inverse of `predicted_original`, for a diffusion."""
    alpha = _alpha(scheduler, timestep).to(sample)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return original
    if kind == "v_prediction":
        return (alpha.sqrt() * sample - original) / (1 - alpha).sqrt()
    return (sample - alpha.sqrt() * original) / (1 - alpha).sqrt()


def check_shiftable(scheduler) -> None:
    """Raises ValueError for a scheduler whose steps go back to earlier samples, which undoes `shift_sample`."""
    if scheduler.order != 1 or any(hasattr(scheduler, name) for name in ("sample", "last_sample", "cur_sample")):
        raise ValueError(
            f"latent_guidance does not work with {type(scheduler).__name__}, whose steps go back to earlier samples: "
            "choose another scheduler, such as DDIMScheduler"
        )


def shift_sample(scheduler, sample: Tensor, timestep: Tensor, shift: Tensor) -> Tensor:
    """The sample that a step has made, moved by ``shift``, which is in the scale of what the network is given."""
    if hasattr(scheduler, "scale_model_input"):
        # The samples of some schedulers are scaled with their noise.
        shift = shift / scheduler.scale_model_input(torch.ones((), device=shift.device), timestep)
    return sample + shift


def _alpha(scheduler, timestep: Tensor) -> Tensor:
    """Share of the clean latent's power at a timestep, which some schedulers place between two trained ones."""
    timestep = timestep.cpu()
    below = timestep.long()
    above = (below + 1).clamp(max=len(scheduler.alphas_cumprod) - 1)
    alphas = scheduler.alphas_cumprod.cpu()
    return torch.lerp(alphas[below], alphas[above], (timestep - below).to(alphas))
