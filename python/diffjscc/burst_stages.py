# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks that run at sample rate, in C++, with their arguments checked as those of the other blocks are.

pybind11 refuses an argument of a wrong type with a TypeError of several lines, which does not name the argument.
"""

from .arguments import checked
from .diffjscc_python import burst_demodulator, burst_detector

#: Samples by which burst_detector delays what it passes on, and so the tag burst_start of burst_demodulator.
DETECTOR_DELAY = 512

_detector, _demodulator = burst_detector.__init__, burst_demodulator.__init__


@checked()
def _make_detector(self, false_alarm_rate=1e-9, max_offset=0.05):
    _detector(self, false_alarm_rate, max_offset)


@checked()
def _make_demodulator(self, fft_len=256, cp_len=16):
    _demodulator(self, fft_len, cp_len)


burst_detector.__init__, burst_demodulator.__init__ = _make_detector, _make_demodulator
