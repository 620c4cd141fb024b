# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound as a carrier: the rates of sound cards, and the filters between them and the air interface's presets for sound."""

from fractions import Fraction

from gnuradio import filter
from gnuradio.fft import window

from diffjscc.air.preset import BANDWIDTH, SOUND_RATE

#: The carrier, Hz.
CENTRE = 1500.0

#: Sound cards' rates, samples/s: lower ones cannot hold the signal, higher ones are of no use.
LOWEST_RATE, HIGHEST_RATE = 6000, 192000

#: Largest denominator of a resampler's ratio. Rates of sound cards need 64 at most; of odd rates the nearest ratio is taken,
#: which is less than 2 ppm off.
_LARGEST_DENOMINATOR = 200

#: Attenuation of the filters in their stop bands, dB.
_ATTENUATION = 60.0

#: Hz by which SSB transceivers may be mistuned.
MISTUNED = 100.0

#: What is below is direct current and hum, Hz, and removed by the receiver.
HUM = 120.0


def ratio(audio_rate):
    """A sound card's rate over `SOUND_RATE`, as Fraction: the interpolation and decimation of the modulator's resampler."""
    return Fraction(audio_rate, int(SOUND_RATE)).limit_denominator(_LARGEST_DENOMINATOR)


def image_filter(audio_rate):
    """Taps, real, of the modulator's interpolation filter: they suppress the images of the signal above its own band."""
    stages = ratio(audio_rate)
    edge = BANDWIDTH / 2 * SOUND_RATE
    width = SOUND_RATE - 2 * edge
    return filter.firdes.low_pass_2(
        stages.numerator, audio_rate * stages.denominator, SOUND_RATE / 2, width, _ATTENUATION, window.WIN_BLACKMAN_hARRIS
    )


def channel_filter(audio_rate):
    """Taps, complex, of the demodulator's filter around 0 Hz.

    They pass the band of a signal that is `MISTUNED`, and remove direct current, hum, the mirrored spectrum of a real signal, and
    what decimation would fold into the band.
    """
    stages = 1 / ratio(audio_rate)
    edge = BANDWIDTH / 2 * SOUND_RATE + MISTUNED
    # Below the band is room for a steep slope only: from hum to the lowest carrier of a mistuned signal.
    width = CENTRE - edge - HUM
    return filter.firdes.complex_band_pass_2(
        stages.numerator, audio_rate * stages.numerator, -edge - width / 2, edge + width / 2, width, _ATTENUATION
    )
