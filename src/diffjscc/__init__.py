# SPDX-License-Identifier: GPL-3.0-or-later
"""Diffusion-aided joint source-channel coding of images (Yang et al., arXiv 2404.17736).

    codec = diffjscc.load_codec()                                  # image ─► symbols, and back
    symbols = codec.encode(image, snr_db=1.0, rate="1/128")        # image: float (3, H, W) in [0, 1]
    reception = diffjscc.transmit(symbols, snr_db=1.0)             # noise of a simulated channel
    initial = codec.decode(reception, symbols.header)
    refined = diffjscc.load_refiner()(initial, reception.snr_db)   # on this machine …
    client = diffjscc.RefineClient("tcp://gpu:5555")               # … or by a service on another

This package never imports GNU Radio; the blocks are `gnuradio.diffjscc`. Its names are imported on first use:
`import diffjscc` imports neither torch nor zmq.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .channel import transmit
    from .hub import load_codec, load_refiner
    from .serve import RefineClient

__version__ = "0.1.0"

__all__ = ["RefineClient", "__version__", "load_codec", "load_refiner", "transmit"]

#: The module that each name is imported from.
_HOMES = {"RefineClient": ".serve", "load_codec": ".hub", "load_refiner": ".hub", "transmit": ".channel"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
