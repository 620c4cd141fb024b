# SPDX-License-Identifier: GPL-3.0-or-later
"""Echoes and Doppler in training: TR 38.901's tapped delay lines, made by Sionna, met by the project's own OFDM bursts.

    burst ─► resource grid ─► y = h x + w ─► ĥ by least squares ─► x̂ = y/ĥ = (h/ĥ) x + w/ĥ
             header, pilots                  from header, pilots

A burst's symbols meet neither equal noise nor a known channel: carriers in a notch are lost in noise, and ĥ has an error of
its own. Both depend on the header and the pilots and not on the payload, so that a burst's gains h/ĥ and noise variances are
drawn first and applied to the symbols afterwards, which keeps everything differentiable.

Holds for echoes within the cyclic prefix, and for Doppler shifts that are small against the distance of the carriers:
neither interference between OFDM symbols nor between carriers is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..air.preset import PILOT_SPACING, PRESETS, Preset
from ..errors import MissingExtra

#: Delay profiles that scale with a delay spread.
PROFILES = ("A", "B", "C", "D", "E")

#: How to install Sionna. It asks for NumPy 2, but what is used of it works with the NumPy 1 that GNU Radio is built against.
INSTALL = "pip install 'diffjscc[channels]' && pip install --no-deps sionna-no-rt==2.2.0"

#: Samples between the beginning of the receiver's window and the first echo, and at least between the last and the prefix's
#: end: a delay between two samples spreads to the samples beside it.
LEAD, TAIL = 4, 3

#: Largest Doppler shift over the distance of the carriers: beyond it, carriers would disturb each other visibly.
MAX_DOPPLER = 0.02

#: Of the channel estimate, as in the receiver (lib/channel_estimator.h).
BASIS_FLOOR, MAX_DEGREE = 3e-3, 3

#: The delay lines know speeds, not Doppler shifts: any carrier frequency does.
_CARRIER_HZ, _SPEED_OF_LIGHT = 1e9, 299_792_458.0


@lru_cache(maxsize=8)
def find_multipath(profile: str, delay_spread: float, doppler: float, sample_rate: float, burst_symbols: int) -> Multipath:
    """A channel for bursts of preset ofdm256, kept for the next call.

    profile        one of `PROFILES`
    delay_spread   RMS, seconds
    doppler        largest Doppler shift, Hz
    sample_rate    samples per second
    burst_symbols  payload symbols of a burst

    Raises MissingExtra where Sionna is not installed, and ValueError for echoes beyond the cyclic prefix or a Doppler shift
    that OFDM does not bear.
    """
    preset = PRESETS["ofdm256"]
    spacing = sample_rate / preset.fft_len
    if doppler > MAX_DOPPLER * spacing:
        raise ValueError(
            f"channel.doppler_hz = {doppler:g}: must be at most {MAX_DOPPLER * spacing:g} Hz, {MAX_DOPPLER:.0%} of the distance"
            f" of the carriers at sample_rate = {sample_rate:g}"
        )
    delay_line = _delay_line(profile, delay_spread, doppler)
    longest = (preset.cp_len - LEAD - TAIL) / sample_rate
    last = float(delay_line.delays.max())
    if last > longest:
        raise ValueError(
            f"channel.delay_spread_ns = {delay_spread * 1e9:g}: TDL-{profile}'s last echo comes {last * 1e6:.3g} µs after the"
            f" first, the cyclic prefix bears {longest * 1e6:.3g} µs at sample_rate = {sample_rate:g}: lower one of them"
        )
    return Multipath(delay_line, preset, sample_rate, burst_symbols)


def _delay_line(profile: str, delay_spread: float, doppler: float):
    """Sionna's TDL."""
    # When it is imported, Sionna seeds torch's own generator at random.
    with torch.random.fork_rng(devices=[]):
        try:
            from sionna.phy.channel.tr38901 import TDL
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            raise MissingExtra(f"channel.tdl needs Sionna, and {missing} cannot be imported: {INSTALL}") from None
        speed = doppler / _CARRIER_HZ * _SPEED_OF_LIGHT
        return TDL(profile, delay_spread, _CARRIER_HZ, min_speed=speed, precision="single", device="cpu")


class Multipath:
    """Gains and noise variances of whole bursts over a tapped delay line.

    delay_line     Sionna's TDL, with delays in seconds
    preset         of the bursts
    sample_rate    samples per second
    burst_symbols  payload symbols of a burst
    """

    def __init__(self, delay_line, preset: Preset, sample_rate: float, burst_symbols: int):
        self._delay_line, self._preset, self._burst_symbols = delay_line, preset, burst_symbols
        self._symbol_rate = sample_rate / (preset.fft_len + preset.cp_len)
        self._frequencies = torch.tensor(preset.carriers * (sample_rate / preset.fft_len), dtype=torch.float32)
        self._lead = LEAD / sample_rate
        self.estimator = ChannelEstimator(preset, preset.header_symbols + preset.payload_symbols(burst_symbols))

    def __call__(self, bursts: int, variance: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What the payload of so many bursts meets, each (bursts, burst_symbols).

        variance  () of the noise of a resource element; the channel has mean power 1

        Returns the gain h/ĥ (complex64), the variance of the noise added to an equalised symbol, and that which the receiver
        tells the decoder, in which the error of the estimate is accounted for.
        """
        channel = self.draw(bursts, random)
        estimated, noise_var = self.estimator(channel, variance, random)
        true, estimated = (self.estimator.payload(grid)[:, : self._burst_symbols] for grid in (channel, estimated))
        power = estimated.abs().square().clamp(min=1e-12)
        return true / estimated, variance / power, noise_var[:, None] / power

    def draw(self, bursts: int, random: torch.Generator) -> Tensor:
        """Channels on the resource grid, complex64 (bursts, OFDM symbols, carriers), mean power 1."""
        self._delay_line.torch_rng.manual_seed(int(torch.randint(1 << 62, (), generator=random)))
        taps, delays = self._delay_line(bursts, self.estimator.symbols, self._symbol_rate)
        turns = self._frequencies * (delays[0, 0, 0, :, None] + self._lead)
        return torch.einsum("bpt,pf->btf", taps[:, 0, 0, 0, 0], torch.exp(-2j * math.pi * turns))


@dataclass
class ChannelEstimator:
    """The receiver's channel estimate, for many bursts of one length at once.

    The same least squares as in lib/channel_estimator.h, where they are derived: over the header and the payload's pilots, in
    the space of what taps within the cyclic prefix do on the carriers, times polynomials of degree 0 to 3 in time, the degree
    being raised as long as Akaike's criterion falls. Here they are computed by a QR decomposition whose columns are ordered by
    degree: the first ones are then a basis of the model of each lower degree.

    preset   of the bursts
    symbols  OFDM symbols of a burst, header and payload
    """

    preset: Preset
    symbols: int

    def __call__(self, channel: Tensor, variance: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Estimates of channels, complex64 (bursts, symbols, carriers), seen through noise of ``variance`` ().

        Returns them, and the noise variance of a resource element (bursts,) as the receiver states it: that of the noise, and
        of the estimate's own error.
        """
        seen = channel.flatten(1)[:, self._known]
        seen = seen + variance.sqrt() * torch.randn(seen.shape, dtype=seen.dtype, generator=random)
        moments = seen @ self._basis.conj()
        energy = seen.abs().square().sum(1, dtype=torch.float64)
        degrees, noise_var = self._fit(energy, moments.abs().square().double().cumsum(1), seen.shape[1])
        kept = torch.arange(moments.shape[1]) < ((degrees + 1) * self._rank)[:, None]
        estimate = torch.where(kept, moments, 0) @ self._to_grid.T
        return estimate.reshape(channel.shape), noise_var.float()

    def _fit(self, energy: Tensor, explained: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The degree of each burst's polynomials, and the noise variance that it leads to, (bursts,).

        energy     of the known elements, (bursts,)
        explained  by the first terms of the model, (bursts, terms)
        count      known elements of a burst
        """
        scores: list[Tensor] = []
        variances: list[Tensor] = []
        for terms in range(self._rank, explained.shape[1] + 1, self._rank):
            if scores and 2 * terms > count:
                break
            residual = torch.maximum(energy - explained[:, terms - 1], 1e-12 * energy)
            scores.append(2 * count * (residual / count).log() + 4 * terms * count / max(1, count - terms - 1))
            variances.append(residual / (count - terms) * (1 + terms / count))
        # The receiver stops at the first degree after which the score does not fall.
        falls = torch.stack(scores).diff(dim=0) < 0
        degrees = falls.long().cumprod(0).sum(0)
        return degrees, torch.stack(variances).gather(0, degrees[None])[0]

    def payload(self, grid: Tensor) -> Tensor:
        """The elements that carry payload, in the order of its symbols: (bursts, symbols, carriers) → (bursts, K)."""
        return grid.flatten(1)[:, self._data]

    @cached_property
    def _data(self) -> Tensor:
        free = np.ones((self.symbols, len(self.preset.carriers)), bool)
        rows = np.arange(self.symbols)
        free[rows[:, None], self.preset.pilot_positions[rows % PILOT_SPACING]] = False
        free[: self.preset.header_symbols] = False
        return torch.from_numpy(np.flatnonzero(free))

    @cached_property
    def _known(self) -> Tensor:
        """Elements whose transmitted value the receiver knows: all of the header, and the pilots."""
        known = np.ones(self.symbols * len(self.preset.carriers), bool)
        known[self._data.numpy()] = False
        return torch.from_numpy(np.flatnonzero(known))

    @cached_property
    def _functions(self) -> np.ndarray:
        """Orthonormal functions on the carriers that span what taps within the prefix do there: (carriers, rank)."""
        delays = np.arange(self.preset.cp_len)
        response = np.exp(-2j * np.pi * np.outer(self.preset.carriers, delays) / self.preset.fft_len)
        left, sizes, _ = np.linalg.svd(response, full_matrices=False)
        return left[:, sizes > BASIS_FLOOR * sizes[0]]

    @property
    def _rank(self) -> int:
        return self._functions.shape[1]

    @cached_property
    def _solution(self) -> tuple[np.ndarray, np.ndarray]:
        """An orthonormal basis of the model on the known elements, and the matrix from its coefficients to the grid."""
        time = np.linspace(-1, 1, self.symbols) if self.symbols > 1 else np.zeros(1)
        model = np.concatenate(
            [(time[:, None, None] ** degree * self._functions).reshape(-1, self._rank) for degree in range(MAX_DEGREE + 1)], axis=1
        )
        basis, triangle = np.linalg.qr(model[self._known.numpy()])
        return basis, np.linalg.solve(triangle.T, model.T).T

    @cached_property
    def _basis(self) -> Tensor:
        return torch.from_numpy(self._solution[0].astype(np.complex64))

    @cached_property
    def _to_grid(self) -> Tensor:
        return torch.from_numpy(self._solution[1].astype(np.complex64))
