# SPDX-License-Identifier: GPL-3.0-or-later
"""Complex baseband in, sound out."""

import math

from gnuradio import analog, blocks, filter, gr

from diffjscc.air.preset import SOUND_RATE

from .arguments import amplitude, checked, number, whole
from .leads import MAX_LEAD, burst_lead
from .sound import CENTRE, HIGHEST_RATE, LOWEST_RATE, image_filter, ratio


class audio_modulator(gr.hier_block2):
    """Turns bursts of burst_tx or jscc_tx with preset hf, fm or room into sound around 1500 Hz.

        bursts ─► lead tone ─► rational resampler ─► rotator, +1500 Hz ─► real part × peak, within ±1 ─► sound

    Input: complex samples, 2880 a second, tagged as burst_tx does, of magnitude 1 at most: with jscc_tx, an ``amplitude`` of
    10^(−clip_db/20), 0.355 for 9 dB.
    Output: float samples, −1 to 1, for a sound card or a WAV file. The signal lies between 307 and 2693 Hz.

    audio_rate   samples/s of the sound card or file, 6000 to 192000
    peak         the output's peak for input of magnitude 1. What exceeds 1 is cut
    vox          seconds of a tone before each transmission, for transceivers that key themselves by sound; 0 for none. Bursts
                 that follow each other within 0.2 s are one transmission

    Raises ValueError, one line, for an argument that cannot be.
    """

    @checked(
        audio_rate=whole("samples/s", LOWEST_RATE, HIGHEST_RATE),
        peak=amplitude,
        vox=number("seconds", 0, MAX_LEAD),
    )
    def __init__(self, audio_rate=48000, peak=0.7, vox=0.0):
        gr.hier_block2.__init__(
            self,
            "audio_modulator",
            gr.io_signature(1, 1, gr.sizeof_gr_complex),
            gr.io_signature(1, 1, gr.sizeof_float),
        )
        stages = ratio(audio_rate)
        self._stages = (
            *([burst_lead(vox, tone=True)] if vox else []),
            filter.rational_resampler_ccf(stages.numerator, stages.denominator, image_filter(audio_rate)),
            blocks.rotator_cc(2 * math.pi * CENTRE / audio_rate),
            blocks.complex_to_real(),
            blocks.multiply_const_ff(peak),
            analog.rail_ff(-1, 1),
        )
        self.connect(self, *self._stages, self)

    @staticmethod
    def sample_rate():
        """Samples/s of the input."""
        return SOUND_RATE
