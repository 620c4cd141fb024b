# SPDX-License-Identifier: GPL-3.0-or-later
"""The callsign that a burst may carry: docs/air-interface.md, section 5."""

from __future__ import annotations

import re

import numpy as np

from .header import CRC_BITS, HEADER_BITS, crc24

#: Characters of a callsign.
MIN_CALLSIGN, MAX_CALLSIGN = 3, (HEADER_BITS - CRC_BITS) // 8

#: What is expected, for errors.
EXPECTED = f"{MIN_CALLSIGN} to {MAX_CALLSIGN} characters, of A to Z, 0 to 9, / and -, such as N0CALL/P"

_CALLSIGN = re.compile(rf"[A-Z0-9/-]{{{MIN_CALLSIGN},{MAX_CALLSIGN}}}")


def check_callsign(callsign: str) -> str:
    """A callsign as it is sent, in capitals; "" for none. Raises ValueError for anything else."""
    if not isinstance(callsign, str):
        raise ValueError(f"callsign of type {type(callsign).__name__}: expected {EXPECTED}")
    found = callsign.strip().upper()
    if callsign and not _CALLSIGN.fullmatch(found):
        raise ValueError(f"callsign {callsign!r}: expected {EXPECTED}")
    return found


def callsign_bits(callsign: str) -> np.ndarray:
    """ASCII characters, zeros behind them, and the checksum: uint8 (128,), each 0 or 1."""
    data = callsign.encode("ascii").ljust(MAX_CALLSIGN, b"\0")
    return np.unpackbits(np.frombuffer(data + crc24(data).to_bytes(CRC_BITS // 8, "big"), np.uint8))
