#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated channel between two stand-in radios: what `diffjscc-tx --radio zmq` sends crosses GNU Radio's channel models.

diffjscc-tx --radio zmq ─► virtual_air.py ─► diffjscc-rx --radio zmq --address tcp://127.0.0.1:5501
"""

import argparse
import math
import sys

from gnuradio import blocks, channels, gr
from gnuradio import filter as filters
from gnuradio.diffjscc.radio_apps import command, run, sample_rate
from gnuradio.diffjscc.radios import ADDRESS, Radio, radio_sink, radio_source
from gnuradio.eng_arg import eng_float

from diffjscc.air.preset import BANDWIDTH

#: The taps of the fading channel: delays in samples, within the cyclic prefix, and amplitudes, of unit power together.
DELAYS = (0, 2, 5)
AMPLITUDES = tuple(math.sqrt(power) for power in (0.6, 0.3, 0.1))

#: Filters of the resampler; with as many its error is 60 dB below the signal.
RESAMPLER_FILTERS = 128


def clock(ppm):
    """A resampler to a clock that is ``ppm`` faster. GNU Radio's channel model passes the inner half of the band only."""
    edge = BANDWIDTH / 2
    taps = filters.firdes.low_pass_2(RESAMPLER_FILTERS, RESAMPLER_FILTERS, 0.5, 1 - 2 * edge, 70)
    return filters.pfb_arb_resampler_ccf(1 + 1e-6 * ppm, taps, RESAMPLER_FILTERS)


class VirtualAir(gr.top_block):
    """Takes samples of unit power from the Radio ``sender``, and gives what a receiver would get to the Radio ``listener``.

    snr_db    in the occupied bandwidth
    offset    of the carrier, cycles/sample
    ppm       how much faster the receiver's clock is
    doppler   of three Rayleigh taps, cycles/sample: 0 for ones that stand still, None for no fading
    delay     samples
    seed      of the noise and the fading
    """

    def __init__(self, sender, listener, snr_db, offset, ppm, doppler, delay, seed):
        gr.top_block.__init__(self, "Virtual air")
        stages = [radio_source(sender), blocks.delay(gr.sizeof_gr_complex, delay)]
        if doppler is not None:
            stages.append(channels.selective_fading_model(8, doppler, False, 0, seed, DELAYS, AMPLITUDES, max(DELAYS) + 1))
        if ppm:
            stages.append(clock(ppm))
        # The noise fills the sample rate, of which the signal occupies a part.
        noise = 10 ** (-snr_db / 20) / math.sqrt(BANDWIDTH)
        stages.append(channels.channel_model(noise, offset, noise_seed=seed))
        self.connect(*stages, radio_sink(listener))


def fading(text):
    """Doppler spread in Hz of an option; 0 for static, None for off."""
    return {"off": None, "static": 0.0}[text] if text in ("off", "static") else eng_float(text)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--from", dest="sender", default=ADDRESS, help="address of the transmitter (default: %(default)s)")
    add("--to", default="tcp://127.0.0.1:5501", help="address for the receiver (default: %(default)s)")
    add("--sample-rate", type=sample_rate, default="medium", help="samples/s, as for diffjscc-tx (default: %(default)s)")
    add("--snr", type=float, default=10.0, metavar="DB", help="in the occupied bandwidth (default: %(default)s)")
    add("--offset", type=eng_float, default=0.0, metavar="HZ", help="of the carrier, such as --offset=-20k (default: 0)")
    add("--ppm", type=float, default=0.0, help="how much faster the receiver's clock is (default: %(default)s)")
    add("--fading", type=fading, default="off", metavar="off|static|HZ", help="three taps and their Doppler spread (default: off)")
    add("--delay", type=int, default=0, metavar="N", help="samples (default: %(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="of noise and fading (default: %(default)s)")
    return parser


def carry(arguments):
    """Carries samples until the process is interrupted."""
    sender = Radio("zmq", address=arguments.sender, sample_rate=arguments.sample_rate)
    listener = Radio("zmq", address=arguments.to, sample_rate=arguments.sample_rate)
    doppler = None if arguments.fading is None else arguments.fading / arguments.sample_rate
    offset = arguments.offset / arguments.sample_rate
    run(VirtualAir(sender, listener, arguments.snr, offset, arguments.ppm, doppler, arguments.delay, arguments.seed))
    return 0


if __name__ == "__main__":
    sys.exit(command("virtual_air", carry, make_parser().parse_args()))
