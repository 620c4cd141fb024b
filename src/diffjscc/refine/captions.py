# SPDX-License-Identifier: GPL-3.0-or-later
"""Captions of initial reconstructions, for text features (paper, section III-B)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import one_line
from ..images import to_pixels

#: Tokens of a caption, as in the authors' code.
MAX_TOKENS = 32


class CaptionFailed(RuntimeError):
    """A captioner raised, or ran out of memory."""


def load_captioner(source: str | os.PathLike, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple:
    """(Blip2ForConditionalGeneration, its processor) from a folder or the hub; the authors' is Salesforce/blip2-opt-2.7b.

    Raises ValueError where there is none.
    """
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    try:
        captioner: torch.nn.Module = Blip2ForConditionalGeneration.from_pretrained(source, dtype=dtype)
        return captioner.to(device).eval().requires_grad_(False), Blip2Processor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"captioner {source}: no BLIP-2 there ({one_line(error)})") from None


def caption(captioner, processor, images: Tensor) -> list[str]:
    """One line about each image, from a Blip2ForConditionalGeneration and its processor.

    images  float (N, 3, H, W) in [0, 1]

    Raises CaptionFailed, whatever went wrong in the captioner.
    """
    try:
        pixels = [to_pixels(image) for image in images]
        inputs = processor(images=pixels, return_tensors="pt").to(captioner.device, captioner.dtype)
        with torch.inference_mode():
            tokens = captioner.generate(**inputs, max_new_tokens=MAX_TOKENS)
        return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    except Exception as error:
        raise CaptionFailed(f"{type(error).__name__}: {error}") from error


def text_features(text_encoder, tokenizer, prompts: Sequence[str]) -> Tensor:
    """(N, L, C) features of the prompts, from a CLIPTextModel and its tokenizer.

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
        raise ValueError("this model has no tokenizer, so that it takes no prompt: import it again with --tokenizer, or give none")
    else:
        config = text_encoder.config
        # OpenCLIP pads with token 0.
        tokens = torch.tensor([[config.bos_token_id, config.eos_token_id, *[0] * (length - 2)]] * len(prompts))
    return text_encoder(tokens.to(text_encoder.device))[0]
