# SPDX-License-Identifier: GPL-3.0-or-later
"""How far away a receiver looks for a carrier, and the front end that lets it look further than the sample rate is wide.

Two oscillators of 10 ppm are up to 20 ppm apart: 49 kHz at 2.45 GHz, a fifth of 250 ksps. The signal occupies 13/16 of the sample
rate, so that from 0.09 on its edge lies beyond half of the sample rate. Sampled there, it comes in again at the other end of the
band, where nothing of it is, and the receiver works as before. But a radio's own filters cut it off. So the radio samples twice as
fast, and a filter that is wide enough passes the signal wherever it is, and every other sample is kept. With it comes noise from
beyond half of the sample rate: where a fifth is looked for, a third of the carriers have up to twice the noise, 1.2 dB more on
average (tests/blocks/test_carrier_offset.py); and other signals up to 0.75 of the sample rate away.
"""

from dataclasses import replace

from gnuradio import filter

from diffjscc.air.preset import BANDWIDTH

from .radios import DEVICES, chain, radio_source

#: Offset of two radios that is looked for where nothing is said, of the carrier's frequency.
OSCILLATORS = 20e-6

#: Largest carrier offsets, of the sample rate: of a receiver that is told nothing, of the radio's own filters, and of the detector.
USUAL, WITHIN, LARGEST = 0.05, 0.08, 0.2

#: From the pass band to where the filter stops, of the sample rate.
TRANSITION = 0.14


def max_offset(radio, hertz=None):
    """The largest carrier offset that ``radio`` is to look for, cycles/sample.

    hertz  as the user says; None: 20 ppm of a device's frequency, and 5 % of the sample rate at least

    Raises ValueError for one that is more than a fifth of the sample rate.
    """
    if hertz is None:
        drift = OSCILLATORS * radio.frequency if radio.kind in DEVICES else 0.0
        return min(max(USUAL, drift / radio.sample_rate), LARGEST)
    share = hertz / radio.sample_rate
    if not 0 < share <= LARGEST:
        expected = f"above 0 and at most {LARGEST * radio.sample_rate:g}, a fifth of the sample rate"
        raise ValueError(f"largest carrier offset of {hertz:g} Hz: must be {expected}; choose a higher sample rate")
    return share


def wide_front_end(share):
    """A block from samples at twice the sample rate to the samples of a signal that is up to ``share`` cycles/sample away."""
    edge = BANDWIDTH / 2 + share
    return filter.fir_filter_ccf(2, filter.firdes.low_pass(1.0, 2.0, edge + TRANSITION / 2, TRANSITION))


def offset_source(radio, share):
    """What `radio_source` gives, for carriers that are up to ``share`` cycles/sample away."""
    if radio.kind not in DEVICES or share <= WITHIN:
        return radio_source(radio)
    return chain(radio_source(replace(radio, sample_rate=2 * radio.sample_rate)), wide_front_end(share))
