# SPDX-License-Identifier: GPL-3.0-or-later
"""Image messages as other blocks send them: pixels, or the bytes of a file; and the files that become of them."""

import socket

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSink, wait_until
from conftest import photograph
from gnuradio import blocks, diffjscc, gr, network, pdu
from gnuradio.diffjscc.pdus import image_from_pdu, image_to_pdu

from diffjscc.images import read_image, to_pixels, to_tensor, write_image
from diffjscc.metrics import psnr


@pytest.fixture(scope="module")
def pixels():
    return to_pixels(photograph(96, 128))


def file_bytes(pixels, folder, suffix):
    write_image(folder / f"image{suffix}", pixels)
    return (folder / f"image{suffix}").read_bytes()


def bare(data):
    """A PDU without metadata."""
    return pmt.cons(pmt.PMT_NIL, pmt.init_u8vector(len(data), list(data)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_bytes_of_an_image_file_are_an_image(pixels, tmp_path, suffix):
    read, metadata = image_from_pdu(bare(file_bytes(pixels, tmp_path, suffix)))
    assert np.array_equal(read, read_image(tmp_path / f"image{suffix}"))
    assert (metadata["width"], metadata["height"]) == (128, 96)


def test_bytes_that_are_no_whole_file_are_one_line_that_names_the_cause(pixels, tmp_path):
    data = file_bytes(pixels, tmp_path, ".png")
    for cut in (b"", b"\x00" * 300, data[5000:], b"GIF89a"):
        with pytest.raises(ValueError, match="lacks width and height in its metadata, and is no JPEG, PNG or WebP file"):
            image_from_pdu(bare(cut))
    for cut in (
        data[: len(data) // 2],
        data[:40],
        b"\xff\xd8\xff",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 99,
    ):
        with pytest.raises(ValueError, match=r"such as Socket PDU with its MTU") as caught:
            image_from_pdu(bare(cut))
        assert "\n" not in str(caught.value) and f"{len(cut)} bytes" in str(caught.value)
    with pytest.raises(ValueError, match="no whole numbers as width and height"):
        image_from_pdu(pmt.cons(pmt.to_pmt({"width": 128}), pmt.init_u8vector(len(data), list(data))))


def test_an_image_sent_to_socket_pdu_crosses_the_link(pixels, tmp_path):
    """A JPEG by UDP → Socket PDU → jscc_source → jscc_sink."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source, sink, received = diffjscc.jscc_source(rate="1/16", snr_db=20.0), diffjscc.jscc_sink(), MessageSink()
    server = network.socket_pdu("UDP_SERVER", "127.0.0.1", str(port), 65000)
    flowgraph = gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect((server, "pdus"), (source, "images"))
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    flowgraph.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(file_bytes(pixels, tmp_path, ".jpg"), ("127.0.0.1", port))
    wait_until(lambda: received.messages)
    flowgraph.stop()
    flowgraph.wait()
    assert psnr(to_tensor(received.images()[0][0]), to_tensor(pixels)) > 18


def test_refined_files_are_called_so_whoever_writes_them(pixels, tmp_path):
    files, flowgraph, other = diffjscc.image_file_sink(str(tmp_path)), gr.top_block(), MessageSink()
    other.message_port_register_out(pmt.intern("out"))
    flowgraph.msg_connect((other, "out"), (files, "images"))
    flowgraph.start()
    for stage in ("initial", "refined", "refined", "nonsense"):
        files.to_basic_block()._post(pmt.intern("images"), image_to_pdu(pixels, {"image_id": 7, "stage": stage}))
    wait_until(lambda: files.counters()["written"] == 4)
    flowgraph.stop()
    flowgraph.wait()
    expected = ["000007-2.png", "000007.png", "000007_refined-2.png", "000007_refined.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


# Stock tagged streams.


def test_bursts_and_their_guard_cross_stock_tagged_stream_blocks(images):
    """tagged_stream_multiply_length ends a flowgraph in which a packet lacks its length tag."""
    source, sink = diffjscc.jscc_source(str(images), rate="1/64", snr_db=7.0), diffjscc.jscc_sink()
    flowgraph = gr.top_block()
    flowgraph.connect(source, blocks.tagged_stream_multiply_length(8, "packet_len", 1.0), sink)
    flowgraph.run()
    assert sink.counters()["decoded"] == 3 and sink.counters()["distorted"] == 0


def test_bursts_as_pdus_are_decoded_and_their_guards_ignored(images, capfd):
    source, decoder, received = diffjscc.jscc_source(str(images), rate="1/64", snr_db=7.0), diffjscc.jscc_decoder(), MessageSink()
    to_pdu, flowgraph = pdu.tagged_stream_to_pdu(gr.types.complex_t), gr.top_block()
    flowgraph.connect(source, to_pdu)
    flowgraph.msg_connect((to_pdu, "pdus"), (decoder, "symbols"))
    flowgraph.msg_connect((decoder, "images"), (received, "in"))
    flowgraph.run()
    assert decoder.counters() == {"received": 3, "decoded": 3, "truncated": 0, "dropped": {}, "undelivered": 0}
    assert "jscc_decoder" not in capfd.readouterr().out


def test_a_large_image_passes_pdu_to_tagged_stream_with_the_buffer_that_the_encoder_asks_for():
    """16 384 symbols, twice what a stock buffer holds."""
    encoder, decoder, received = diffjscc.jscc_encoder(rate="1/16", snr_db=10.0), diffjscc.jscc_decoder(), MessageSink()
    to_stream, to_pdu = pdu.pdu_to_tagged_stream(gr.types.complex_t), pdu.tagged_stream_to_pdu(gr.types.complex_t)
    to_stream.set_min_output_buffer(2 * 16384)
    flowgraph = gr.top_block()
    flowgraph.msg_connect((encoder, "symbols"), (to_stream, "pdus"))
    flowgraph.connect(to_stream, to_pdu)
    flowgraph.msg_connect((to_pdu, "pdus"), (decoder, "symbols"))
    flowgraph.msg_connect((decoder, "images"), (received, "in"))
    flowgraph.start()
    encoder.to_basic_block()._post(pmt.intern("images"), image_to_pdu(to_pixels(photograph(512, 512)), {}))
    wait_until(lambda: received.messages)
    flowgraph.stop()
    flowgraph.wait()
    assert received.images()[0][0].shape == (512, 512, 3)
