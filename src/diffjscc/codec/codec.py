# SPDX-License-Identifier: GPL-3.0-or-later
"""The one interface of the JSCC autoencoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..images import pad_to_block
from ..symbols import (
    BLOCK,
    ImageHeader,
    Reception,
    Symbols,
    check_image_size,
    check_rate,
    parse_effort,
    parse_rate,
    parse_snr_db,
    rate_channels,
)
from .effort import improve
from .latent import ChannelState, latent_to_symbols, normalise_power, symbols_to_latent
from .limits import within_limits


class Codec(nn.Module, ABC):
    """A JSCC autoencoder: images to unit-power complex symbols, and back from noisy ones.

        image ─► pad to 16 ─► analyse ─► first C channels ─► mean |y|² = 1 ─► Symbols
        image ◄─ crop ◄───── synthesise ◄─ latent (N,C,H/16,W/16) ◄────────── Reception

    A complex symbol is channel c + j·channel (c + C/2) at one latent position, the authors' pairing; symbols run
    along rows, then columns, then channels. An architecture supplies `analyse` and `synthesise`.
    """

    #: Name in config.json.
    architecture: ClassVar[str]

    def __init__(self, rates: Sequence[str | Fraction], snr_range_db: tuple[float, float]):
        super().__init__()
        self.rates = tuple(sorted(parse_rate(rate) for rate in rates))
        low, high = snr_range_db
        self.snr_range_db = (low, high)
        #: Id that headers carry; `diffjscc.hub` sets it to the name the model was loaded by.
        self.name = self.architecture

    @abstractmethod
    def analyse(self, images: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        """images (N,3,H,W) in [0,1], sides multiples of 16; channels (N,) to be sent → latent (N,C,H/16,W/16), C ≥ any of them."""

    @abstractmethod
    def synthesise(self, latent: Tensor, reliability: Tensor, state: ChannelState, channels: Tensor) -> Tensor:
        """latent (N,C,h,w), equalised, and the reliability 1/(1+σ²) of each value → images (N,3,16h,16w) in [0,1]."""

    @property
    @abstractmethod
    def config(self) -> dict:
        """What, with the weights, rebuilds this codec: the keyword arguments of its class."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.ndim == 4)

    def check_rate(self, rate: str | Fraction) -> Fraction:
        """The rate as a Fraction. Raises ValueError where this codec does not have it."""
        return check_rate(self.name, self.rates, rate)

    @torch.inference_mode()
    def encode(
        self,
        image: Tensor,
        snr_db: float,
        rate: str | Fraction | None = None,
        *,
        image_id: int = 0,
        fading: complex = 1.0,
        effort: int = 0,
        enough: Callable[[], bool] | None = None,
    ) -> Symbols:
        """An image to channel symbols.

        image     float (3, H, W), RGB in [0, 1]; H, W ≥ 32
        snr_db    the SNR to encode for, dB; outside the trained range the nearest end of it is used
        rate      channel uses per pixel; default: the codec's lowest
        image_id  id that the image's header carries
        fading    the gain that a Rayleigh codec's transmitter is told
        effort    steps of gradient descent that look for better symbols for this image (see `effort.improve`), 0 to 10 000;
                  each takes about three times as long as decoding. Receivers need not know
        enough    is asked before each of these steps; with True the search ends, and what it found is returned

        Raises ValueError for a rate that the codec lacks, an SNR that is not finite, an effort that is not a whole number of
        steps, or an image of another shape, size or value.
        """
        if image.ndim != 3:
            raise ValueError(f"image is {image.dtype} {tuple(image.shape)}: expected float (3, H, W); `encode_batch` takes several")
        return self.encode_batch(image[None], snr_db, rate, image_id=image_id, fading=fading, effort=effort, enough=enough)[0]

    @torch.inference_mode()
    def encode_batch(
        self,
        images: Tensor,
        snr_db: float,
        rate: str | Fraction | None = None,
        *,
        image_id: int = 0,
        fading: complex = 1.0,
        effort: int = 0,
        enough: Callable[[], bool] | None = None,
    ) -> list[Symbols]:
        """`encode` for images of one size, float (N, 3, H, W), in one pass. Their ids count up from ``image_id``."""
        rate = self.check_rate(self.rates[0] if rate is None else rate)
        snr_db = parse_snr_db(snr_db)
        effort = parse_effort(effort)
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}: expected float (N, 3, H, W)")
        height, width = images.shape[-2:]
        check_image_size(width, height)
        if not torch.isfinite(images).all():
            raise ValueError("image holds NaN or infinite values: expected RGB in [0, 1]")
        count = len(images)
        batch = pad_to_block(images.to(self.device, torch.float32).clamp(0, 1))
        state = ChannelState(
            self._snrs([snr_db] * count),
            torch.full((count,), fading, dtype=torch.complex64, device=self.device),
            self._snrs([snr_db] * count),
        )
        channels = torch.full((count,), rate_channels(rate), device=self.device)
        latent = self.analyse(self._network_input(batch), state, channels).float()
        latent = normalise_power(latent[:, : rate_channels(rate)], channels)
        if effort:
            latent = improve(self, batch, latent, state, channels, effort, enough)
        values = latent_to_symbols(latent).cpu().numpy()
        return [Symbols(values[i], ImageHeader(image_id + i, width, height, self.name, rate, snr_db)) for i in range(count)]

    @overload
    def decode(self, receptions: Reception, headers: ImageHeader) -> Tensor: ...
    @overload
    def decode(self, receptions: Sequence[Reception], headers: Sequence[ImageHeader]) -> list[Tensor]: ...

    @torch.inference_mode()
    def decode(
        self, receptions: Reception | Sequence[Reception], headers: ImageHeader | Sequence[ImageHeader]
    ) -> Tensor | list[Tensor]:
        """Received symbols to images, each symbol weighted by the reliability that its noise variance gives it.

        One Reception and its header give one image, float32 (3, H, W) in [0, 1]; sequences give a list, and images
        of one size and rate run as one batch. Erased (noise variance +inf) and not finite symbols and impulses count as lost,
        and the image is decoded from the others; a burst of too much power is scaled back (`limits.within_limits`). Where all
        variances are equal this is the plain decoder at that SNR.

        Raises ValueError where the number of headers is not that of receptions, or the number of symbols not the header's.
        """
        if isinstance(receptions, Reception) and isinstance(headers, ImageHeader):
            return self._decode_batch([receptions], [headers])[0]
        if isinstance(receptions, Reception) or isinstance(headers, ImageHeader) or len(receptions) != len(headers):
            raise ValueError("receptions and headers go together: give one of each, or two sequences of the same length")
        groups: dict[tuple, list[int]] = {}
        for index, header in enumerate(headers):
            groups.setdefault((header.width, header.height, header.rate), []).append(index)
        images: dict[int, Tensor] = {}
        for members in groups.values():
            images |= zip(members, self._decode_batch([receptions[i] for i in members], [headers[i] for i in members]))
        return [images[index] for index in range(len(headers))]

    def _decode_batch(self, receptions: list[Reception], headers: list[ImageHeader]) -> Tensor:
        header = headers[0]
        channels = rate_channels(self.check_rate(header.rate))
        for reception in receptions:
            if len(reception.values) != header.symbol_count:
                raise ValueError(
                    f"burst has {len(reception.values)} symbols, but its header ({header.width}×{header.height}"
                    f" at {header.rate}) asks for {header.symbol_count}"
                )
        values, noise_var = map(np.stack, zip(*(within_limits(r.values, r.noise_var) for r in receptions)))
        symbols = torch.from_numpy(values).to(self.device)
        reliability = torch.from_numpy((1 / (1 + noise_var)).astype(np.float32)).to(self.device)
        state = ChannelState(
            self._snrs([reception.snr_db for reception in receptions]),
            torch.tensor([r.fading for r in receptions], dtype=torch.complex64, device=self.device),
            self._snrs([header.tx_snr_db for header in headers]),
        )
        grid = -(-header.height // BLOCK), -(-header.width // BLOCK)
        latent = symbols_to_latent(symbols, channels, grid)
        reliability = symbols_to_latent(torch.complex(reliability, reliability), channels, grid)
        count = torch.full((len(receptions),), channels, device=self.device)
        images = self.synthesise(latent, reliability, state, count).float().clamp(0, 1)
        return images[..., : header.height, : header.width]

    def _snrs(self, snrs_db: Sequence[float]) -> Tensor:
        """SNRs, dB, within the range that the networks know: float32 (N,)."""
        # Not torch's default type, which loading a model elsewhere in the process changes for a while.
        return torch.tensor(snrs_db, dtype=torch.float32, device=self.device).clamp(*self.snr_range_db)

    def _network_input(self, images: Tensor) -> Tensor:
        return images.to(self.dtype, memory_format=torch.channels_last)
