#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images → JSCC source → GNU Radio channel model → JSCC sink → images: the ideal symbol channel as a flowgraph."""

import argparse

from gnuradio import channels, diffjscc, gr


class SymbolLoopback(gr.top_block):
    """One flowgraph; ``sink`` has the message ports ``images`` and ``refined``, and the counters.

    source      a file, a folder or a glob
    rate        channel uses per pixel
    snr_db      SNR of the channel, dB, known to the encoder; the sink estimates it
    folder      where received images are written; "" for none
    seed        of the channel's noise
    refinement  LocalRefinement or RemoteRefinement, to repaint received images; None for none
    """

    def __init__(self, source, rate="1/128", snr_db=1.0, folder="received", seed=1, refinement=None):
        gr.top_block.__init__(self, "Symbol loopback")
        self.source = diffjscc.jscc_source(source, rate=rate, snr_db=snr_db)
        # The model's resampler reads three samples ahead while tags stay in place; the taps bring them together again.
        # Its noise voltage squared is the variance of a complex sample.
        self.channel = channels.channel_model(noise_voltage=10 ** (-snr_db / 20), taps=[0, 0, 0, 1], noise_seed=seed)
        self.sink = diffjscc.jscc_sink(folder=folder, refinement=refinement)
        self.connect(self.source, self.channel, self.sink)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="an image, a folder of images, or a quoted pattern")
    parser.add_argument("--rate", default="1/128", help="channel uses per pixel (default: %(default)s)")
    parser.add_argument("--snr", type=float, default=1.0, help="SNR of the channel in dB (default: %(default)s)")
    parser.add_argument("--out", default="received", help="folder for received images (default: %(default)s)")
    parser.add_argument("--refine", choices=("none", "local"), default="none", help="repaint what was received")
    arguments = parser.parse_args()
    try:
        refinement = diffjscc.LocalRefinement() if arguments.refine == "local" else None
        flowgraph = SymbolLoopback(arguments.source, arguments.rate, arguments.snr, arguments.out, refinement=refinement)
    except ValueError as error:
        parser.error(str(error))
    flowgraph.run()
    counters = flowgraph.sink.counters()
    print(f"{counters['decoded']} of {counters['received']} images decoded → {arguments.out}")


if __name__ == "__main__":
    main()
