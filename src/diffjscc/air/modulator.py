# SPDX-License-Identifier: GPL-3.0-or-later
"""Images to samples: docs/air-interface.md, sections 4, 6 and 7."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..symbols import Symbols
from .callsign import callsign_bits, check_callsign
from .header import MAX_FRAGMENTS, Fragment, header_bits, header_elements, pack_image
from .peaks import AUTO, cut_for, lower_peaks, remaining_peak_db
from .preset import HEADER_ELEMENTS, MAX_PAYLOAD, PAYLOAD_SEED, PILOT_SPACING, Preset
from .sequences import qpsk_sequence, scattered_order


def fragments(symbols: Symbols, burst_symbols: int, session: int = 0) -> Iterator[tuple[Fragment, np.ndarray]]:
    """Cuts an image into the smallest number of equal fragments of at most ``burst_symbols``; yields each with its symbols.

    The symbols are taken in scattered order, so that every fragment holds symbols from all over the image.
    Raises ValueError where 64 fragments are not enough.
    """
    if not 1 <= burst_symbols <= MAX_PAYLOAD:
        raise ValueError(f"burst_symbols = {burst_symbols}: must be 1 to {MAX_PAYLOAD}")
    total = len(symbols.values)
    count = math.ceil(total / burst_symbols)
    if count > MAX_FRAGMENTS:
        raise ValueError(
            f"image of {total} symbols takes {count} bursts of {burst_symbols}: at most {MAX_FRAGMENTS} are allowed; "
            f"send longer bursts, a lower rate or a smaller image"
        )
    scattered = symbols.values[scattered_order(total)]
    for index in range(count):
        fragment = Fragment(symbols.header, index, count, session)
        yield fragment, scattered[fragment.begin : fragment.begin + fragment.length]


class Modulator:
    """Turns payloads into bursts of samples.

    preset    of the bursts
    clip_db   samples are cut at this many dB above the mean power; inf leaves them. "auto": peaks are lowered by repeated cutting
              and filtering, as far as the SNR that an image is encoded for suggests (see `peaks`)
    callsign  that every burst carries; "" for none

    Samples have unit mean power if the payload symbols have. Raises ValueError for a clip_db that is neither, and for a callsign
    that cannot be.
    """

    def __init__(self, preset: Preset, clip_db: float | str = math.inf, callsign: str = ""):
        if clip_db != AUTO and not (isinstance(clip_db, (int, float)) and clip_db > 0):
            raise ValueError(f"clip_db = {clip_db}: must be above 0 dB, or 'auto'; 9 costs little, inf does not clip")
        self.preset, self.clip_db, self.callsign = preset, clip_db, check_callsign(callsign)

    def peak_db(self, snr_db: float | None) -> float:
        """What no sample of an image that is encoded for ``snr_db`` exceeds, dB above the mean power."""
        if self.clip_db != AUTO:
            return float(self.clip_db)
        return math.inf if snr_db is None else remaining_peak_db(cut_for(snr_db))

    def __call__(self, payload: np.ndarray, image: bytes, snr_db: float | None = None) -> np.ndarray:
        """payload complex64 (K,), K up to 8191, and the header's image part → samples complex64, as many as `burst_len` says.

        snr_db   that the image is encoded for, for clip_db "auto"; without it peaks stay as they are then
        """
        preset = self.preset
        front = [header_elements(header_bits(len(payload), image, bool(self.callsign)), preset.header_values)]
        if self.callsign:
            front.append(header_elements(callsign_bits(self.callsign), preset.callsign_values))
        rows = preset.symbols_in_front(bool(self.callsign)) + preset.payload_symbols(len(payload))
        data = np.zeros(rows * preset.data_per_symbol, np.complex64)
        begin = len(front) * HEADER_ELEMENTS
        data[:begin] = np.concatenate(front)
        # The rest of the last OFDM symbol is filled with the payload's beginning: silence would disturb the receiver's
        # estimates. And each symbol is multiplied by one of a QPSK sequence: without that, a clear sky, which is the same
        # symbol many times, would make one high peak.
        data[begin:] = np.resize(payload, len(data) - begin) * qpsk_sequence(len(data) - begin, PAYLOAD_SEED)
        values, peak_db = self._carriers(data.reshape(rows, -1)), self.peak_db(snr_db)
        if self.clip_db == AUTO and snr_db is not None:
            values = lower_peaks(values, preset, cut_for(snr_db))
        return np.concatenate((preset.preamble, _clip(self._ofdm(values), peak_db)))

    def fragment(self, fragment: Fragment, payload: np.ndarray) -> np.ndarray:
        """Samples of one fragment of an image."""
        return self(payload, pack_image(fragment), fragment.header.tx_snr_db)

    def _carriers(self, data: np.ndarray) -> np.ndarray:
        """Values of the data carriers, complex64 (OFDM symbols, D) → of all carriers, with pilots, (OFDM symbols, U)."""
        preset = self.preset
        rows = np.arange(len(data))
        values = np.zeros((len(data), len(preset.carriers)), np.complex64)
        free = np.ones(values.shape, bool)
        pilots = preset.pilot_positions[rows % PILOT_SPACING]
        free[rows[:, None], pilots] = False
        values[free] = data.reshape(-1)
        values[rows[:, None], pilots] = preset.pilot_values[rows % PILOT_SPACING]
        return values

    def _ofdm(self, values: np.ndarray) -> np.ndarray:
        """Values of the carriers, (OFDM symbols, U) → samples."""
        preset = self.preset
        spectrum = np.zeros((len(values), preset.fft_len), np.complex64)
        spectrum[:, preset.carriers] = values
        symbols = np.fft.ifft(spectrum) * (preset.fft_len / math.sqrt(len(preset.carriers)))
        return np.concatenate((symbols[:, -preset.cp_len :], symbols), axis=1).reshape(-1).astype(np.complex64)


def _clip(samples: np.ndarray, clip_db: float) -> np.ndarray:
    return samples / np.maximum(1, np.abs(samples) / 10 ** (clip_db / 20)).astype(np.float32)
