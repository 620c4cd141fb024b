# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong between machines, done on purpose to real processes: every request is answered, or errors by its deadline."""

import logging
import os
import random
import signal
import socket
import struct
import threading
import time
import zlib

import msgpack
import numpy as np
import pytest
import zmq
from serve.peers import Peer, header
from serve.processes import ServerProcess, image, wait_until

from diffjscc.serve import RefineClient, RefineTimeout
from diffjscc.serve.protocol import CODES, MESSAGES, VERSION, ProtocolError, Request, decode

#: Messages of the fuzz test; DIFFJSCC_FUZZ=1000000 for a longer run.
FUZZ = int(os.environ.get("DIFFJSCC_FUZZ", 10_000))


def outcomes(jobs):
    """What became of jobs that must be over by now."""
    return [type(job.exception(0)).__name__ if job.exception(0) else "refined" for job in jobs]


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
    with ServerProcess("--seconds", "5") as server, RefineClient(server.address) as client:
        start = time.monotonic()
        jobs = [client.submit(image(), 1.0, "stub", deadline=1.0 + 0.2 * n) for n in range(3)]
        wait_until(lambda: client.ping().running)
        server.kill()
        later = client.submit(image(), 1.0, "stub", deadline=1.0)
        for number, job in enumerate(jobs):
            with pytest.raises(RefineTimeout, match="was lost|cannot be reached"):
                job.result(5)
            assert time.monotonic() - start < 1.6 + 0.2 * number
        assert outcomes([later]) == ["RefineTimeout"] or later.exception(2)
        with pytest.raises(RefineTimeout, match="no pong"):
            client.ping(0.2)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_server_that_comes_late_is_found():
    with ServerProcess() as server:
        address = server.address
    with RefineClient(address) as client:
        job = client.submit(image(), 1.0, "stub", deadline=20.0)
        time.sleep(0.5)
        assert not client.connected
        with ServerProcess("--bind", address):
            assert job.result(20).shape == (32, 48, 3)


def test_a_server_that_hangs_is_given_up_and_taken_up_again(monkeypatch):
    monkeypatch.setattr("diffjscc.serve.client.SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("diffjscc.serve.client.PING_SECONDS", 0.1)
    with ServerProcess() as server, RefineClient(server.address) as client:
        client.ping()
        server.process.send_signal(signal.SIGSTOP)
        job = client.submit(image(), 1.0, "stub", deadline=20.0)
        wait_until(lambda: not client.connected)
        server.process.send_signal(signal.SIGCONT)
        assert job.result(20).shape == (32, 48, 3)
        assert len(server.computed()) == 1


class Relay:
    """A TCP relay that can break its connections, as a network does that is not the server's fault."""

    def __init__(self, address):
        self._target = address.removeprefix("tcp://").split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((self._target[0], int(self._target[1])))
            self._ends += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    def cut(self):
        while self._ends:
            end = self._ends.pop()
            # Sends a reset, and whatever was on its way is lost.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self._listener.close()
        self.cut()


def test_a_connection_that_breaks_again_and_again_loses_nothing_and_computes_nothing_twice():
    with ServerProcess("--seconds", "0.1", "--max-batch", "2", "--keep", 10_000_000) as server:
        relay = Relay(server.address)
        with RefineClient(relay.address) as client:
            jobs = [client.submit(image(seed=n), 1.0, "stub", seed=100 + n, deadline=30.0) for n in range(24)]
            for _ in range(5):
                time.sleep(0.2)
                relay.cut()
            for number, job in enumerate(jobs):
                assert np.array_equal(job.result(20), 255 - image(seed=number))
        relay.close()
        assert sorted(server.computed()) == list(range(100, 124))


def test_a_client_that_vanishes_harms_nobody_and_finds_its_answer_when_it_returns():
    with ServerProcess("--seconds", "0.3") as server:
        with Peer(server.address) as peer:
            peer.ask("mine", seed=100)
            assert peer.hear().type == "accepted"
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub", seed=101).shape == (32, 48, 3)
        with Peer(server.address) as peer:
            peer.ask("mine", seed=100)
            assert peer.hear().type == "result"
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
        assert staller.hear().type == "pong"


def test_a_client_that_does_not_read_gets_every_answer_once_it_does():
    large = image(600, 600)
    with ServerProcess("--keep", 100_000_000) as server, Peer(server.address, rcvhwm=1, rcvbuf=65536) as peer:
        for number in range(40):
            peer.ask(str(number), large, width=600, height=600)
        wait_until(lambda: server.metric("diffjscc_requests_total", outcome="ok") == 40)
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
        replies = list(iter(lambda: peer.hear(1.0), None))
        assert {reply.id for reply in replies if reply.type == "result"} == {str(number) for number in range(40)}


def test_a_frame_that_declares_4_gb_ends_its_connection_before_anything_is_allocated():
    with ServerProcess() as server, socket.create_connection(server.address[6:].split(":")) as peer:
        peer.settimeout(10)
        peer.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL" + bytes(16) + b"\0" + bytes(31))
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        peer.sendall(b"\x04" + bytes([len(ready)]) + ready)
        before = server.memory()
        # A long frame, the last of its message.
        peer.sendall(b"\x02" + struct.pack(">Q", 1 << 32) + bytes(1000))
        with pytest.raises((ConnectionError, StopIteration)):
            while True:
                if not peer.recv(4096):
                    raise StopIteration
        assert server.memory() - before < 4e6
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
    data = bomb(12_000, 9_000)
    assert len(data) < 400_000
    with ServerProcess() as server, Peer(server.address) as peer:
        before = server.memory()
        for number, (width, height) in enumerate([(48, 32), (12_000, 9_000), (4_000, 4_000)] * 3):
            peer.send(VERSION, header(str(number), encoding="png", width=width, height=height), data)
        errors = [reply for reply in iter(lambda: peer.hear(1.0), None) if reply.type == "error"]
        assert sorted(error.code for error in errors) == ["bad-image"] * 6 + ["too-large"] * 3
        assert server.memory() - before < 10e6


def test_sigterm_finishes_what_runs_refuses_the_rest_and_exits_0():
    with ServerProcess("--max-batch", "1") as server, Peer(server.address) as peer:
        peer.ask("running", seed=20)
        assert peer.hear().type == "accepted"
        peer.ask("waiting", seed=101)
        assert peer.hear().type == "accepted"
        server.process.send_signal(signal.SIGTERM)
        reply = peer.hear()
        assert (reply.id, reply.code, reply.retryable) == ("waiting", "draining", True)
        peer.ask("new", seed=102)
        reply = peer.hear()
        assert (reply.id, reply.code, reply.retryable) == ("new", "draining", True)
        reply = peer.hear()
        assert (reply.id, reply.type) == ("running", "result")
        assert server.finish(10) == 0
        assert server.computed() == [20]


def test_a_drain_that_takes_too_long_is_cut_short_with_an_answer():
    with ServerProcess("--seconds", "30", "--drain", "0.3") as server, Peer(server.address) as peer:
        peer.ask("running")
        assert peer.hear().type == "accepted"
        wait_until(lambda: server.metric("diffjscc_running") == 1)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert peer.hear().code == "draining"
        assert server.finish(10) == 0 and time.monotonic() - start < 5


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
        codes, warm = set(), None
        for number in range(FUZZ):
            frames = message(rng, number)
            peer.send(*frames)
            try:
                decode(frames)
            except ProtocolError as error:
                reply = next(reply for reply in iter(peer.hear, None) if reply.type == "error" and reply.code == error.code)
                assert (reply.id, reply.message) == (error.id, error.message)
                codes.add(reply.code)
            while peer.hears(0):
                peer.hear()
            if number == FUZZ // 2:
                warm = server.memory()
        assert codes == {"version", "bad-request", "bad-image"}
        assert server.memory() < 1.05 * warm
        while peer.hear(0.5) is not None:
            pass
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
            wait_until(lambda: (client.ping().queued, client.ping().running) == (0, 0))
        known = set(CODES) | {"ok", "busy", "repeated"}
        assert {line.split('"')[1] for line in server.get("metrics").splitlines() if "requests_total{" in line} <= known
