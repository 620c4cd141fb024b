# SPDX-License-Identifier: GPL-3.0-or-later
"""Diffusion-aided joint source-channel coding of images (Yang et al., arXiv 2404.17736).

    codec = diffjscc.load_codec()                                  # image ─► symbols, and back
    symbols = codec.encode(image, snr_db=1.0, rate="1/128")        # image: float (3, H, W) in [0, 1]
    reception = diffjscc.transmit(symbols, snr_db=1.0)             # noise of a simulated channel
    initial = codec.decode(reception, symbols.header)
    refiner = diffjscc.load_refiner()                              # on this machine …
    refined = refiner(initial, reception.snr_db).images[0]         # a PIL image
    client = diffjscc.RefineClient("tcp://gpu:5555")               # … or by a service on another

This package never imports GNU Radio; the blocks are `gnuradio.diffjscc`. Its names are imported on first use:
`import diffjscc` imports neither torch nor zmq.
"""

from typing import TYPE_CHECKING

from .lazy import on_first_use

if TYPE_CHECKING:
    from .channel import transmit
    from .hub import load_codec, load_refiner
    from .serve import RefineClient

__version__ = "0.1.0"

__all__ = ["RefineClient", "__version__", "load_codec", "load_refiner", "transmit"]

__getattr__, __dir__ = on_first_use(
    globals(), {"RefineClient": ".serve", "load_codec": ".hub", "load_refiner": ".hub", "transmit": ".channel"}
)
