# SPDX-License-Identifier: GPL-3.0-or-later
"""Flowgraphs that are stopped, and started again: nothing takes long, nothing is lost in silence, nothing begins in the middle."""

import gc
import threading
import time
import weakref

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSink, SymbolSource, burst_tags, wait_until
from conftest import photograph
from gnuradio import blocks, diffjscc, gr
from gnuradio.diffjscc.pdus import image_to_pdu, symbols_to_pdu
from refine.tiny import diffusion_refiner

from diffjscc.air.header import Fragment, pack_image
from diffjscc.images import to_pixels, write_image


def workers():
    return [thread for thread in threading.enumerate() if thread.name in ("diffjscc-worker", "jscc_source")]


def stop(flowgraph):
    """Seconds that it takes."""
    start = time.monotonic()
    flowgraph.stop()
    flowgraph.wait()
    return time.monotonic() - start


@pytest.fixture
def photographs(tmp_path):
    write_image(tmp_path / "sent" / "image.png", to_pixels(photograph(384, 576)))
    return str(tmp_path / "sent")


def running(source, sink, rate=None):
    """A started flowgraph source → sink."""
    flowgraph = gr.top_block()
    flowgraph.connect(source, *([] if rate is None else [blocks.throttle(8, rate)]), sink)
    flowgraph.start()
    return flowgraph


def test_with_drop_a_slow_refiner_does_not_delay_stopping(photographs, tmp_path, capfd):
    """Twelve images wait for the bundled refiner, several seconds' work."""
    refinement = diffjscc.LocalRefinement("mini", queue_size=12)
    sink = diffjscc.jscc_sink(folder=str(tmp_path / "received"), refinement=refinement, on_full="drop")
    flowgraph = running(diffjscc.jscc_source(photographs, repeat=True), sink)
    wait_until(lambda: refinement.unfinished > 10, 60)
    assert stop(flowgraph) < 2.0
    counters, reasons = sink.counters(), sink.reasons()
    # What was waiting is counted, all of it, when stopping returns.
    assert counters["refined"] + counters["unrefined"] == counters["decoded"]
    assert counters["received"] == counters["decoded"] + sum(counters["dropped"].values())
    assert counters["written"] + counters["unwritten"] == counters["decoded"] + counters["refined"]
    assert reasons["unrefined"]["stopped"] > 5
    lines = [line for line in capfd.readouterr().out.splitlines() if "stopped with" in line]
    assert len(lines) == 1 and f"{reasons['unrefined']['stopped']} images unrefined" in lines[0]


def test_a_refinement_of_many_steps_is_interrupted_between_two(images, tmp_path, capfd):
    """A thousand steps, of which each takes milliseconds."""
    refiner = diffusion_refiner(text=False)
    refiner.register_to_config(defaults={"num_inference_steps": 1000})
    refiner.save_pretrained(tmp_path / "patient")
    refinement = diffjscc.LocalRefinement(str(tmp_path / "patient"))
    sink = diffjscc.jscc_sink(refinement=refinement, on_full="drop")
    flowgraph = running(diffjscc.jscc_source(str(images), repeat=True), sink, rate=20e3)
    wait_until(lambda: refinement._refiner is not None, 60)
    assert stop(flowgraph) < 2.0
    wait_until(lambda: not workers(), 10)
    assert sink.counters()["refined"] == 0 and sink.counters()["unrefined"] == sink.counters()["decoded"] > 0
    # A second start finds all in order.
    before = sink.counters()["decoded"]
    flowgraph.start()
    wait_until(lambda: sink.counters()["decoded"] > before)
    assert stop(flowgraph) < 2.0


def test_with_wait_stopping_says_what_it_waits_for_and_finishes_it(photographs, capfd):
    refinement = diffjscc.LocalRefinement("mini", queue_size=3)
    sink = diffjscc.jscc_sink(refinement=refinement)
    flowgraph = running(diffjscc.jscc_source(photographs, repeat=True), sink, rate=30e3)
    wait_until(lambda: refinement.unfinished >= 3, 60)
    stop(flowgraph)
    assert sink.counters()["refined"] == sink.counters()["decoded"] > 0 and not sink.reasons()
    lines = [line for line in capfd.readouterr().out.splitlines() if "stop" in line]
    assert len(lines) == 1 and "images to refine; waiting for at most 60 s" in lines[0]


class Recorder(gr.sync_block):
    """``runs``: for each start, the symbols and the tags {offset among them: {name: value}} that came."""

    def __init__(self):
        gr.sync_block.__init__(self, name="recorder", in_sig=[np.complex64], out_sig=None)
        self.runs = []

    def start(self):
        self.runs.append(([], {}))
        self._begin = self.nitems_read(0)
        return True

    def work(self, input_items, output_items):
        parts, tags = self.runs[-1]
        for tag in self.get_tags_in_window(0, 0, len(input_items[0])):
            tags.setdefault(tag.offset - self._begin, {})[pmt.symbol_to_string(tag.key)] = pmt.to_python(tag.value)
        parts.append(np.array(input_items[0]))
        return len(input_items[0])

    def received(self, run):
        """(symbols, tags) of a run."""
        parts, tags = self.runs[run]
        return np.concatenate([*parts, np.zeros(0, np.complex64)]), tags

    def whole(self, run):
        """[(image_id, symbols), …] of the bursts that came to their end."""
        symbols, tags = self.received(run)
        begins = [(at, values) for at, values in sorted(tags.items()) if "image_header" in values]
        bursts = [(at, values["packet_len"], values["image_header"]["image_id"]) for at, values in begins]
        return [(image_id, symbols[at : at + length]) for at, length, image_id in bursts if at + length <= len(symbols)]


#: Symbols of a burst of the images below, at rate 1/16.
BURST = 160 * 224 // 16


def cut(source):
    """Runs a source until it is in the middle of its second burst, stops it and runs it to its end; returns the Recorder."""
    recorder, throttle = Recorder(), blocks.throttle(8, 5e3)
    throttle.set_max_noutput_items(50)
    # Little on the way, so that the source is in the middle of a burst too.
    for block in (source, throttle):
        block.set_max_output_buffer(512)
    flowgraph = gr.top_block()
    flowgraph.connect(source, throttle, recorder)
    flowgraph.start()
    wait_until(lambda: sum(map(len, recorder.runs[0][0])) > 1.4 * BURST)
    flowgraph.stop()
    flowgraph.wait()
    assert sum(map(len, recorder.runs[0][0])) < 2 * BURST
    return flowgraph, recorder


def test_a_source_that_starts_again_begins_with_a_whole_tagged_burst(images, lite):
    source = diffjscc.jscc_source(str(images), rate="1/16", snr_db=7.0)
    flowgraph, recorder = cut(source)
    first, _ = recorder.received(0)
    assert source.counters()["sent"] == 1
    flowgraph.run()
    symbols, tags = recorder.received(1)
    assert tags[0]["packet_len"] == BURST and tags[0]["image_header"]["image_id"] == 1
    # The image that was cut is sent again from its beginning, then what follows.
    assert np.array_equal(symbols[: len(first) - BURST - 48], first[BURST + 48 :])
    assert [image_id for image_id, _ in recorder.whole(0) + recorder.whole(1)] == [0, 1, 2]
    assert source.counters() == {"sent": 3, "skipped": 0, "waiting": 0}
    # It had come to its end: the next start is a pass of its own.
    flowgraph.run()
    assert [image_id for image_id, _ in recorder.whole(2)] == [3, 4, 5]


def test_a_search_for_better_symbols_does_not_delay_stopping(images):
    """Ten thousand steps, of which each takes tens of milliseconds."""
    source, recorder = diffjscc.jscc_source(str(images / "coffee.png"), rate="1/16", effort=10_000), Recorder()
    flowgraph = gr.top_block()
    flowgraph.connect(source, recorder)
    flowgraph.start()
    wait_until(lambda: source._steps > 3)
    assert stop(flowgraph) < 2.0 and not len(recorder.received(0)[0])
    wait_until(lambda: not workers(), 10)
    flowgraph.run()
    # With what had been found by then.
    assert [image_id for image_id, _ in recorder.whole(1)] == [0]


def test_images_of_the_message_port_outlast_a_stop(capfd):
    source = diffjscc.jscc_source(rate="1/16", snr_db=7.0)
    for _ in range(6):
        source.to_basic_block()._post(pmt.intern("images"), image_to_pdu(to_pixels(photograph(160, 224)), {}))
    flowgraph, recorder = cut(source)
    counters = source.counters()
    assert counters == {"sent": 1, "skipped": 0, "waiting": 5}
    assert "stopped with 5 images not sent" in capfd.readouterr().out
    flowgraph.start()
    wait_until(lambda: len(recorder.whole(1)) == 5)
    flowgraph.stop()
    flowgraph.wait()
    assert [image_id for image_id, _ in recorder.whole(0) + recorder.whole(1)] == [0, 1, 2, 3, 4, 5]
    assert source.counters() == {"sent": 6, "skipped": 0, "waiting": 0}


def test_a_transmitter_that_starts_again_begins_with_a_whole_burst_and_counts_what_was_cut(images):
    transmitter = diffjscc.jscc_tx(str(images), rate="1/16", repeat=True, burst_symbols=BURST // 4)
    recorder, throttle = Recorder(), blocks.throttle(8, 50e3)
    flowgraph = gr.top_block()
    flowgraph.connect(transmitter, throttle, recorder)
    for run in (0, 1):
        flowgraph.start()
        wait_until(lambda run=run: sum(map(len, recorder.runs[run][0])) > 4000)
        flowgraph.stop()
        flowgraph.wait()
        symbols, tags = recorder.received(run)
        assert tags[0]["tx_sob"] and tags[0]["packet_len"] > BURST // 4 and abs(symbols[0]) > 0.9
    bursts = transmitter.counters()["bursts"]
    assert bursts["sent"] > 0 and bursts["dropped"].keys() <= {"stopped"}


def test_a_sink_that_starts_again_counts_symbols_from_the_first(lite):
    """With "wait" it keeps the last symbol of a window, which must not cost the first burst after a restart."""
    symbols = lite.encode(photograph(64, 64), 10.0, "1/64")
    sink, received = diffjscc.jscc_sink(), MessageSink()
    for run in range(3):
        source, flowgraph = SymbolSource(symbols.values, burst_tags(symbols, image_id=run), chunk=11), gr.top_block()
        flowgraph.connect(source, sink)
        flowgraph.msg_connect((sink, "images"), (received, "in"))
        flowgraph.run()
    assert [metadata["image_id"] for _, metadata in received.images()] == [0, 1, 2]
    assert sink.counters()["truncated"] == 0 and sink.counters()["stray"] == 0


def test_a_source_that_has_ended_is_freed_with_its_buffers(images):
    """Shared memory is scarce: a system has 4096 pieces, and each stream takes one."""
    source, flowgraph = diffjscc.jscc_source(str(images / "coffee.png")), gr.top_block()
    flowgraph.connect(source, blocks.null_sink(8))
    flowgraph.run()
    alive = weakref.ref(source)
    del source, flowgraph
    gc.collect()
    assert alive() is None


# What is decoded while a flowgraph ends.


class SlowSink(diffjscc.jscc_sink):
    """A sink whose decoder takes its time."""

    seconds = 0.04

    def _decode(self, burst):
        time.sleep(self.seconds)
        return super()._decode(burst)


class SlowSubscriber(MessageSink):
    """Takes longer for an image than the decoder."""

    def _keep(self, message):
        time.sleep(0.07)
        super()._keep(message)


def many(symbols, count):
    """A source of ``count`` bursts, all at once."""
    length = len(symbols.values)
    tags = [tag for index in range(count) for tag in burst_tags(symbols, index * length, image_id=index)]
    return SymbolSource(np.tile(symbols.values, count), tags)


@pytest.mark.parametrize("on_full", ["wait", "drop"])
def test_images_decoded_after_the_stream_s_end_reach_slow_subscribers(lite, on_full):
    symbols = lite.encode(photograph(64, 64), 10.0, "1/64")
    for _ in range(3):
        source, sink, flowgraph = many(symbols, 4), SlowSink(on_full=on_full, queue_size=5), gr.top_block()
        # Loading it may last longer than "drop" waits.
        sink._receiver._codec("lite")
        subscriber, status = SlowSubscriber(), MessageSink()
        flowgraph.connect(source, sink)
        flowgraph.msg_connect((sink, "images"), (subscriber, "in"))
        flowgraph.msg_connect((sink, "status"), (status, "in"))
        flowgraph.run()
        assert [metadata["image_id"] for _, metadata in subscriber.images()] == [0, 1, 2, 3]
        counters = sink.counters()
        assert (counters["decoded"], counters["published"], counters["undelivered"]) == (4, 4, 0)


def test_with_drop_a_stream_s_end_waits_no_longer_than_a_stop(lite):
    symbols = lite.encode(photograph(64, 64), 10.0, "1/64")
    source, sink, flowgraph = many(symbols, 80), SlowSink(on_full="drop", queue_size=90), gr.top_block()
    flowgraph.connect(source, sink)
    start = time.monotonic()
    flowgraph.run()
    assert time.monotonic() - start < 2.0
    counters = sink.counters()
    assert counters["decoded"] > 3 and counters["decoded"] + counters["dropped"]["stopped"] == 80


def half_an_image(lite):
    """The first of an image's two fragments, and its tags."""
    symbols = lite.encode(photograph(64, 64), 10.0, "1/64")
    fragment = Fragment(symbols.header, 0, 2)
    packed = np.frombuffer(pack_image(fragment), np.uint8)
    return symbols.values[: fragment.length], [(0, "burst_header", packed), (0, "packet_len", fragment.length)]


@pytest.mark.parametrize("on_full", ["wait", "drop"])
def test_an_image_whose_fragments_the_stream_s_end_cuts_is_delivered_at_once(lite, on_full):
    source, sink, received, flowgraph = SymbolSource(*half_an_image(lite)), SlowSink(on_full=on_full), MessageSink(), gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.msg_connect((sink, "images"), (received, "in"))
    start = time.monotonic()
    flowgraph.run()
    # Not after the deadline, two seconds.
    assert time.monotonic() - start < 1.8
    assert [metadata["truncated"] for _, metadata in received.images()] == [True]


class Paused(SymbolSource):
    """Sends what it has, and then nothing for ever."""

    def work(self, input_items, output_items):
        count = super().work(input_items, output_items)
        if count == -1:
            time.sleep(0.01)
        return max(0, count)


class CountingSink(diffjscc.jscc_sink):
    """Counts the calls of its work."""

    calls = 0

    def work(self, input_items, output_items):
        self.calls += 1
        return super().work(input_items, output_items)


@pytest.mark.parametrize("on_full", ["wait", "drop"])
def test_waiting_for_the_rest_of_an_image_takes_no_processor_time(lite, on_full):
    source, sink, flowgraph = Paused(*half_an_image(lite)), CountingSink(on_full=on_full, deadline=60.0), gr.top_block()
    flowgraph.connect(source, sink)
    flowgraph.start()
    wait_until(lambda: sink._incoming._gatherer.waiting)
    before = sink.calls
    time.sleep(0.5)
    calls = sink.calls - before
    flowgraph.stop()
    flowgraph.wait()
    assert calls < 150


@pytest.mark.parametrize("on_full", ["wait", "drop"])
def test_images_decoded_while_a_flowgraph_is_stopped_are_delivered_or_counted(photographs, on_full, capfd):
    sink, subscriber = SlowSink(on_full=on_full, queue_size=4), MessageSink()
    flowgraph = gr.top_block()
    flowgraph.connect(diffjscc.jscc_source(photographs, repeat=True), sink)
    flowgraph.msg_connect((sink, "images"), (subscriber, "in"))
    undelivered = 0
    for _ in range(4):
        before = len(subscriber.messages)
        flowgraph.start()
        wait_until(lambda before=before: len(subscriber.messages) > before + 2)
        assert stop(flowgraph) < (2.0 if on_full == "drop" else 10.0)
        left = sink.counters()["undelivered"] - undelivered
        undelivered += left
        told = f"{left} images that no subscriber took" in capfd.readouterr().out
        assert told == (left > 0)
        # Those that were left the last time have been handled since.
        assert len(subscriber.messages) + left == sink.counters()["published"]
    assert undelivered > 0


def test_an_encoder_s_search_for_better_symbols_does_not_delay_stopping(capfd):
    """Ten thousand steps, of which each takes tens of milliseconds."""
    encoder, flowgraph = diffjscc.jscc_encoder(rate="1/16", effort=10_000), gr.top_block()
    received = MessageSink()
    flowgraph.msg_connect((encoder, "symbols"), (received, "in"))
    flowgraph.start()
    for _ in range(2):
        encoder.to_basic_block()._post(pmt.intern("images"), image_to_pdu(to_pixels(photograph(64, 64)), {}))
    wait_until(lambda: encoder._transmitter._codec is not None)
    time.sleep(0.3)
    assert stop(flowgraph) < 2.0
    assert encoder.counters() == {"sent": 1, "skipped": 1, "undelivered": 1}
    assert "stopped with 1 images not encoded, and 1 that no subscriber took" in capfd.readouterr().out


def test_a_decoder_that_is_stopped_says_what_it_leaves(lite, capfd):
    symbols = lite.encode(photograph(64, 64), 10.0, "1/64")
    decoder, received, flowgraph = diffjscc.jscc_decoder(), MessageSink(), gr.top_block()
    flowgraph.msg_connect((decoder, "images"), (received, "in"))
    decode, begun, go_on = decoder._receiver.decode, threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert go_on.wait(30)
        return decode(*arguments)

    decoder._receiver.decode = slow
    flowgraph.start()
    for _ in range(5):
        decoder.to_basic_block()._post(pmt.intern("symbols"), symbols_to_pdu(symbols.values, symbols.header.to_dict()))
    assert begun.wait(30)
    flowgraph.stop()
    go_on.set()
    flowgraph.wait()
    counters = {"received": 5, "decoded": 1, "truncated": 0, "dropped": {"stopped": 4}, "undelivered": 1}
    assert decoder.counters() == counters and not received.messages
    assert "stopped with 4 messages not decoded, and 1 images that no subscriber took" in capfd.readouterr().out
