# SPDX-License-Identifier: GPL-3.0-or-later
"""The test vectors that Python and C++ share are what this transmitter makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffjscc.air.header import codec_number, unpack_image
from diffjscc.air.vectors import DECIMALS

FILE = Path(__file__).parents[1] / "data" / "air_interface.json"


def differences(made, kept, path=""):
    """Where two JSON values differ: numbers with a fraction by more than one unit of the last decimal, all else exactly."""
    if type(made) is not type(kept):
        yield path
    elif isinstance(made, dict):
        for key in made.keys() | kept.keys():
            yield from differences(made.get(key), kept.get(key), f"{path}/{key}")
    elif isinstance(made, list):
        if len(made) != len(kept):
            yield path
        for index, (one, other) in enumerate(zip(made, kept)):
            yield from differences(one, other, f"{path}/{index}")
    elif made != kept and not (isinstance(made, float) and abs(made - kept) < 1.01 * 10**-DECIMALS):
        yield path


def test_the_command_makes_the_file():
    """Where this fails, the air interface has changed. If that is intended:
    python -m diffjscc.air.vectors > tests/data/air_interface.json"""
    done = subprocess.run([sys.executable, "-m", "diffjscc.air.vectors"], capture_output=True, text=True, check=True)
    kept = json.loads(FILE.read_text())
    assert list(differences(json.loads(done.stdout), kept)) == []


def test_a_difference_is_found():
    kept = json.loads(FILE.read_text())
    changed = json.loads(FILE.read_text())
    changed["constants"]["COPY_SHIFT"] = 60
    changed["presets"]["ofdm64"]["burst"]["samples"][700] += 3e-4
    changed["scattered_order"]["100"].reverse()
    del changed["crc24"][2]
    assert {path.rsplit("/", 1)[0] if "100" in path else path for path in differences(changed, kept)} == {
        "/constants/COPY_SHIFT",
        "/presets/ofdm64/burst/samples/700",
        "/scattered_order/100",
        "/crc24",
    }


@pytest.mark.parametrize("index", range(3))
def test_headers_of_the_file_are_read(index):
    vector = json.loads(FILE.read_text())["headers"][index]

    def find_codec(number):
        assert number == codec_number("lite")
        return "lite"

    fragment = unpack_image(bytes.fromhex(vector["image"]), find_codec)
    fields = vector["fields"]
    assert fragment.length == vector["length"]
    assert (fragment.session, fragment.index, fragment.count) == (fields["session"], fields["index"], fields["count"])
    header = fragment.header.to_dict()
    assert {name: header[name] for name in fields if name in header} == {n: v for n, v in fields.items() if n in header}
    assert {"image_id", "width", "height", "codec", "rate", "tx_snr_db"} <= header.keys()
