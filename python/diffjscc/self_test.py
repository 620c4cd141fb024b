# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m gnuradio.diffjscc.self_test: sends an image from block to block, and prints how many arrived. 1 is right."""

import tempfile
from pathlib import Path

import numpy as np
from gnuradio import gr

from diffjscc.images import write_image

from .jscc_sink import jscc_sink
from .jscc_source import jscc_source


def send_image():
    """Sends a grey image from jscc_source to jscc_sink, without a channel; returns the number of images that were decoded."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        write_image(file, np.full((64, 96, 3), 100, np.uint8))
        source, sink, flowgraph = jscc_source(str(file)), jscc_sink(), gr.top_block()
        flowgraph.connect(source, sink)
        flowgraph.run()
    return sink.counters()["decoded"]


if __name__ == "__main__":
    print(send_image())
