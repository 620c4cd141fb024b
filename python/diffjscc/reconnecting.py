# SPDX-License-Identifier: GPL-3.0-or-later
"""`--reconnect`: starts diffjscc-tx or diffjscc-rx again when it has lost its radio.

The radio's driver may hang or have crashed by then, so the program that uses it is a process of its own, which this one starts.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from .watchdog import LOST

#: Seconds before another try, at first and at most; and how long a try must have lasted for the next wait to be the first again.
FIRST_WAIT, LONGEST_WAIT, LASTED = 1.0, 60.0, 60.0

#: Where a process that is started here writes how many images it has sent or received.
PROGRESS = "DIFFJSCC_PROGRESS"

#: What a program ends with that found a fault in its options, or no device.
_REFUSED = 2

#: Of prctl(2): the signal that a process gets when the one that started it ends.
_PR_SET_PDEATHSIG = 1


def started_here():
    """Whether this process was started by `supervise`; it then ends with the one that started it."""
    if PROGRESS not in os.environ:
        return False
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return True


def note_progress(images):
    """Tells the process that started this one how many images were sent or received."""
    path = os.environ.get(PROGRESS)
    if path:
        Path(path).write_text(str(images))


def supervise(name, options, again):
    """Exit status of the program ``name``, started again each time that it loses its radio.

    options  of the command line, without --reconnect
    again    returns further options for another try: of the number of tries before, the images sent or received so far, and the
             seconds since the beginning. None ends the tries
    """
    stop, began, tries, images, wait = threading.Event(), time.monotonic(), 0, 0, FIRST_WAIT
    process = None

    def end(number, frame):
        stop.set()
        if process is not None:
            process.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "images"
        while True:
            further = again(tries, images, time.monotonic() - began) if tries else []
            if further is None:
                return LOST
            progress.write_text("0")
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, sys.argv[0], *options, *further], env=os.environ | {PROGRESS: str(progress)}
            )
            if stop.is_set():
                process.send_signal(signal.SIGTERM)
            status = process.wait()
            images += int(progress.read_text() or 0)
            crashed = status < 0 and -status not in (signal.SIGINT, signal.SIGTERM)
            again_due = status == LOST or crashed or (status == _REFUSED and tries > 0)
            if stop.is_set() or not again_due:
                return 128 - status if status < 0 else status
            tries += 1
            if time.monotonic() - started > LASTED:
                wait = FIRST_WAIT
            print(f"{name}: tries again in {wait:g} s", file=sys.stderr, flush=True)
            if stop.wait(wait):
                return LOST
            wait = min(2 * wait, LONGEST_WAIT)
