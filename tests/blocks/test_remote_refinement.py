# SPDX-License-Identifier: GPL-3.0-or-later
"""Images refined by a service: whatever becomes of it, samples flow and initial images stand."""

import threading
import time

import numpy as np
import pmt
import pytest
from blocks.flowgraphs import MessageSink, wait_until
from gnuradio import blocks, diffjscc, gr
from gnuradio.diffjscc.pdus import image_to_pdu
from gnuradio.diffjscc.refinement import ADDRESS
from serve.processes import ServerProcess, image

from diffjscc.cli import main
from diffjscc.images import read_image
from diffjscc.serve import addresses, keys

#: Where nobody listens.
NOWHERE = "tcp://127.0.0.1:9"

#: Symbols/s of a live link: ten of conftest's images a second.
RATE = 10 * 160 * 224 / 128


def service(*arguments):
    """A server whose model inverts images, whatever their seeds."""
    return ServerProcess("--any-seed", *arguments)


@pytest.fixture
def warnings(monkeypatch):
    """Lines that the blocks logged about refinement; not those of a busy machine's decoder, and of stopping."""
    lines = []

    def warn(block, line):
        if not line.startswith(("burst dropped", "stop")):
            lines.append(line)

    for block in (diffjscc.jscc_sink, diffjscc.refine_client):
        monkeypatch.setattr(block, "_warn", warn)
    return lines


class Link:
    """A folder of images sent again and again, a jscc_sink at the end of it, and what comes out, in ``folder`` too.

    rate     symbols/s; none: as fast as the sink takes them
    options  of RemoteRefinement; those of the sink are named
    """

    def __init__(self, images, folder, rate=None, repeat=True, on_full="wait", queue_size=4, **options):
        self.folder = folder
        refinement = diffjscc.RemoteRefinement(**{"refiner": "stub"} | options)
        self.source = diffjscc.jscc_source(str(images), rate="1/128", snr_db=7.0, repeat=repeat)
        self.sink = diffjscc.jscc_sink(
            snr_db=7.0, folder=str(folder), on_full=on_full, queue_size=queue_size, refinement=refinement
        )
        self.initial, self.refined = MessageSink(), MessageSink()
        self.flowgraph = gr.top_block()
        stages = [self.source, self.sink]
        if rate is not None:
            # In pieces of a burst, as from a radio; by itself it lets seconds' worth through at once.
            throttle = blocks.throttle(gr.sizeof_gr_complex, rate)
            throttle.set_max_noutput_items(280)
            stages.insert(1, throttle)
        self.flowgraph.connect(*stages)
        self.flowgraph.msg_connect((self.sink, "images"), (self.initial, "in"))
        self.flowgraph.msg_connect((self.sink, "refined"), (self.refined, "in"))

    def __enter__(self):
        self.flowgraph.start()
        return self

    def __exit__(self, *error):
        self.flowgraph.stop()
        self.flowgraph.wait()


def assert_none_lost(link):
    """Every image that came was decoded or counted, came back refined or was counted, and was written or counted."""
    counters = link.sink.counters()
    assert counters["received"] == counters["decoded"] + sum(counters["dropped"].values())
    assert counters["refined"] + counters["unrefined"] == counters["decoded"] > 0
    assert counters["written"] + counters["unwritten"] == counters["decoded"] + counters["refined"]
    # Files, because what is decoded when a flowgraph is stopped is published to blocks that have stopped already.
    assert len(list(link.folder.glob("*.png"))) == counters["written"] > 0


def test_images_come_twice_and_the_refined_ones_from_the_service(images, tmp_path):
    with service() as server:
        link = Link(images, tmp_path, repeat=False, address=server.address)
        link.flowgraph.run()
    assert len(link.initial.messages) == len(link.refined.messages) == 3
    initial = {metadata["image_id"]: pixels for pixels, metadata in link.initial.images()}
    for pixels, metadata in link.refined.images():
        assert metadata["stage"] == "refined" and metadata["snr_db"] == 7.0
        assert np.array_equal(pixels, 255 - initial[metadata["image_id"]])
        assert np.array_equal(read_image(tmp_path / f"{metadata['image_id']:06d}_refined.png"), pixels)
    assert link.sink.counters()["refined"] == 3 and link.sink.counters()["unrefined"] == 0


def test_the_initial_image_does_not_wait_for_the_refined_one(images, tmp_path):
    with service("--seconds", "1.5") as server, Link(images, tmp_path, rate=RATE, address=server.address) as link:
        wait_until(lambda: len(link.initial.messages) == 3)
        assert not link.refined.messages
        wait_until(lambda: link.refined.messages)


def test_keys_open_the_service_to_a_sink(images, tmp_path):
    for folder, name in (("server", "server"), ("clients", "radio")):
        keys.generate(tmp_path / folder, name)
    (tmp_path / "clients/radio.key_secret").rename(tmp_path / "radio.key_secret")
    with service("--keys", tmp_path / "server", "--clients", tmp_path / "clients") as server:
        ours = {"server_key": str(tmp_path / "server/server.key"), "secret_key": str(tmp_path / "radio.key_secret")}
        link = Link(images, tmp_path / "received", repeat=False, address=server.address, **ours)
        link.flowgraph.run()
    assert len(link.refined.messages) == 3


@pytest.mark.parametrize(("on_full", "deadline", "least", "most"), [("wait", 7.0, 7.0, 20.0), ("drop", 60.0, 0.0, 15.0)])
def test_a_service_that_is_not_there_costs_no_initial_image_and_one_line(
    images, tmp_path, warnings, on_full, deadline, least, most
):
    """With "wait" the flowgraph ends when the images' deadline has passed; a live radio does not wait for what is not there."""
    link = Link(images, tmp_path, repeat=False, address=NOWHERE, on_full=on_full, deadline=deadline)
    start = time.monotonic()
    link.flowgraph.run()
    assert least <= time.monotonic() - start < most
    assert link.sink.counters()["refined"] == 0
    ending = [line for line in warnings if line.startswith("the stream has ended")]
    assert ending == (["the stream has ended; the flowgraph ends after 3 images to refine"] if on_full == "wait" else [])
    warnings[:] = [line for line in warnings if line not in ending]
    assert_none_lost(link)
    assert len(warnings) == 1 and "cannot be reached" in warnings[0]


def test_a_service_that_starts_later_refines_what_a_finished_stream_left(images, tmp_path, warnings):
    with service() as server:
        address = server.address
    link = Link(images, tmp_path, repeat=False, address=address, deadline=30.0)
    link.flowgraph.start()
    # Seconds after the stream's end, when the service has long been found to be away.
    wait_until(lambda: any(line.startswith("the stream has ended") for line in warnings))
    with service("--bind", address):
        link.flowgraph.wait()
    assert len(link.refined.messages) == link.sink.counters()["refined"] == 3


def test_a_killed_service_is_missed_by_nobody_and_taken_up_again(images, tmp_path, warnings):
    """kill -9 while it is busy, thirty images without it, and a new one at the same address."""

    def losses():
        # A slow disk may be told of too.
        return [line for line in warnings if "was lost" in line]

    server = service("--seconds", "0.3", "--max-batch", "1")
    with Link(images, tmp_path, rate=RATE, address=server.address, deadline=2.0, on_full="drop") as link:
        wait_until(lambda: len(link.refined.messages) >= 2)
        server.kill()
        lost_at = len(link.initial.messages)
        wait_until(lambda: len(link.initial.messages) >= lost_at + 30)
        wait_until(lambda: link.sink.counters()["unrefined"] > 10)
        assert len(losses()) == 1
        refined = len(link.refined.messages)
        with service("--bind", server.address) as again:
            wait_until(lambda: len(link.refined.messages) >= refined + 10)
            assert len(losses()) == 1
            again.kill()
            wait_until(lambda: len(losses()) == 2)
    assert_none_lost(link)


def test_samples_flow_while_the_service_hangs(images, tmp_path, warnings):
    """SIGSTOP: its connection stands, and nothing comes."""
    with service() as server, Link(images, tmp_path, rate=RATE, address=server.address, on_full="drop", queue_size=1) as link:
        wait_until(lambda: len(link.refined.messages) >= 5)
        server.process.send_signal(19)
        try:
            seen, start = link.sink.nitems_read(0), time.monotonic()
            time.sleep(2.0)
            flow = (link.sink.nitems_read(0) - seen) / (time.monotonic() - start)
        finally:
            server.process.send_signal(18)
        # Not exactly: a busy machine is late, and the throttle makes up for it.
        assert flow > 0.5 * RATE
        before = len(link.refined.messages)
        wait_until(lambda: len(link.refined.messages) >= before + 10)
    assert_none_lost(link)


def test_a_slow_service_does_what_it_can_and_the_rest_is_counted(images, tmp_path, warnings):
    options = {"on_full": "drop", "queue_size": 1}
    with service("--seconds", "0.5", "--max-batch", "1") as server:
        with Link(images, tmp_path, rate=RATE, address=server.address, **options) as link:
            wait_until(lambda: len(link.refined.messages) >= 4 and link.sink.reasons().get("unrefined", {}).get("queue full"), 60)
        assert link.sink.counters()["unrefined"] > 4
        assert any("too many images wait" in line for line in warnings)
        assert_none_lost(link)


def test_stopping_with_drop_does_not_wait_for_a_slow_service(images, tmp_path, capfd):
    with service("--seconds", "30", "--max-batch", "1") as server:
        link = Link(images, tmp_path, rate=RATE, address=server.address, on_full="drop")
        link.flowgraph.start()
        wait_until(lambda: link.sink.counters()["decoded"] >= 5)
        start = time.monotonic()
        link.flowgraph.stop()
        link.flowgraph.wait()
        assert time.monotonic() - start < 2.0
        assert_none_lost(link)
        unrefined = link.sink.counters()["unrefined"]
        assert link.sink.reasons()["unrefined"] == {"stopped": unrefined}
        lines = [line for line in capfd.readouterr().out.splitlines() if "stopped with" in line]
        assert len(lines) == 1 and f"{unrefined} images unrefined" in lines[0]
        # The same object connects again.
        decoded = link.sink.counters()["decoded"]
        link.flowgraph.start()
        wait_until(lambda: link.sink.counters()["decoded"] > decoded)
        link.flowgraph.stop()
        link.flowgraph.wait()
        assert_none_lost(link)


def test_the_client_goes_on_while_an_image_is_published_and_written():
    """What a disk takes must not look like silence to the service."""
    written, refined = threading.Event(), []

    def publish(pixels, metadata):
        refined.append(metadata["image_id"])
        assert written.wait(30)

    with service() as server:
        refinement = diffjscc.RemoteRefinement(server.address, "stub")
        refinement.attach(publish, print, 4, "wait")
        refinement.start()
        for image_id in range(3):
            refinement.submit(image(seed=image_id), {"image_id": image_id}, 10.0)
        wait_until(lambda: refined)
        assert refinement._client.ping(timeout=5.0).refiners
        assert refinement.unfinished == 3
        written.set()
        assert refinement.wait_idle(10.0)
        refinement.stop(5.0)
    assert sorted(refined) == [0, 1, 2] and refinement.counters() == {"refined": 3, "unrefined": 0}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"address": "gpu.local"}, "expected an address such as tcp://host:5555"),
        ({"address": "tcp://gpu.local:70000"}, "port 70000 does not exist"),
        ({"server_key": "absent.key", "secret_key": "absent.key_secret"}, "no key file"),
        ({"server_key": "server.key"}, "go together"),
        ({"deadline": 0.0}, "deadline = 0.0: must be a number of seconds above 0"),
        ({"deadline": float("inf")}, "deadline = inf: must be a number of seconds above 0"),
        ({"queue_size": 0}, "queue_size = 0: must be a whole number"),
    ],
)
def test_what_cannot_be_is_refused_when_the_flowgraph_is_built(options, line):
    with pytest.raises(ValueError, match=line):
        diffjscc.RemoteRefinement(**options)


def test_blocks_client_and_command_look_for_the_service_in_one_place(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert ADDRESS == addresses.DEFAULT
    assert f"default: {addresses.DEFAULT}" in capsys.readouterr().out


class TestRefineClient:
    """The block for those who have their own receiver."""

    @staticmethod
    def flowgraph(**options):
        block, out = diffjscc.refine_client(refiner="stub", **options), MessageSink()
        flowgraph = gr.top_block()
        flowgraph.msg_connect((block, "refined"), (out, "in"))
        return flowgraph, block, out

    @staticmethod
    def give(block, image_id):
        metadata = {"image_id": image_id, "snr_db": 1.0}
        block.to_basic_block()._post(pmt.intern("images"), image_to_pdu(image(seed=image_id), metadata))

    def test_images_are_refined_and_rubbish_is_counted(self, warnings):
        with service() as server:
            flowgraph, block, out = self.flowgraph(address=server.address)
            flowgraph.start()
            block.to_basic_block()._post(pmt.intern("images"), pmt.intern("no image"))
            for image_id in range(5):
                self.give(block, image_id)
            wait_until(lambda: len(out.messages) == 5)
            flowgraph.stop()
            flowgraph.wait()
        for pixels, metadata in out.images():
            assert np.array_equal(pixels, 255 - image(seed=metadata["image_id"]))
            assert metadata["stage"] == "refined" and metadata["snr_db"] == 1.0
        assert block.counters() == {"refined": 5, "unrefined": 0, "bad": 1, "undelivered": 0}

    def test_it_resumes_by_itself(self, warnings):
        server = service()
        flowgraph, block, out = self.flowgraph(address=server.address, deadline=1.0)
        flowgraph.start()
        self.give(block, 0)
        wait_until(lambda: len(out.messages) == 1)
        server.kill()
        for image_id in (1, 2, 3):
            self.give(block, image_id)
        wait_until(lambda: block.counters()["unrefined"] == 3)
        with service("--bind", server.address):
            # Its deadline may pass before the client tries to connect again.
            wait_until(lambda: self.give(block, 4) or len(out.messages) >= 2)
            assert len(warnings) == 1
            flowgraph.stop()
            flowgraph.wait()

    def test_more_than_may_wait_gives_the_oldest_up(self, warnings):
        flowgraph, block, out = self.flowgraph(address=NOWHERE, queue_size=2)
        flowgraph.start()
        for image_id in range(5):
            self.give(block, image_id)
        wait_until(lambda: block.counters()["unrefined"] == 3)
        flowgraph.stop()
        flowgraph.wait()
        assert block.counters() == {"refined": 0, "unrefined": 5, "bad": 0, "undelivered": 0}
        assert block.reasons() == {"unrefined": {"queue full": 3, "stopped": 2}}
