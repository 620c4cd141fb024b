# SPDX-License-Identifier: GPL-3.0-or-later
"""Pieces of flowgraphs that tests put together."""

import time

import numpy as np
import pmt
from gnuradio import gr
from gnuradio.diffjscc.pdus import image_from_pdu


class MessageSink(gr.basic_block):
    """Keeps what is published: ``messages``."""

    def __init__(self):
        gr.basic_block.__init__(self, name="message_sink", in_sig=None, out_sig=None)
        self.messages = []
        self.message_port_register_in(pmt.intern("in"))
        self.set_msg_handler(pmt.intern("in"), self._keep)

    def _keep(self, message):
        self.messages.append(message)

    def images(self):
        """[(pixels, metadata), …]"""
        return [image_from_pdu(message) for message in self.messages]


class MessageSource(gr.basic_block):
    """Publishes what a test gives it, while its flowgraph runs."""

    def __init__(self):
        gr.basic_block.__init__(self, name="message_source", in_sig=None, out_sig=None)
        self._port = pmt.intern("out")
        self.message_port_register_out(self._port)

    def publish(self, message):
        self.message_port_pub(self._port, message)


class SymbolSource(gr.sync_block):
    """Sends complex symbols with tags [(offset, key, value), …], in windows as small as ``chunk``, then ends."""

    def __init__(self, values, tags=(), chunk=1 << 30):
        gr.sync_block.__init__(self, name="symbol_source", in_sig=None, out_sig=[np.complex64])
        self._values, self._tags, self._chunk, self._sent = values, sorted(tags, key=lambda tag: tag[0]), chunk, 0

    def work(self, input_items, output_items):
        out = output_items[0]
        count = min(len(out), len(self._values) - self._sent, self._chunk)
        if count == 0:
            return -1
        out[:count] = self._values[self._sent : self._sent + count]
        for offset, key, value in self._tags:
            if self._sent <= offset < self._sent + count:
                self.add_item_tag(0, offset, pmt.intern(key), pmt.to_pmt(value))
        self._sent += count
        return count


def burst_tags(symbols, offset=0, **changes):
    """Tags of one burst at ``offset``; ``changes`` replace fields of its header or, as ``packet_len``, its length."""
    length = changes.pop("packet_len", len(symbols.values))
    return [(offset, "packet_len", length), (offset, "image_header", symbols.header.to_dict() | changes)]


def folder_without_files(base):
    """A folder that can be made, and in which no image can be written, not even by root: its files' paths are too long."""
    folder = base
    while len(str(folder)) < 4080:
        folder /= "x" * min(200, 4079 - len(str(folder)))
    return folder


def wait_until(condition, timeout=30.0):
    """Waits for a condition; raises AssertionError if it does not come true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
