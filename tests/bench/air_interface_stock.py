# SPDX-License-Identifier: GPL-3.0-or-later
"""GNU Radio's stock OFDM transmitter and receiver over the same channel, for air_interface.py."""

import numpy as np
import pmt
from air_interface_link import Channel
from gnuradio import blocks, digital, gr

FFT_LEN = 64

#: Bytes of a packet, and of the longest that its buffers hold comfortably.
PACKET, LONG_PACKET = 96, 400

#: A tenth of a subcarrier, cycles/sample. The chain's carriers, 48 and 4 pilots of 64, occupy what ours do: 13/16.
CFO = 0.1 / FFT_LEN

#: Header BPSK, payload QPSK.
_MODULATION = {"fft_len": FFT_LEN, "bps_header": 1, "bps_payload": 2}

_LENGTH = "packet_length"


def draw_packets(count, rng, size=PACKET):
    return [rng.bytes(size) for _ in range(count)]


def modulate(packets):
    """The samples of each packet, all of one size: complex64 arrays."""
    data, size = np.frombuffer(b"".join(packets), np.uint8), len(packets[0])
    tags = [
        gr.tag_utils.python_to_tag((begin, pmt.intern(_LENGTH), pmt.from_long(size), pmt.PMT_F))
        for begin in range(0, len(data), size)
    ]
    flowgraph, sink = gr.top_block(), blocks.vector_sink_c()
    source = blocks.vector_source_b(data.tolist(), False, 1, tags)
    flowgraph.connect(source, digital.ofdm_tx(packet_length_tag_key=_LENGTH, **_MODULATION), sink)
    flowgraph.run()
    return np.split(np.array(sink.data(), np.complex64), len(packets))


def receiver():
    return digital.ofdm_rx(packet_length_tag_key=_LENGTH, **_MODULATION)


def receive(samples):
    """The packets whose checksum was right."""
    flowgraph, sink = gr.top_block(), blocks.vector_sink_b()
    flowgraph.connect(blocks.vector_source_c(samples), receiver(), sink)
    flowgraph.run()
    data = bytes(sink.data())
    return [data[begin : begin + PACKET] for begin in range(0, len(data), PACKET)]


def delivery(snr_db, count, rng):
    """Share of packets that arrive."""
    packets = draw_packets(count, rng)
    samples = Channel(snr_db, cfo=CFO)(modulate(packets), rng)
    return len(set(packets) & set(receive(samples))) / count


def preamble_level_db():
    """Power of the two preamble symbols over that of the packet: 3.10 sends QPSK payloads at four times BPSK's power, dB."""
    packets = modulate(draw_packets(100, np.random.default_rng(1)))
    preamble = 2 * (FFT_LEN + FFT_LEN // 4)
    powers = [(np.mean(np.abs(packet[:preamble]) ** 2), np.mean(np.abs(packet) ** 2)) for packet in packets]
    return 10 * np.log10(np.divide(*np.mean(powers, axis=0)))
