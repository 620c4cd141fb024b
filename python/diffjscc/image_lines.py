# SPDX-License-Identifier: GPL-3.0-or-later
"""What diffjscc-rx prints: a line for each image."""

import collections

import numpy as np
import pmt
from gnuradio import gr

from diffjscc.air.header import unpack_image
from diffjscc.air.preset import find_preset

from .burst_stages import DETECTOR_DELAY
from .pdus import BURST_HEADER_TAG, CALLSIGN, image_from_pdu, tags_by_offset

#: Images whose bursts are remembered until the image is decoded.
REMEMBERED = 64


class image_log(gr.sync_block):
    """Makes a line for each image from its bursts and its PDU.

    Input: jscc_rx's symbols with their tags; message port ``images``: its PDUs, which wait for `lines`.

    sample_rate  samples/s, for carrier offsets in Hz
    preset       of the air interface, for the length of bursts
    recording    a recorder of the same samples, in which each burst is described; or None
    """

    def __init__(self, sample_rate, preset, recording=None):
        gr.sync_block.__init__(self, name="image_log", in_sig=[np.complex64], out_sig=None)
        self._sample_rate, self._preset, self._recording = sample_rate, find_preset(preset), recording
        self._bursts = collections.OrderedDict()
        self._images = pmt.intern("images")
        self.message_port_register_in(self._images)

    def work(self, input_items, output_items):
        for tags in tags_by_offset(self.get_tags_in_window(0, 0, len(input_items[0]))).values():
            self._note(tags)
        return len(input_items[0])

    def _note(self, tags):
        try:
            packed = bytes(pmt.u8vector_elements(tags[pmt.symbol_to_string(BURST_HEADER_TAG)]))
            fragment = unpack_image(packed, str)
            offset = pmt.to_double(tags["cfo"])
        except (KeyError, ValueError):
            return
        if self._recording is not None:
            self._describe(fragment, offset, tags)
        self._bursts.setdefault(fragment.header.image_id, []).append((fragment, offset))
        if len(self._bursts) > REMEMBERED:
            self._bursts.popitem(last=False)

    def _describe(self, fragment, offset, tags):
        """Annotates a burst in the recording."""
        header, snr_db = fragment.header, pmt.to_double(tags["snr_db"])
        self._recording.annotate(
            pmt.to_long(tags["burst_start"]) - DETECTOR_DELAY,
            self._preset.burst_len(pmt.to_long(tags["packet_len"]), CALLSIGN in tags),
            label=f"image {header.image_id}, {fragment.index + 1} of {fragment.count}",
            comment=f"{header.width}×{header.height}, SNR {snr_db:.1f} dB, CFO {round(self._sample_rate * offset):+d} Hz",
            image_id=header.image_id,
            fragment=fragment.index,
            fragments=fragment.count,
            codec=header.codec,
            snr_db=snr_db,
            cfo_hz=self._sample_rate * offset,
            clock_offset=pmt.to_double(tags["clock_offset"]),
        )

    def lines(self):
        """A line for each image that came since the last call."""
        # Messages are read here, not by a handler: the last images come when the flowgraph has stopped, and handlers with it.
        while (message := self.to_basic_block().delete_head_nowait(self._images)) is not None:
            _, metadata = image_from_pdu(message)
            yield self._line(metadata)

    def _line(self, metadata):
        name = f"image {metadata['image_id']}"
        if metadata["stage"] == "refined":
            return f"{name}: refined"
        words = [f"{metadata['width']}×{metadata['height']}", f"SNR {metadata['snr_db']:.1f} dB"]
        if CALLSIGN in metadata:
            words.insert(0, f"from {metadata[CALLSIGN]}")
        bursts = self._bursts.pop(metadata["image_id"], [])
        if bursts:
            mean = sum(offset for _, offset in bursts) / len(bursts)
            words.append(f"CFO {round(self._sample_rate * mean):+d} Hz")
            count = bursts[0][0].count
            lost = count - len({fragment.index for fragment, _ in bursts})
            if lost:
                words.append(f"{lost} of {count} fragments lost")
        if metadata["truncated"]:
            words.append("truncated")
        return f"{name}: {', '.join(words)}"
