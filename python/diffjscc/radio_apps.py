# SPDX-License-Identifier: GPL-3.0-or-later
"""What diffjscc-tx and diffjscc-rx share: options, errors, the summary, and running a flowgraph."""

import argparse
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields

from gnuradio.eng_arg import eng_float

from diffjscc.air.preset import PRESETS, SOUND_PRESETS, SOUND_RATE
from diffjscc.cli.options import number, whole
from diffjscc.hub import DEFAULT_CODEC

from .radios import ADDRESS, KINDS, SAMPLE_RATES, SOUND, Radio
from .reconnecting import started_here, supervise
from .sound import HIGHEST_RATE, LOWEST_RATE
from .watchdog import PATIENCE, STOPPING


def hertz(text):
    """A number of an option, such as 2.45G."""
    try:
        return eng_float(text)
    except Exception:
        # GNU Radio's own message does not tell the value, and for an empty one it is an IndexError.
        raise argparse.ArgumentTypeError(f"'{text}': expected a number, such as 2.45G") from None


def sample_rate(text):
    """Samples/s of an option: a name of SAMPLE_RATES, or a number such as 2M."""
    return SAMPLE_RATES[text] if text in SAMPLE_RATES else hertz(text)


def add_options(parser):
    """Adds the options that `radio_of` reads, and those of the air interface and the codec."""
    add = parser.add_argument_group("radio").add_argument
    add("--radio", dest="kind", choices=KINDS, help="what sends or receives")
    add("--args", default="", help="which device: UHD's address, SoapySDR's arguments, a Pluto's URI or ALSA's name (default: any)")
    add("--address", default=ADDRESS, help="for --radio zmq: where the transmitter listens (default: %(default)s)")
    add("--file", default="", help="for --radio file, complex floats as they are, --radio sigmf and --radio wav")
    add("--frequency", type=hertz, metavar="HZ", help="of the carrier, such as 2.45G")
    widths = ", ".join(f"{name} ({rate / 1e6:g}M)" for name, rate in SAMPLE_RATES.items())
    add("--sample-rate", type=sample_rate, metavar="R", help=f"samples/s: {widths}, or a number (default: medium)")
    add(
        "--audio-rate",
        type=whole(LOWEST_RATE, HIGHEST_RATE),
        metavar="R",
        default=48000,
        help="samples/s of a sound card, or of a WAV file that is written (default: %(default)s)",
    )
    add("--bandwidth", type=hertz, metavar="HZ", help="of the analog filters (default: the sample rate)")
    add("--gain", type=float, metavar="DB", help="default: the middle of the device's range")
    add("--antenna", default="", help="the device's name of the connector (default: its own)")
    add(
        "--patience",
        type=number(0, 3600, above=True),
        default=PATIENCE,
        metavar="S",
        help="exit with status 3 when the device moves no samples for so long, or takes 6 times as long to open"
        " (default: %(default)g s)",
    )
    add("--reconnect", action="store_true", help="start again then, after 1 s, 2 s, … at most 60 s")
    add = parser.add_argument_group("air interface").add_argument
    add("--preset", choices=tuple(PRESETS), help="subcarriers, or what sound crosses (default: ofdm256; hf for audio and wav)")
    add("--codec", default=DEFAULT_CODEC, help="codec: a name of `diffjscc models`, or a folder (default: %(default)s)")
    add("--device", default="cpu", help="where the codec computes: cpu, cuda, … (default: %(default)s)")


def radio_of(arguments: argparse.Namespace):
    """The Radio of the options that `add_options` added. Raises ValueError where they do not make one.

    The sample rate and preset are set in ``arguments`` where they were not given: they depend on the radio.
    """
    if arguments.kind is None:
        raise ValueError(f"name a radio: --radio {', '.join(KINDS)}")
    sound = arguments.kind in SOUND
    arguments.preset = arguments.preset or ("hf" if sound else "ofdm256")
    if sound and arguments.preset not in SOUND_PRESETS:
        raise ValueError(f"radio {arguments.kind} and preset {arguments.preset}: expected one of {', '.join(SOUND_PRESETS)}")
    if sound and arguments.sample_rate not in (None, SOUND_RATE):
        raise ValueError(
            f"sample rate {arguments.sample_rate:g}: radio {arguments.kind} has {SOUND_RATE:g}, and a sound card its --audio-rate"
        )
    if arguments.sample_rate is None:
        arguments.sample_rate = PRESETS[arguments.preset].sample_rate or SAMPLE_RATES["medium"]
    return Radio(**{field.name: getattr(arguments, field.name) for field in fields(Radio)})


def command(name, function, arguments, again=None):
    """What ``function(arguments)`` returns, as an exit status; for bad input 2, after one line on standard error.

    again  for --reconnect: further options of another try, see `reconnecting.supervise`
    """
    try:
        if not started_here() and again is not None and arguments.reconnect:
            return supervise(name, [option for option in sys.argv[1:] if option != "--reconnect"], again)
        return function(arguments)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def summary(counters, reasons=None):
    """Two lines of what a transmitter or receiver counted: of bursts, and of images; in brackets why, where that is known."""
    images = {name: number for name, number in counters.items() if name != "bursts"}
    lines = []
    for what, numbers in (("bursts", counters["bursts"]), ("images", images)):
        shown = (_counted(name, number, (reasons or {}).get(name, {})) for name, number in numbers.items())
        lines.append(f"{what}: {', '.join(shown)}")
    return "\n".join(lines)


def _counted(name, number, why):
    if isinstance(number, dict):
        number, why = sum(number.values()), number
    brackets = ", ".join(f"{reason} {count}" for reason, count in why.items())
    return f"{name} {number} ({brackets})" if brackets else f"{name} {number}"


class Window:
    """A window with qt_image_view, ``view``, for a program without Qt's event loop.

    Raises ValueError, one line, where there is no screen, or PyQt5 is not installed.
    """

    def __init__(self):
        # Without a screen Qt ends the whole process.
        probe = "from PyQt5.QtWidgets import QApplication; QApplication([])"
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
        if done.returncode:
            reason = next(iter(done.stderr.strip().splitlines()[-1:]), "no reason given")
            if "PyQt5" not in reason:
                reason = "there is no screen that Qt can use: is DISPLAY set?"
            raise ValueError(f"no window can be shown ({reason})")
        from PyQt5.QtWidgets import QApplication

        from .qt_image_view import qt_image_view

        self._application = QApplication.instance() or QApplication(sys.argv[:1])
        self.view = qt_image_view()
        self.view.widget.resize(800, 700)
        self.view.widget.show()

    def closed(self):
        return not self.view.widget.isVisible()

    def pause(self):
        """Lets the window paint and take clicks, for a moment."""
        self._application.processEvents()
        time.sleep(0.01)


def _rest():
    time.sleep(0.05)


def run(flowgraph, finished=lambda: False, pause=_rest, watchdog=None):
    """Runs a flowgraph until it ends, ``finished()`` returns True, or the process is interrupted or terminated.

    ``pause()`` is called over and over meanwhile. Returns "ended", "finished", "interrupted" or, where the watchdog of a radio gave
    it up, "lost".
    """
    how = "ended"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flowgraph.start()
    ended = threading.Thread(target=flowgraph.wait, daemon=True)
    ended.start()
    try:
        while ended.is_alive():
            if finished():
                how = "finished"
                break
            if watchdog is not None and watchdog.lost():
                how = "lost"
                break
            pause()
    except KeyboardInterrupt:
        how = "interrupted"
    if watchdog is not None and how == "ended" and watchdog.ended():
        how = "lost"
    flowgraph.stop()
    # The driver of a device may never return.
    ended.join(None if watchdog is None else STOPPING)
    return how
