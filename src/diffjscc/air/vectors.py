# SPDX-License-Identifier: GPL-3.0-or-later
"""Test vectors of the air interface: docs/air-interface.md, section 9.

    python -m diffjscc.air.vectors > tests/data/air_interface.json

They hold what a receiver must agree on with this transmitter, and the tests of both compare with them. QPSK symbols are strings
of digits, the q of e^{jπ(2q+1)/4}; products of two QPSK symbols are digits k of e^{jπk/2}. Other complex values are lists in
which real and imaginary parts alternate, rounded to DECIMALS.
"""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np

from ..symbols import ImageHeader
from . import callsign, header, preset
from .header import Fragment, convolutional_code, crc24, header_bits, header_elements, pack_image
from .modulator import Modulator
from .preset import PRESETS, Preset
from .sequences import mix, qpsk_sequence, scattered_order

#: Of samples and payload symbols.
DECIMALS = 4

#: Constants by the module that has them. lib/air_interface.h has the same names.
CONSTANTS = {
    preset: (
        "VERSION",
        "CALLSIGN_VERSION",
        "CHIRP_LEN",
        "PREAMBLE_LEN",
        "BANDWIDTH",
        "PILOT_SPACING",
        "PILOT_STEP",
        "HEADER_ELEMENTS",
        "MAX_PAYLOAD",
        "PILOT_SEED",
        "HEADER_SEED",
        "PAYLOAD_SEED",
        "CALLSIGN_SEED",
    ),
    header: (
        "HEADER_BITS",
        "VERSION_BITS",
        "IMAGE_BITS",
        "CRC_BITS",
        "CRC_POLYNOMIAL",
        "CRC_INITIAL",
        "GENERATORS",
        "CONSTRAINT",
        "COPY_SHIFT",
    ),
    callsign: ("MIN_CALLSIGN", "MAX_CALLSIGN"),
}

#: Header fields that are at their limits, and some in between: the fragment and the payload's length.
HEADERS = (
    Fragment(ImageHeader(0, 768, 512, "lite", Fraction(1, 128), 1.0), 0, 1, 0),
    Fragment(ImageHeader(0xA5C3, 1023, 33, "lite", Fraction(3, 256), -24.0), 3, 7, 21),
    Fragment(ImageHeader(0xFFFF, 1 << 14, 32, "lite", Fraction(1, 16), 39.5), 63, 64, 31),
)

#: Callsigns: the shortest, one with everything that is allowed, and the longest.
CALLSIGNS = ("K1A", "DL/N0CALL-9", "VK2XYZ/MM-099")

#: Symbols of the payload of the short bursts: a little more than one OFDM symbol of the smaller preset holds.
PAYLOAD = 50

#: Presets whose bursts differ: `hf` is `ofdm64`, and `fm` is `ofdm256`, at a sample rate of their own.
WAVEFORMS = ("ofdm64", "ofdm256", "room")


def vectors() -> dict:
    """All of them, of types that JSON has."""
    return {
        "constants": {name: getattr(module, name) for module, names in CONSTANTS.items() for name in names},
        "mix": [[value, int(mix(np.array([value]))[0])] for value in (0, 1, 2, 3, 0xFFFF, 0x30000, 0xFFFFFFFF)],
        "scattered_order": {str(count): scattered_order(count).tolist() for count in (1, 8, 100, 384)},
        "qpsk_sequence": {str(seed): _quadrants(qpsk_sequence(256, seed)) for seed in (1, 2, 3, 4)},
        "crc24": [[text, crc24(text.encode())] for text in ("", "a", "123456789")],
        "headers": [_header(fragment) for fragment in HEADERS],
        "callsigns": [_callsign(text) for text in CALLSIGNS],
        "burst_with_callsign": {
            "preset": "ofdm256",
            "callsign": CALLSIGNS[-1],
            "samples": _rounded(Modulator(PRESETS["ofdm256"], callsign=CALLSIGNS[-1])(_payload(), pack_image(HEADERS[0]))),
        },
        "preamble": _rounded(PRESETS["ofdm256"].preamble),
        "presets": {name: _preset(PRESETS[name]) for name in WAVEFORMS},
    }


def _header(fragment: Fragment) -> dict:
    image = pack_image(fragment)
    bits = header_bits(fragment.length, image)
    elements = header_elements(bits, PRESETS["ofdm256"].header_values)
    sent = fragment.header
    return {
        "fields": {
            "session": fragment.session,
            "image_id": sent.image_id,
            "width": sent.width,
            "height": sent.height,
            "codec": sent.codec,
            "rate": str(sent.rate),
            "tx_snr_db": sent.tx_snr_db,
            "index": fragment.index,
            "count": fragment.count,
        },
        "length": fragment.length,
        "image": image.hex(),
        "bits": _digits(bits),
        "coded": _digits(convolutional_code(bits)),
        "elements": _digits(np.round(np.angle(elements) * 2 / np.pi) % 4),
    }


def _callsign(text: str) -> dict:
    bits = callsign.callsign_bits(text)
    elements = header_elements(bits, PRESETS["ofdm256"].callsign_values)
    return {"callsign": text, "bits": _digits(bits), "elements": _digits(np.round(np.angle(elements) * 2 / np.pi) % 4)}


def _preset(parameters: Preset) -> dict:
    carriers = range(len(parameters.carriers))
    payload = _payload()
    image = pack_image(HEADERS[0])
    return {
        "fft_len": parameters.fft_len,
        "cp_len": parameters.cp_len,
        "header_symbols": parameters.header_symbols,
        "carriers": parameters.carriers.tolist(),
        "pilot_positions": parameters.pilot_positions.tolist(),
        "pilot_values": [_quadrants(values) for values in parameters.pilot_values],
        "data_positions": [sorted(set(carriers) - set(pilots)) for pilots in parameters.pilot_positions.tolist()],
        "burst": {"image": image.hex(), "payload": _rounded(payload), "samples": _rounded(Modulator(parameters)(payload, image))},
    }


def _payload() -> np.ndarray:
    """A spiral of symbols that all differ, with unit mean power."""
    index = np.arange(PAYLOAD)
    return (np.sqrt(2 * (index + 0.5) / PAYLOAD) * np.exp(2.4j * index)).astype(np.complex64)


def _quadrants(values: np.ndarray) -> str:
    return _digits(np.floor(np.angle(values) * 2 / np.pi) % 4)


def _digits(values: np.ndarray) -> str:
    return "".join(str(int(value)) for value in values)


def _rounded(values: np.ndarray) -> list[float]:
    # Adding 0 makes 0.0 of -0.0.
    return (np.round(np.asarray(values, np.complex64).view(np.float32).astype(float), DECIMALS) + 0.0).tolist()


def to_json(content: dict) -> str:
    """One line for each entry, so that a difference shows where it is."""

    def lines(value: object, indent: str) -> str:
        if isinstance(value, dict):
            inner = indent + " "
            return "{\n" + ",\n".join(f"{inner}{json.dumps(k)}: {lines(v, inner)}" for k, v in value.items()) + f"\n{indent}}}"
        return json.dumps(value, separators=(",", ":"))

    return lines(content, "") + "\n"


if __name__ == "__main__":
    print(to_json(vectors()), end="")
