# SPDX-License-Identifier: GPL-3.0-or-later
"""Captions of initial reconstructions, for text features (paper, section III-B)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.hooks import CpuOffload
from safetensors import SafetensorError
from torch import Tensor

from ..errors import one_line
from ..images import to_pixels
from ..weights import check_finite

#: Tokens of a caption, as in the authors' code.
MAX_TOKENS = 32


class CaptionFailed(RuntimeError):
    """A captioner raised an error, or ran out of memory."""


def load_captioner(source: str | os.PathLike, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple:
    """(Blip2ForConditionalGeneration, its processor) from a folder or the hub; the authors use Salesforce/blip2-opt-2.7b.

    Raises ValueError where there is none, or where one of its tensors is missing or not finite.
    """
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    try:
        loaded: Any = Blip2ForConditionalGeneration.from_pretrained(source, dtype=dtype, output_loading_info=True)
        processor = Blip2Processor.from_pretrained(source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"captioner {source}: no BLIP-2 there ({one_line(error)})") from None
    captioner, report = loaded
    # transformers fills these with random numbers. Tensors of no use are let through: older checkpoints hold some.
    if report["missing_keys"]:
        missing = report["missing_keys"]
        raise ValueError(f"captioner {source} lacks {len(missing)} tensors, such as {min(missing)}: fetch it again")
    check_finite(captioner.state_dict(), f"captioner {source}")
    return captioner.to(device).eval().requires_grad_(False), processor


def caption(captioner, processor, images: Tensor, device: torch.device | None = None) -> list[str]:
    """One line about each image, from a Blip2ForConditionalGeneration and its processor.

    images  float (N, 3, H, W) in [0, 1]
    device  where the captioner computes; default: where it is. It differs where the captioner waits on the CPU
            (`enable_model_cpu_offload`)

    Raises CaptionFailed for any error of the captioner.
    """
    try:
        pixels = [to_pixels(image) for image in images]
        hook = getattr(captioner, "_hf_hook", None)
        if isinstance(hook, CpuOffload):
            # Hooks run before `forward`, which `generate` does not call.
            hook.pre_forward(captioner)
        inputs = processor(images=pixels, return_tensors="pt").to(device or captioner.device, captioner.dtype)
        with torch.inference_mode():
            tokens = captioner.generate(**inputs, max_new_tokens=MAX_TOKENS)
        return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    except Exception as error:
        raise CaptionFailed(f"{type(error).__name__}: {one_line(error)}") from error


def text_features(text_encoder, tokenizer, prompts: Sequence[str], device: torch.device | None = None) -> Tensor:
    """(N, L, C) features of the prompts, from a CLIPTextModel and its tokenizer.

    device  where the text encoder computes; default: where it is

    Without a tokenizer only empty prompts can be encoded: raises ValueError for any other.
    """
    length = text_encoder.config.max_position_embeddings
    if tokenizer is not None:
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=min(length, tokenizer.model_max_length),
            truncation=True,
            return_tensors="pt",
        ).input_ids
    elif any(prompts):
        raise ValueError(
            "this refiner has no tokenizer, so that it takes no prompt: import it again with --tokenizer, or give none"
        )
    else:
        config = text_encoder.config
        # OpenCLIP pads with token 0.
        tokens = torch.tensor([[config.bos_token_id, config.eos_token_id, *[0] * (length - 2)]] * len(prompts))
    return text_encoder(tokens.to(device or text_encoder.device))[0]
