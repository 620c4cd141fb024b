# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels to train through: from normalised latents to what the decoder is given, differentiably.

    latent ─► symbols ─► peaks cut ─► gain ─► noise ─► equalised ─► latent and reliability
    (N,C,h,w)  (N,K)                    ▲ fading, echoes, lost bursts

All randomness comes from `Draws`, on the CPU, so that a training depends on its seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..air.preset import MAX_PAYLOAD
from ..codec.latent import ChannelState, latent_to_symbols, symbols_to_latent
from ..fields import Fields
from ..snr import noise_variance
from .draws import Draws
from .multipath import PROFILES, Multipath, find_multipath
from .peaks import cut_peaks

FADINGS = ("none", "rayleigh", "block")

#: Share of the symbols that an image with erasures loses at most; any share up to it alike.
MAX_ERASED = 0.3

#: Fades deeper than this power are taken as so deep: symbols there tell nothing anyway.
LEAST_POWER = 1e-6


@dataclass(frozen=True, kw_only=True)
class ChannelRecipe(Fields):
    """What happens between encoder and decoder; a share is that of the images to which it happens.

    fading        "none"; "rayleigh": one gain h ~ CN(0, 1) an image, known at both ends; "block": one an image's burst,
                  known to the receiver alone
    faded         share of images whose symbols fade one by one: noise variance σ²/|h|² with |h|² exponential
    erased        share of images of which up to 30 % of the symbols are lost
    mismatch      share of images whose encoder assumed another SNR than the channel's
    bursts        bursts that carry an image; its symbols are dealt out to them in scattered order
    burst_symbols JSCC symbols of a burst; a crop's symbols are a random choice of the bursts' places, as those of a part of
                  a larger image are
    burst_loss    probability that a burst is lost
    clip_db       peaks of the OFDM signal are cut at this many dB above the mean power; 0: they are not
    clip_passes   how often they are cut; in between the signal is filtered back to its band
    tdl           echoes: "A" to "E", a tapped delay line of TR 38.901, met by each burst in OFDM symbols of preset ofdm256,
                  with the channel estimated and equalised as the receiver does (see `multipath`); "" for none
    delay_spread_ns  its RMS delay spread, nanoseconds
    doppler_hz    its largest Doppler shift, Hz
    sample_rate   of the OFDM signal, samples per second
    """

    prefix = "channel."

    fading: str = "none"
    faded: float = 0.0
    erased: float = 0.0
    mismatch: float = 0.0
    bursts: int = 1
    burst_symbols: int = 6144
    burst_loss: float = 0.0
    clip_db: float = 0.0
    clip_passes: int = 1
    tdl: str = ""
    delay_spread_ns: float = 300.0
    doppler_hz: float = 10.0
    sample_rate: float = 1e6

    def __post_init__(self):
        super().__post_init__()
        self.check("fading", self.fading in FADINGS, f"one of {', '.join(FADINGS)}")
        for name in ("faded", "erased", "mismatch", "burst_loss"):
            self.check(name, 0 <= getattr(self, name) <= 1, "0 to 1")
        self.check("erased", self.faded + self.erased <= 1, f"at most 1 together with faded = {self.faded}")
        for name in ("bursts", "clip_passes"):
            self.check(name, getattr(self, name) >= 1, "at least 1")
        self.check("burst_symbols", 1 <= self.burst_symbols <= MAX_PAYLOAD, f"1 to {MAX_PAYLOAD}")
        self.check("clip_db", self.clip_db >= 0, "above 0 dB, or 0 for no clipping")
        self.check("tdl", self.tdl in ("", *PROFILES), f"one of {', '.join(PROFILES)}, or empty")
        self.check("tdl", not self.tdl or self.fading == "none", "empty with fading, which it has already")
        for name in ("delay_spread_ns", "doppler_hz"):
            self.check(name, getattr(self, name) >= 0, "at least 0")
        self.check("sample_rate", self.sample_rate > 0, "above 0")

    def multipath(self) -> Multipath | None:
        """The echoes, where there are any.

        Raises MissingExtra where Sionna is not installed, and ValueError for echoes beyond the cyclic prefix.
        """
        if not self.tdl:
            return None
        return find_multipath(self.tdl, self.delay_spread_ns * 1e-9, self.doppler_hz, self.sample_rate, self.burst_symbols)

    @property
    def only_noise(self) -> bool:
        """Whether most images meet nothing but noise."""
        return not (self.tdl or self.clip_db or self.burst_loss) and self.fading == "none"


@dataclass(frozen=True)
class Link:
    """What one image's symbols meet, each complex or float32 (K,).

    gain   of what is left after equalising: 1 but for the error of the channel estimate
    added  variance of the noise that is added after equalising
    told   variance that the receiver tells the decoder; +inf where a symbol is lost
    """

    gain: Tensor
    added: Tensor
    told: Tensor


def draw_gain(recipe: ChannelRecipe, draws: Draws) -> Tensor:
    """The flat-fading gain h of each image that both ends know, complex64 (N,)."""
    if recipe.fading == "rayleigh":
        return draws.normal(dtype=torch.complex64)
    return torch.ones(len(draws), dtype=torch.complex64)


def pass_channel(
    latent: Tensor, channels: Tensor, state: ChannelState, recipe: ChannelRecipe, draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """Sends latents and equalises what arrives.

    latent    (N,C,h,w), mean |y|² = 1 over what is sent
    channels  (N,) real channels sent, on the CPU
    state     the channel met: SNR in dB and gain, on the CPU

    Returns the latent received (N,C,h,w), the reliability 1/(1+σ²) of each value, 0 for those that are lost or were never
    sent, and the SNR that the receiver measures, dB (N,).
    """
    grid, counts = latent.shape[2:], channels.tolist()
    snr_db, distortion = state.snr_db, torch.zeros(len(counts))
    if recipe.clip_db:
        latent, distortion, lost_db = _cut_peaks(latent, counts, recipe, draws)
        snr_db = snr_db - lost_db.cpu()
    sizes = [count // 2 * grid[0] * grid[1] for count in counts]
    links = [draw_link(size, snr_db[i], state.fading[i], recipe, draws.each[i]) for i, size in enumerate(sizes)]
    added, told = (torch.full(latent.shape, value) for value in (0.0, math.inf))
    for i, (count, link) in enumerate(zip(counts, links)):
        told[i, :count] = _both(link.told, count, grid)
        added[i, :count] = _both(link.added, count, grid)
    if recipe.tdl:
        latent = _apply_gains(latent, counts, links)
    noise = draws.normal(*latent.shape[1:]) * (added / 2).sqrt()
    device = latent.device
    # What clipping left is noise to the decoder too.
    told = told.to(device, non_blocking=True) + distortion.to(device)[:, None, None, None]
    lost = torch.isinf(told)
    received = torch.where(lost, 0, latent + noise.to(device, non_blocking=True))
    return received, torch.where(lost, 0, 1 / (1 + told)), _measured_snr_db(snr_db, links, recipe)


def draw_link(count: int, snr_db: Tensor, gain: Tensor, recipe: ChannelRecipe, random: torch.Generator) -> Link:
    """What one image's ``count`` symbols meet; ``gain`` () is the flat one that both ends know."""
    variance = noise_variance(snr_db) / gain.abs().square().clamp(min=LEAST_POWER)
    added = variance.expand(count)
    told, residual = added, torch.ones((), dtype=torch.complex64).expand(count)
    if recipe.tdl or recipe.fading == "block" or recipe.burst_loss:
        bursts = max(recipe.bursts, -(-count // recipe.burst_symbols))
        places = torch.randperm(bursts * recipe.burst_symbols, generator=random)[:count]
        burst_of = places // recipe.burst_symbols
        if (multipath := recipe.multipath()) is not None:
            residual, added, told = (part.flatten()[places] for part in multipath(bursts, variance, random))
        elif recipe.fading == "block":
            power = torch.randn(bursts, dtype=torch.complex64, generator=random).abs().square().clamp(min=LEAST_POWER)
            told = added = (variance / power)[burst_of]
        if recipe.burst_loss:
            gone = torch.rand(bursts, generator=random) < recipe.burst_loss
            told = torch.where(gone[burst_of], math.inf, told)
    kind = torch.rand((), generator=random)
    if kind < recipe.faded:
        fade = torch.empty(count).exponential_(generator=random).clamp(min=LEAST_POWER)
        added, told = added / fade, told / fade
    elif kind > 1 - recipe.erased:
        gone = torch.rand(count, generator=random) < MAX_ERASED * torch.rand((), generator=random)
        told = torch.where(gone, math.inf, told)
    return Link(residual, added, told)


def _both(values: Tensor, channels: int, grid: torch.Size) -> Tensor:
    """What holds for a symbol, for both of its real values: (K,) → (C,h,w)."""
    return symbols_to_latent(torch.complex(values, values)[None], channels, (grid[0], grid[1]))[0]


def _apply_gains(latent: Tensor, counts: list[int], links: list[Link]) -> Tensor:
    rows = []
    for values, count, link in zip(latent, counts, links):
        symbols = latent_to_symbols(values[None, :count]) * link.gain.to(values.device)
        rows.append(_filled(symbols_to_latent(symbols, count, (values.shape[1], values.shape[2])), len(values)))
    return torch.cat(rows)


def _cut_peaks(latent: Tensor, counts: list[int], recipe: ChannelRecipe, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """The latent after OFDM whose peaks were cut, equalised; the variance of what that did to a symbol, and the power that it
    took from the signal, dB, both (N,)."""
    rows, distortion, lost_db = [], [], []
    for values, count, random in zip(latent, counts, draws.each):
        symbols = latent_to_symbols(values[None, :count])[0]
        after = cut_peaks(symbols, recipe.clip_db, recipe.clip_passes, random)
        # The receiver's channel estimate holds the signal's loss of power; what remains is like noise.
        gain = (after * symbols.conj()).real.sum() / symbols.abs().square().sum()
        after = after / gain
        lost_db.append(-20 * gain.detach().log10())
        distortion.append((after - symbols).detach().abs().square().mean())
        rows.append(_filled(symbols_to_latent(after[None], count, (values.shape[1], values.shape[2])), len(values)))
    return torch.cat(rows), torch.stack(distortion), torch.stack(lost_db)


def _filled(latent: Tensor, channels: int) -> Tensor:
    """(1,c,h,w) with zeros for the channels that were not sent: (1,C,h,w)."""
    return torch.nn.functional.pad(latent, (0, 0, 0, 0, 0, channels - latent.shape[1]))


def _measured_snr_db(snr_db: Tensor, links: list[Link], recipe: ChannelRecipe) -> Tensor:
    """The channel's own SNR, except where the receiver alone knows what its bursts met: then their mean |h|²/σ²."""
    if not recipe.tdl and recipe.fading != "block":
        return snr_db
    means = [(1 / link.told).mean() / (~torch.isinf(link.told)).float().mean().clamp(min=LEAST_POWER) for link in links]
    return 10 * torch.stack(means).clamp(min=LEAST_POWER).log10()
