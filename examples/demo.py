#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two photographs cross a GNU Radio channel at 1 dB SNR, at two rates; a contact sheet shows what arrived, and refined."""

import argparse
import queue
import sys
import time
from pathlib import Path

import pmt
from gnuradio import diffjscc, gr
from gnuradio.diffjscc.pdus import image_from_pdu
from symbol_loopback import SymbolLoopback
from tqdm import tqdm

from diffjscc.evaluate.contact_sheet import contact_sheet, error_image
from diffjscc.images import to_tensor, write_image
from diffjscc.metrics import ms_ssim, psnr
from diffjscc.symbols import ImageHeader

RATES = ("1/128", "1/32")
SNR_DB = 1.0


class ImageQueue(gr.basic_block):
    """Image PDUs into a Python queue of (pixels, metadata)."""

    def __init__(self):
        gr.basic_block.__init__(self, name="image_queue", in_sig=None, out_sig=None)
        self.images = queue.Queue()
        self.message_port_register_in(pmt.intern("images"))
        self.set_msg_handler(pmt.intern("images"), self._put)

    def _put(self, message):
        self.images.put(image_from_pdu(message))


def photographs():
    """The originals by name: photographs that scikit-image ships."""
    from skimage import data

    return {"astronaut": data.astronaut(), "coffee": data.coffee()}


def send(folder, rate, on_image):
    """Sends the images of a folder, in order; returns ([(pixels, metadata), …] as received, the same refined)."""
    flowgraph = SymbolLoopback(str(folder), rate, SNR_DB, folder="", refinement=diffjscc.LocalRefinement())
    ports = {"images": ImageQueue(), "refined": ImageQueue()}
    for port, images in ports.items():
        flowgraph.msg_connect((flowgraph.sink, port), (images, "images"))
    expected = len(list(folder.iterdir()))
    flowgraph.start()
    deadline = time.monotonic() + 120
    arrived = {port: [] for port in ports}
    while any(len(images) < expected for images in arrived.values()) and time.monotonic() < deadline:
        for port, waiting in ports.items():
            try:
                arrived[port].append(waiting.images.get(timeout=0.1))
                on_image()
            except queue.Empty:
                continue
    flowgraph.stop()
    flowgraph.wait()
    if any(len(images) < expected for images in arrived.values()):
        sys.exit(f"demo: not all of {expected} images arrived: {flowgraph.sink.counters()}")
    return arrived["images"], arrived["refined"]


def row(name, original, received, refined, metadata):
    """A row of the contact sheet: original | received | refined | error of the received."""
    header = ImageHeader.from_dict(metadata)
    height, width = original.shape[:2]

    def quality(pixels):
        a, b = to_tensor(pixels), to_tensor(original)
        return f"PSNR {psnr(a, b):.2f} dB, MS-SSIM {ms_ssim(a, b):.3f}"

    return [
        (original, f"{name}, {width} x {height}"),
        (
            received,
            f"R = {header.rate}, {header.symbol_count} symbols: {quality(received)}\n"
            f"SNR {header.tx_snr_db:.2f} dB asked, {metadata['snr_db']:.2f} dB measured",
        ),
        (refined, f"refined: {quality(refined)}"),
        (error_image(received, original), "error of the received, around grey"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the images (default: %(default)s)")
    out = parser.parse_args().out
    originals = photographs()
    for index, (name, pixels) in enumerate(originals.items()):
        write_image(out / "original" / f"{index}_{name}.png", pixels)
    rows = []
    with tqdm(total=2 * len(RATES) * len(originals), unit="image", desc="received and refined") as bar:
        for rate in RATES:
            images = zip(originals.items(), *send(out / "original", rate, bar.update))
            for (name, original), (received, metadata), (refined, _) in images:
                stem = f"{name}_R{rate.replace('/', '-')}"
                write_image(out / "received" / f"{stem}.png", received)
                write_image(out / "received" / f"{stem}_refined.png", refined)
                rows.append(row(name, original, received, refined, metadata))
    sheet = out / "contact_sheet.png"
    write_image(sheet, contact_sheet(rows))
    print(f"contact sheet: {sheet.resolve()}\nreceived images: {(out / 'received').resolve()}")


if __name__ == "__main__":
    main()
