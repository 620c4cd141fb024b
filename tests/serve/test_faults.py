# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures between machines, caused on purpose with real processes: every request is answered, or fails by its deadline."""

import logging
import random
import signal
import socket
import struct
import time
import zlib

import msgpack
import numpy as np
import pytest
import zmq
from bench.fuzz import run
from prometheus_client.parser import text_string_to_metric_families
from serve.peers import Peer, RawPeer, Relay, header
from serve.processes import ServerProcess, image, wait_until

from diffjscc.serve import RefineClient, RefineTimeout
from diffjscc.serve.protocol import CODES, MESSAGES, VERSION, Refusal, Request, decode

#: Messages of the fuzz tests; tests/bench/fuzz.py sends a million.
FUZZ = 3000


def test_a_server_killed_while_busy_and_started_again_answers_everything(caplog):
    with ServerProcess("--seconds", "0.3", "--max-batch", "2") as server, RefineClient(server.address) as client:
        jobs = [client.submit(image(seed=n), 1.0, "stub", seed=100 + n, deadline=30.0) for n in range(8)]
        wait_until(lambda: sum(job.done() for job in jobs) >= 2)
        server.kill()
        wait_until(lambda: not client.connected)
        assert not all(job.done() for job in jobs)
        with ServerProcess("--bind", server.address) as again:
            for number, job in enumerate(jobs):
                assert np.array_equal(job.result(20), 255 - image(seed=number))
            assert len(again.computed()) == len(set(again.computed()))
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "trying again until deadlines pass" in warnings[0].message


def test_a_server_that_stays_away_costs_each_job_its_deadline_and_no_more(caplog):
    ended = []

    def submit(deadline):
        due = time.monotonic() + deadline
        job = client.submit(image(), 1.0, "stub", deadline=deadline)
        job.add_done_callback(lambda _: ended.append((job, time.monotonic() - due)))
        return job

    with ServerProcess("--seconds", "60") as server, RefineClient(server.address) as client:
        jobs = [submit(2.0), submit(3.0), submit(2.5)]
        wait_until(lambda: client.ping().running)
        server.kill()
        later = submit(1.0)
        for job in (*jobs, later):
            with pytest.raises(RefineTimeout, match="was lost|cannot be reached") as caught:
                job.result(20)
            assert caught.value.code == "deadline" and caught.value.retryable
        wait_until(lambda: len(ended) == 4)
        # None before its deadline, and none held up by a later one.
        assert [job for job, _ in ended] == [later, jobs[0], jobs[2], jobs[1]]
        assert all(late >= 0 for _, late in ended)
        with pytest.raises(RefineTimeout, match="no pong"):
            client.ping(0.2)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_server_that_comes_late_is_found():
    with ServerProcess() as server:
        address = server.address
    outages = []
    with RefineClient(address, on_outage=outages.append) as client:
        job = client.submit(image(), 1.0, "stub", deadline=20.0)
        wait_until(lambda: outages)
        assert not client.connected
        with ServerProcess("--bind", address):
            assert job.result(20).shape == (32, 48, 3)


def test_a_server_that_hangs_is_given_up_and_taken_up_again(monkeypatch):
    monkeypatch.setattr("diffjscc.serve.connection.SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("diffjscc.serve.connection.PING_SECONDS", 0.1)
    with ServerProcess() as server, RefineClient(server.address) as client:
        client.ping()
        server.process.send_signal(signal.SIGSTOP)
        job = client.submit(image(), 1.0, "stub", deadline=20.0)
        wait_until(lambda: not client.connected)
        server.process.send_signal(signal.SIGCONT)
        assert job.result(20).shape == (32, 48, 3)
        assert len(server.computed()) == 1


def test_a_connection_that_breaks_again_and_again_loses_nothing_and_computes_nothing_twice():
    with ServerProcess("--seconds", "0.1", "--max-batch", "2", "--keep", 10_000_000) as server:
        relay = Relay(server.address)
        with RefineClient(relay.address) as client:
            jobs = [client.submit(image(seed=n), 1.0, "stub", seed=100 + n, deadline=30.0) for n in range(24)]
            for number in range(5):
                wait_until(lambda: len(server.computed()) > 4 * number)  # noqa: B023
                relay.cut()
            for number, job in enumerate(jobs):
                assert np.array_equal(job.result(20), 255 - image(seed=number))
        relay.close()
        assert sorted(server.computed()) == list(range(100, 124))


def test_a_client_that_vanishes_harms_nobody_and_finds_its_answer_when_it_returns():
    with ServerProcess("--seconds", "0.3") as server:
        with Peer(server.address) as peer:
            peer.ask("mine", seed=100)
            assert peer.receive().type == "accepted"
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub", seed=101).shape == (32, 48, 3)
        with Peer(server.address) as peer:
            peer.ask("mine", seed=100)
            assert peer.receive().type == "result"
        assert server.computed() == [100, 101]


def test_a_client_that_sends_one_frame_and_stalls_holds_up_nobody():
    with ServerProcess() as server, Peer(server.address) as staller:
        staller.socket.send(VERSION, zmq.SNDMORE)
        # And one that stalls within ZeroMQ's own greeting.
        with socket.create_connection(server.address[6:].split(":")) as half, RefineClient(server.address) as client:
            half.sendall(b"\xff\0\0\0")
            for _ in range(3):
                assert client.refine(image(), 1.0, "stub", deadline=5.0).shape == (32, 48, 3)
        # What it leaves half said can still be ended.
        staller.socket.send(msgpack.packb({"type": "ping"}))
        assert staller.receive().type == "pong"


def test_a_client_that_does_not_read_gets_every_answer_once_it_does():
    large = image(600, 600)
    with ServerProcess("--keep", 100_000_000) as server, Peer(server.address, rcvhwm=1, rcvbuf=65536) as peer:
        for number in range(40):
            peer.ask(str(number), large, width=600, height=600)
        wait_until(lambda: server.metric("diffjscc_requests_total", outcome="ok") == 40)
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
        replies = peer.receive_finals(40)
        assert {reply.id for reply in replies if reply.type == "result"} == {str(number) for number in range(40)}


def test_a_frame_that_declares_4_gb_ends_its_connection_before_anything_is_allocated():
    with ServerProcess() as server, RawPeer(server.address) as raw:
        peer = raw.socket
        # Address space, which even memory that is never written to would take.
        before, declared = server.memory("VmPeak"), 1 << 32
        # A long frame, the last of its message.
        peer.sendall(b"\x02" + struct.pack(">Q", declared) + bytes(1000))
        with pytest.raises((ConnectionError, StopIteration)):
            while True:
                if not peer.recv(4096):
                    raise StopIteration
        assert server.memory("VmPeak") - before < declared / 4
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)


def bomb(width, height):
    """A PNG of zeros: a thousandth of what it inflates to."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", body)


def test_a_zip_bomb_is_refused_and_not_inflated():
    data, inflated = bomb(12_000, 9_000), 12_000 * 9_000 * 3
    assert len(data) < inflated / 800
    with ServerProcess() as server, Peer(server.address) as peer:
        before = server.memory("VmHWM")
        for number, (width, height) in enumerate([(48, 32), (12_000, 9_000), (4_000, 4_000)] * 3):
            peer.send(VERSION, header(str(number), encoding="png", width=width, height=height), data)
        errors = [reply for reply in peer.receive_finals(9) if reply.type == "error"]
        assert sorted(error.code for error in errors) == ["bad-image"] * 6 + ["too-large"] * 3
        assert server.memory("VmHWM") - before < inflated / 10


def test_sigterm_finishes_what_runs_refuses_the_rest_and_exits_0():
    with ServerProcess("--max-batch", "1") as server, Peer(server.address) as peer:
        peer.ask("running", seed=20)
        assert peer.receive().type == "accepted"
        peer.ask("waiting", seed=101)
        assert peer.receive().type == "accepted"
        server.process.send_signal(signal.SIGTERM)
        reply = peer.receive()
        assert (reply.id, reply.code, reply.retryable) == ("waiting", "draining", True)
        peer.ask("new", seed=102)
        reply = peer.receive()
        assert (reply.id, reply.code, reply.retryable) == ("new", "draining", True)
        reply = peer.receive()
        assert (reply.id, reply.type) == ("running", "result")
        assert server.finish(10) == 0
        assert server.computed() == [20]


def test_a_drain_that_takes_too_long_is_cut_short_with_an_answer():
    with ServerProcess("--seconds", "300", "--drain", "0.3") as server, Peer(server.address) as peer:
        peer.ask("running")
        assert peer.receive().type == "accepted"
        wait_until(lambda: server.metric("diffjscc_running_requests") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert peer.receive().code == "draining"
        # Far from the 300 s that the refiner would take.
        assert server.finish(30) == 0


def test_a_rolling_restart_is_not_noticed_but_in_time():
    with ServerProcess("--seconds", "0.1", "--max-batch", "1") as server, RefineClient(server.address) as client:
        jobs = [client.submit(image(seed=n), 1.0, "stub", deadline=30.0) for n in range(6)]
        wait_until(lambda: any(job.done() for job in jobs))
        assert server.terminate() == 0
        with ServerProcess("--bind", server.address):
            for number, job in enumerate(jobs):
                assert np.array_equal(job.result(20), 255 - image(seed=number))


def mutated(rng, frames):
    """Frames with bytes, lengths or their number changed."""
    frames = [bytearray(frame) for frame in frames]
    for _ in range(rng.randint(1, 4)):
        change, frame = rng.randrange(7), rng.randrange(len(frames)) if frames else 0
        if change == 0 and frames and frames[frame]:
            frames[frame][rng.randrange(len(frames[frame]))] = rng.randrange(256)
        elif change == 1 and frames:
            del frames[frame][rng.randrange(len(frames[frame]) + 1) :]
        elif change == 2 and frames:
            frames[frame][rng.randrange(len(frames[frame]) + 1) : 0] = rng.randbytes(rng.randrange(20))
        elif change == 3:
            frames.insert(frame, bytearray(rng.randbytes(rng.randrange(40))))
        elif change == 4 and frames:
            del frames[frame]
        elif change == 5 and len(frames) > 1:
            rng.shuffle(frames)
        elif frames and len(frames) > 1:
            frames[1] = bytearray(msgpack.packb(strange(rng)))
    return [bytes(frame) for frame in frames] or [b""]


def strange(rng):
    """A header whose fields are known and whose values are anything."""
    values = [None, True, -1, 0, 1, 16, 48, 1 << 40, 1.5, float("nan"), "", "x" * 70, "a\nb", "raw", "png", "stub", [1], {"a": 1}]
    fields = {name: rng.choice(values) for name in rng.sample(sorted(Request.__dataclass_fields__), rng.randrange(12))}
    return fields | {"type": rng.choice([*MESSAGES, "other"])}


def message(rng, number):
    """A random message: good, mutated, or rubbish."""
    good = [VERSION, header(f"fuzz{number}", seed=rng.choice([3, 100]), deadline=rng.choice([0.0, 5.0])), bytes(48 * 32 * 3)]
    cancel = [VERSION, msgpack.packb({"type": "cancel", "id": f"fuzz{number - rng.randrange(3)}"})]
    kind = rng.randrange(10)
    if kind == 0:
        return good
    if kind == 1:
        return [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 5))]
    return mutated(rng, rng.choice([good, cancel]))


def test_random_and_mutated_messages_do_no_harm():
    """Each gets a reply: what is understood its own, everything else an error."""
    rng = random.Random(5)
    with ServerProcess("--seconds", "0.001", "--keep", 100_000) as server, Peer(server.address, rcvhwm=0) as peer:
        codes, warm, sent = set(), None, 0
        for number in range(FUZZ):
            frames = message(rng, number)
            sent += sum(map(len, frames))
            peer.send(*frames)
            try:
                decode(frames)
            except Refusal as error:
                reply = next(reply for reply in iter(peer.receive, None) if reply.type == "error" and reply.code == error.code)
                assert (reply.id, reply.message) == (error.id, error.message)
                codes.add(reply.code)
            while peer.has_message(0):
                peer.receive()
            if number == FUZZ // 2:
                warm, sent = server.memory(), 0
        assert codes == {"version", "bad-request", "bad-image"}
        # Were the messages kept, memory would grow by all that was sent.
        assert server.memory() - warm < sent / 2
        while peer.receive(0.5) is not None:
            pass
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
            wait_until(lambda: (client.ping().queued, client.ping().running) == (0, 0))
        families = {family.name: family for family in text_string_to_metric_families(server.get("metrics"))}
        known = set(CODES) | {"ok", "busy", "repeated"}
        assert {sample.labels["outcome"] for sample in families["diffjscc_requests"].samples} <= known
        assert {sample.labels["refiner"] for sample in families["diffjscc_requests"].samples} == {"stub"}
        assert {sample.labels["code"] for sample in families["diffjscc_bad_messages"].samples} <= set(CODES)


def test_messages_that_are_nearly_right_are_refused_one_by_one_and_leave_nothing_behind():
    missing, grown, tracebacks = run(FUZZ, seed=7, report=lambda *line, **options: None)
    assert (missing, tracebacks) == (0, 0) and grown < 25
