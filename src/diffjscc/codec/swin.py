# SPDX-License-Identifier: GPL-3.0-or-later
"""The Swin-transformer codec (Yang et al., SwinJSCC / WITT, ICASSP 2023), as the DiffJSCC authors offer it.

Module names follow the authors' checkpoints, so that theirs load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..symbols import rate_channels
from .codec import Codec
from .latent import ChannelState, weigh

#: Layers of the token modulation, and its hidden width over the token width (WITT, section 3.3).
MODULATION_DEPTH = 7
MODULATION_EXPANSION = 1.5


def _windows(tokens: Tensor, window: int) -> Tensor:
    """(N,H,W,C) → (N·windows, window², C)."""
    n, h, w, c = tokens.shape
    tokens = tokens.view(n, h // window, window, w // window, window, c)
    return tokens.transpose(2, 3).reshape(-1, window * window, c)


def _unwindows(windows: Tensor, window: int, h: int, w: int) -> Tensor:
    """The inverse of `_windows`."""
    tokens = windows.view(-1, h // window, w // window, window, window, windows.shape[-1])
    return tokens.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


def _may_attend(h: int, w: int, padded: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor | None:
    """Bool (windows, 1, window², window²): which tokens of a window are neighbours in the image; None if all are.

    Rolling by ``shift`` brings opposite edges into one window and padding brings in tokens that do not exist.
    """
    if shift == 0 and padded == (h, w):
        return None

    def bands(size: int, full: int) -> Tensor:
        # After the roll, the last ``shift`` rows come from the far edge; padding rows are a band of their own.
        position = (torch.arange(full, device=device) + shift) % full
        wrapped = torch.arange(full, device=device) >= full - shift if shift else torch.zeros(full, dtype=torch.bool, device=device)
        return torch.where(position >= size, 2, wrapped.long())

    labels = bands(h, padded[0])[:, None] * 3 + bands(w, padded[1])[None]
    labels = _windows(labels[None, ..., None], window)[..., 0]
    return (labels[:, :, None] == labels[:, None, :])[:, None]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows of tokens, with a relative position bias. (M, window², C) → same."""

    relative_position_index: Tensor

    def __init__(self, width: int, window: int, heads: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        index = (rows[:, None] - rows + window - 1) * (2 * window - 1) + columns[:, None] - columns + window - 1
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, may_attend: Tensor | None) -> Tensor:
        m, length, width = tokens.shape
        q, k, v = self.qkv(tokens).view(m, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if may_attend is not None:
            bias = bias.masked_fill(~may_attend, float("-inf")).repeat(m // len(may_attend), 1, 1, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(mixed.transpose(1, 2).reshape(m, length, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between, ``expansion`` times as wide inside."""

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.fc1 = nn.Linear(width, expansion * width)
        self.fc2 = nn.Linear(expansion * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class SwinBlock(nn.Module):
    """Attention in (shifted) windows, then an MLP, each behind a norm and around a skip. tokens (N,H,W,C), any H, W."""

    def __init__(self, width: int, heads: int, window: int, shift: int, expansion: int = 4):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, window, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, expansion)

    def forward(self, tokens: Tensor) -> Tensor:
        _, h, w, _ = tokens.shape
        window, shift = self.window, self.shift
        x = F.pad(self.norm1(tokens), (0, 0, 0, -w % window, 0, -h % window))
        padded = (x.shape[1], x.shape[2])
        x = torch.roll(x, (-shift, -shift), (1, 2))
        may_attend = _may_attend(h, w, padded, window, shift, x.device)
        x = _unwindows(self.attn(_windows(x, window), may_attend), window, *padded)
        x = torch.roll(x, (shift, shift), (1, 2))[:, :h, :w]
        tokens = tokens + x
        return tokens + self.mlp(self.norm2(tokens))


class PatchMerging(nn.Module):
    """Halves the resolution: (N,H,W,C) → (N,H/2,W/2,out)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class PatchReverseMerging(nn.Module):
    """Doubles the resolution: (N,H,W,C) → (N,2H,2W,out)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.increment = nn.Linear(width, 4 * out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.increment(self.norm(x)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(x, 2).permute(0, 2, 3, 1)


class SwinStage(nn.Module):
    """Blocks at one resolution; the encoder halves it before them, the decoder doubles it after them."""

    def __init__(
        self, width: int, depth: int, heads: int, window: int, *, merge_from: int | None = None, grow_to: int | None = None
    ):
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(width, heads, window, 0 if i % 2 == 0 else window // 2) for i in range(depth))
        self.downsample = PatchMerging(merge_from, width) if merge_from else None
        self.upsample = PatchReverseMerging(width, grow_to) if grow_to else None

    def forward(self, tokens: Tensor) -> Tensor:
        if self.downsample is not None:
            tokens = self.downsample(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens if self.upsample is None else self.upsample(tokens)


class SnrGate(nn.Module):
    """SNR → a factor in (0, 1) for each hidden channel. (N,1) → (N,width)."""

    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Sigmoid()
        )

    def forward(self, snr_db: Tensor) -> Tensor:
        return self.fc(snr_db)


class ModulatedTransformer(nn.Module):
    """Swin stages with WITT's channel modulation: every token is scaled by a gate made of itself and the SNR."""

    def __init__(self, width: int):
        super().__init__()
        hidden = int(width * MODULATION_EXPANSION)
        self.bm_list = nn.ModuleList(SnrGate(hidden) for _ in range(MODULATION_DEPTH))
        outputs = [hidden] * (MODULATION_DEPTH - 1) + [width]
        # The last gate layer maps to ``width`` and is applied after the loop, hence one linear more than SNR gates.
        self.sm_list = nn.ModuleList([nn.Linear(width, hidden), *(nn.Linear(hidden, out) for out in outputs)])

    def modulate(self, tokens: Tensor, snr_db: Tensor) -> Tensor:
        """tokens (N,H,W,C), snr_db (N,1) → (N,H,W,C)."""
        # Detached as the authors do it: the gate learns from the tokens but does not pull on them.
        gate = tokens.detach()
        for linear, snr_gate in zip(self.sm_list, self.bm_list):
            gate = linear(gate) * snr_gate(snr_db)[:, None, None]
        return tokens * torch.sigmoid(self.sm_list[-1](gate))


class PatchEmbedding(nn.Module):
    """A token for each 2×2 pixels: image (N,3,H,W) → tokens (N,H/2,W/2,width)."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


class SwinEncoder(ModulatedTransformer):
    """Image to latent.

    image ─► 2×2 patches ─► stage ─► ÷2 stage ─► ÷2 stage ─► ÷2 stage ─► norm ─► modulation ─► latent
    (3,H,W)  (H/2,W/2,128)           (H/4,W/4,192)           (H/16,W/16,320)                   (C,H/16,W/16)
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], window: int, channels: int):
        super().__init__(widths[-1])
        self.patch_embed = PatchEmbedding(widths[0])
        merge_from = [None, *widths[:-1]]
        self.layers = nn.ModuleList(
            SwinStage(width, depth, head, window, merge_from=before)
            for width, depth, head, before in zip(widths, depths, heads, merge_from)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.head_list = nn.Linear(widths[-1], channels)

    def forward(self, image: Tensor, snr_db: Tensor) -> Tensor:
        """image (N,3,H,W) in [0,1], snr_db (N,1) → latent (N,C,H/16,W/16)."""
        tokens = self.patch_embed(image)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head_list(self.modulate(self.norm(tokens), snr_db)).permute(0, 3, 1, 2)


class SwinDecoder(ModulatedTransformer):
    """Latent to image: the encoder's mirror; its last stage grows to full resolution and three channels."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], window: int, channels: int):
        super().__init__(widths[0])
        self.head_list = nn.Linear(channels, widths[0])
        grow_to = [*widths[1:], 3]
        self.layers = nn.ModuleList(
            SwinStage(width, depth, head, window, grow_to=after)
            for width, depth, head, after in zip(widths, depths, heads, grow_to)
        )

    def forward(self, latent: Tensor, snr_db: Tensor) -> Tensor:
        """latent (N,C,h,w), snr_db (N,1) → image (N,3,16h,16w) in [0,1]."""
        tokens = self.modulate(self.head_list(latent.permute(0, 2, 3, 1)), snr_db)
        for layer in self.layers:
            tokens = layer(tokens)
        return torch.sigmoid(tokens.permute(0, 3, 1, 2))


class SwinCodec(Codec):
    """Swin-transformer codec: one rate a model, AWGN.

    rate          R; C_out = 512 R
    widths, depths, heads
                  token width, blocks and attention heads of the encoder's stages; the decoder has them in reverse
    window        side of the attention window, tokens
    snr_range_db  range that it was trained for

    Images whose token grids do not fill the windows are padded with tokens that nothing attends to.
    """

    architecture = "swin"

    def __init__(
        self,
        rate: str | Fraction = "1/128",
        widths: Sequence[int] = (128, 192, 256, 320),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (4, 6, 8, 10),
        window: int = 8,
        snr_range_db: tuple[float, float] = (0.0, 14.0),
    ):
        super().__init__([rate], snr_range_db)
        self.widths, self.depths, self.heads, self.window = tuple(widths), tuple(depths), tuple(heads), window
        channels = rate_channels(self.rates[0])
        self.encoder = SwinEncoder(self.widths, self.depths, self.heads, window, channels)
        self.decoder = SwinDecoder(self.widths[::-1], self.depths[::-1], self.heads[::-1], window, channels)

    @property
    def config(self) -> dict:
        return {
            "rate": str(self.rates[0]),
            "widths": list(self.widths),
            "depths": list(self.depths),
            "heads": list(self.heads),
            "window": self.window,
            "snr_range_db": list(self.snr_range_db),
        }

    def analyse(self, images: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        return self.encoder(images, state.snr_db[:, None].to(images.dtype))

    def synthesise(self, latent: Tensor, reliability: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        latent = weigh(latent, reliability).to(self.dtype)
        return self.decoder(latent, state.snr_db[:, None].to(latent.dtype))
