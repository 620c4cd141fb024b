# SPDX-License-Identifier: GPL-3.0-or-later
"""Notices that a radio is gone or hangs: what drivers answer with endless errors, with silence, or not at all."""

import contextlib
import ctypes
import os
import sys
import time

from .diffjscc_python import driver_failure, exit_timer, survive_driver_threads

#: Exit status of a program that lost its radio.
LOST = 3

#: Seconds without a sample after which a radio is given up; and, several times as long, without an answer while it is opened:
#: some load their firmware then.
PATIENCE, OPENING = 5.0, 6

#: Seconds that a flowgraph with a device gets to stop: a driver may never return.
STOPPING = 10.0

#: Devices that this process opened, and blocks that are never freed.
_opened, _held = [], []


@contextlib.contextmanager
def opening(program, device, patience=PATIENCE):
    """Around the opening of a device: ends the process, after one line, where the driver does not return."""
    survive_driver_threads()
    _opened.append(device)
    line = f"{program}: {device}: it does not answer: is another program using it? Exit status {LOST}"
    timer = exit_timer(OPENING * patience, line, LOST)
    try:
        yield
    finally:
        timer.cancel()


def hold(block):
    """Returns a driver's block, which from now on is never freed: the destructors of some wait for a thread that does not end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(block))
    _held.append(block)
    return block


def leave(status):
    """Ends the process; where it opened a device, without the destructors of its driver, which may hang or crash."""
    if not _opened:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Watchdog:
    """Whether samples move between a program and its radio.

    device    what messages call it
    samples   returns the number of samples that moved so far
    due       returns whether samples ought to move at present
    patience  seconds without a sample after which the radio is given up
    complete  returns whether everything has been sent, so that the flowgraph may end
    """

    def __init__(self, device, samples, due=lambda: True, patience=PATIENCE, complete=lambda: False, clock=time.monotonic):
        self._complete = complete
        self._device, self._samples, self._due, self._patience, self._clock = device, samples, due, patience, clock
        self._last, self._moved = None, clock()
        #: Why the radio was given up, one line; None while it works.
        self.reason = None

    def lost(self):
        """Looks; True once the radio is given up."""
        if self.reason is not None:
            return True
        failure, samples, now = driver_failure(), self._samples(), self._clock()
        if samples != self._last or not self._due():
            self._last, self._moved = samples, now
        if failure is not None:
            self.reason = f"{self._device}: lost: {failure}"
        elif now - self._moved > self._patience:
            self.reason = f"{self._device}: lost: no sample for {self._patience:g} s"
        return self.reason is not None

    def ended(self):
        """To be called when the flowgraph has ended by itself. True where it should not have."""
        if self.reason is None and not self._complete():
            self.reason = f"{self._device}: lost: {driver_failure() or 'its driver ended the stream'}"
        return self.reason is not None
