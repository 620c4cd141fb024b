# SPDX-License-Identifier: GPL-3.0-or-later
"""What the companion asks about the values in a form: the asserts in grc/*.block.yml call these functions.

A form is checked again at each change, so that nothing here imports torch or waits. None of the functions raises: a value of a
wrong type is as wrong as any other.
"""

import os
import re

from diffjscc.air.callsign import check_callsign
from diffjscc.hub import find_model
from diffjscc.symbols import check_rate, parse_rate

#: Devices by the names that torch has for them, with a number or without.
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu|xla)(:\d{1,3})?")

#: Addresses of services as ZeroMQ writes them.
_ADDRESS = re.compile(r"tcp://([\w.-]+|\[[\w:.%]+\]):(?P<port>\d{1,5})|(ipc|inproc)://\S+")


def has_codec(codec):
    """Whether a codec of this name is installed, or this may be the path of one."""
    return _has(codec, "codec")


def has_refiner(refiner):
    """Whether a refiner of this name is installed, or this may be the path of one."""
    return _has(refiner, "refiner")


def has_rate(codec, rate):
    """Whether the codec has this rate, a number or its text; where the codec is not here, whether any may have it."""
    try:
        value = parse_rate(rate)
        if not has_codec(codec) or _is_path(codec):
            return value <= 1
        entry = find_model(codec)
        return check_rate(entry.name, entry.rates, value) == value
    except Exception:
        return False


def is_device(device):
    """Whether this is how torch writes a device."""
    return isinstance(device, str) and _DEVICE.fullmatch(device) is not None


def is_address(address):
    """Whether this is how ZeroMQ writes an address, with a port that exists."""
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return match is not None and 0 < int(match["port"] or 1) < 65536


def is_callsign(callsign):
    """Whether this may be sent as a callsign, or is empty."""
    try:
        return check_callsign(callsign) is not None
    except ValueError:
        return False


def _has(name, part):
    # A relative path starts in the folder that the flowgraph runs in, which the companion does not tell.
    if _is_path(name):
        return True
    try:
        return find_model(name, part) is not None
    except Exception:
        return False


def _is_path(name):
    return isinstance(name, str) and os.sep in name
