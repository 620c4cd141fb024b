# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound in, complex baseband out."""

import math

from gnuradio import blocks, filter, gr

from diffjscc.air.preset import SOUND_RATE

from .arguments import checked, whole
from .sound import CENTRE, HIGHEST_RATE, LOWEST_RATE, channel_filter, ratio


class audio_demodulator(gr.hier_block2):
    """Turns sound into complex baseband for burst_rx and jscc_rx with preset hf, fm or room.

        sound ─► float to complex ─► rotator, −1500 Hz ─► rational resampler, 180 to 2820 Hz ─► baseband

    Input: float samples of a sound card, at any level.
    Output: complex samples, 2880 a second. Direct current, hum and what else lies outside the band are removed; signals may be
    mistuned by 100 Hz either way.

    audio_rate   samples/s of the sound card or file, 6000 to 192000

    Raises ValueError, one line, for a rate that cannot be.
    """

    @checked(audio_rate=whole("samples/s", LOWEST_RATE, HIGHEST_RATE))
    def __init__(self, audio_rate=48000):
        gr.hier_block2.__init__(
            self,
            "audio_demodulator",
            gr.io_signature(1, 1, gr.sizeof_float),
            gr.io_signature(1, 1, gr.sizeof_gr_complex),
        )
        stages = 1 / ratio(audio_rate)
        # A real signal has half its power at each of two frequencies, of which one is kept.
        taps = [2 * tap for tap in channel_filter(audio_rate)]
        self._stages = (
            blocks.float_to_complex(),
            blocks.rotator_cc(-2 * math.pi * CENTRE / audio_rate),
            filter.rational_resampler_ccc(stages.numerator, stages.denominator, taps),
        )
        self.connect(self, *self._stages, self)

    @staticmethod
    def sample_rate():
        """Samples/s of the output."""
        return SOUND_RATE
