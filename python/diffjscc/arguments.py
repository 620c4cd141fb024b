# SPDX-License-Identifier: GPL-3.0-or-later
"""What each argument of a block may be. One name means one thing in every block, so that one table holds all of them.

A check takes an argument's name and value, and returns the value as the block wants it. It raises ValueError with one line that
tells the name, the value, and what is expected.
"""

import functools
import inspect
import math
import numbers
import os
from pathlib import Path

from diffjscc.air.callsign import EXPECTED, check_callsign
from diffjscc.air.peaks import AUTO
from diffjscc.air.preset import MAX_PAYLOAD, PRESETS
from diffjscc.errors import one_line
from diffjscc.images import SUFFIXES
from diffjscc.symbols import parse_effort, parse_rate, parse_snr_db

from .worker import POLICIES

#: SNRs are within this of 0 dB: noise of 10^±10 times the symbols' power.
MAX_SNR_DB = 100

#: Most samples or symbols of silence, bursts or images in a queue, and seconds of a deadline: none is of use beyond.
MAX_SILENCE, MAX_QUEUE, MAX_DEADLINE = 1 << 24, 1_000_000, 86_400.0


def refuse(name, value, expected):
    """The ValueError for an argument: "NAME = VALUE: must be EXPECTED"."""
    try:
        shown = repr(value)
    except Exception:
        shown = f"an object of type {type(value).__name__}"
    return ValueError(f"{name} = {one_line(shown, 80)}: must be {expected}")


def whole(unit, low, high):
    """A whole number of ``unit`` from ``low`` to ``high``, as int. A float such as 32.0 is one."""

    def check(name, value):
        number = _real(value)
        if not (number.is_integer() and low <= number <= high):
            raise refuse(name, value, f"a whole number of {unit}, {low} to {high}")
        return int(number)

    return check


def number(unit, low, high):
    """A number of ``unit`` from ``low`` to ``high``, as float."""

    def check(name, value):
        number = _real(value)
        if not low <= number <= high:
            raise refuse(name, value, f"a number of {unit}, {low:g} to {high:g}")
        return number

    return check


def above_zero(what, high=math.inf):
    """A number above 0 and up to ``high``, as float."""

    def check(name, value):
        number = _real(value)
        if not 0 < number <= high:
            raise refuse(name, value, f"{what} above 0" + (f" and at most {high:g}" if high < math.inf else ""))
        return number

    return check


def clip(name, value):
    """A level in dB above 0, or "auto"."""
    return value if isinstance(value, str) and value == AUTO else above_zero("'auto', or a number of dB")(name, value)


def optional(check):
    """What ``check`` takes, or None."""
    return lambda name, value: None if value is None else check(name, value)


def one_of(*choices):
    """One of some texts or whole numbers."""

    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in choices:
            raise refuse(name, value, f"one of {', '.join(map(str, choices))}")
        return value

    return check


def text(what, may_be_empty=False):
    """A text without control characters."""

    def check(name, value):
        if not isinstance(value, str) or not (value or may_be_empty) or any(ord(c) < 32 for c in value):
            raise refuse(name, value, what)
        return value

    return check


def path(what, may_be_empty=False):
    """A path, as str: a text or an os.PathLike."""
    as_text = text(what, may_be_empty)
    return lambda name, value: as_text(name, os.fspath(value) if isinstance(value, Path) else value)


def codec(what, may_be_empty=False):
    """What names a codec, as str; or an object that encodes and decodes as a Codec does, as it is."""
    as_path = path(what, may_be_empty)
    return lambda name, value: value if is_codec(value) else as_path(name, value)


def is_codec(value):
    """Whether this is a codec itself, and not what names one."""
    methods = all(callable(getattr(type(value), method, None)) for method in ("encode", "decode"))
    return methods and hasattr(value, "name") and hasattr(value, "rates")


def yes_or_no(name, value):
    """A bool; 0 and 1 are too."""
    if not isinstance(value, numbers.Integral) or value not in (0, 1):
        raise refuse(name, value, "True or False")
    return bool(value)


def device(name, value):
    """A device that torch can compute on here, as str. torch is imported for any but "cpu" only."""
    from diffjscc.hub import check_device

    value = str(value) if type(value).__module__.partition(".")[0] == "torch" else value
    value = text("a device such as cpu, cuda or cuda:1")(name, value)
    if value != "cpu":
        check_device(value)
    return value


def folder(name, value):
    """A folder that can be written to, which is made where it is missing; "" for none."""
    value = path("a folder's path, or empty for none", may_be_empty=True)(name, value)
    if value:
        try:
            os.makedirs(value, exist_ok=True)
            if not os.access(value, os.W_OK | os.X_OK):
                raise PermissionError(None, "Permission denied")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            raise refuse(name, value, f"a folder that can be written to ({why})") from None
    return value


def some_folder(name, value):
    """A folder as `folder`, and not none."""
    if isinstance(value, str) and not value:
        raise refuse(name, value, "the folder that images are written to, such as received")
    return folder(name, value)


def rate(name, value):
    """A rate, channel uses per pixel, that a codec may have, as Fraction. A number or its text."""
    number = _parsed(parse_rate, "a number of channel uses per pixel, such as 1/128")(name, value)
    if number > 1:
        raise refuse(name, value, "at most 1 channel use per pixel, such as 1/128")
    return number


def snr_db(name, value):
    """An SNR, dB, as float. A number or its text."""
    number = _parsed(parse_snr_db, "a finite number of dB, such as 1.0")(name, value)
    if abs(number) > MAX_SNR_DB:
        raise refuse(name, value, f"an SNR from -{MAX_SNR_DB} to {MAX_SNR_DB} dB")
    return number


def effort(name, value):
    """An encoder effort, steps, as int. A number or its text."""
    return _parsed(parse_effort, "a whole number of steps")(name, value)


def callsign(name, value):
    """A callsign in capitals, or "" for none."""
    try:
        return check_callsign(value)
    except ValueError:
        raise refuse(name, value, EXPECTED) from None


def amplitude(name, value):
    """An amplitude, as float. A number or its text."""
    try:
        number = float(value) if isinstance(value, str) else _real(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise refuse(name, value, "a finite number above 0, such as 1.0")
    return number


#: The check of each argument of the blocks and refinements. Where None is a value too, or the range differs, a block says so.
#: Whether a model, an image or a key is there the block finds out by itself.
CHECKS = {
    "source": path("a file, a folder or a pattern such as photos/*.png, or empty for none", may_be_empty=True),
    "repeat": yes_or_no,
    "codec": codec("a codec's name, as `diffjscc models` lists it, a folder, or a codec"),
    "rate": rate,
    "snr_db": snr_db,
    "effort": effort,
    "guard": whole("samples or symbols", 0, MAX_SILENCE),
    "gap": whole("samples", 0, MAX_SILENCE),
    "length_tag": text("the name of a tag, such as packet_len"),
    "device": device,
    "preset": one_of(*PRESETS),
    "burst_symbols": whole("symbols", 1, MAX_PAYLOAD),
    "clip_db": clip,
    "callsign": callsign,
    "amplitude": amplitude,
    "folder": folder,
    "suffix": one_of(*SUFFIXES),
    "on_full": one_of(*POLICIES),
    "queue_size": whole("bursts or images", 1, MAX_QUEUE),
    "csi": yes_or_no,
    "status": yes_or_no,
    "deadline": above_zero("a number of seconds", MAX_DEADLINE),
    "address": text("the address of a service, such as tcp://127.0.0.1:5555"),
    "refiner": path("a refiner's name, as `diffjscc models` lists it, or a folder"),
    "server_key": path("a key file's path, or empty for none", may_be_empty=True),
    "secret_key": path("a key file's path, or empty for none", may_be_empty=True),
    "fft_len": one_of(64, 256),
    "cp_len": whole("samples", 8, 64),
    "false_alarm_rate": above_zero("a number", 0.1),
    "max_offset": above_zero("a number of cycles/sample", 0.2),
}

#: What receivers have otherwise: an empty codec stands for any, and None for an SNR that is estimated, or no deadline.
RECEIVES = {
    "codec": codec("a codec's name, as `diffjscc models` lists it, a folder, a codec, or empty for any", may_be_empty=True),
    "snr_db": optional(snr_db),
    "deadline": optional(CHECKS["deadline"]),
    "refinement": None,
}

#: What separate_source and separate_sink have beside.
CODING = {
    "code": one_of("wifi-1/2", "wifi-2/3", "wifi-3/4", "wifi-5/6"),
    "constellation": one_of("bpsk", "qpsk"),
}

#: What refinements have otherwise: None stands for the block's own queue size and policy.
OF_THE_BLOCK = {"queue_size": optional(CHECKS["queue_size"]), "on_full": optional(CHECKS["on_full"])}


def checked(**others):
    """A constructor's decorator that checks its arguments, by `CHECKS` and by ``others``, before it runs.

    others   checks that only this block has, or has otherwise: {argument: check}; None for one that the block checks by itself

    Raises KeyError, when the class is defined, for an argument without a check.

    Example:
        @checked(deadline=optional(CHECKS["deadline"]))
        def __init__(self, folder="", deadline=2.0):
    """

    def decorate(init):
        signature = inspect.signature(init)
        checks = {name: others[name] if name in others else CHECKS[name] for name in list(signature.parameters)[1:]}

        @functools.wraps(init)
        def wrapper(self, *args, **kwargs):
            bound = signature.bind(self, *args, **kwargs)
            for name, check in checks.items():
                if check is not None and name in bound.arguments:
                    bound.arguments[name] = check(name, bound.arguments[name])
            init(*bound.args, **bound.kwargs)

        return wrapper

    return decorate


def _real(value):
    """A real number as float; NaN for anything else, text and bool included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except Exception:
        return math.nan


def _parsed(parse, expected):
    """A check by a function that takes numbers and texts, and raises ValueError."""

    def check(name, value):
        if isinstance(value, bool) or not isinstance(value, (str, numbers.Real)):
            raise refuse(name, value, expected)
        return parse(value)

    return check
