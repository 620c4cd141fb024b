# SPDX-License-Identifier: GPL-3.0-or-later
"""What single clients can do on purpose or by mistake, and what it costs the others: with real processes."""

import io
import signal
import statistics
import threading
import time

import numpy as np
import pytest
from PIL import Image
from serve.peers import Peer, RawPeer, Relay, header
from serve.processes import ServerProcess, image, wait_until

from diffjscc.serve import RefineClient
from diffjscc.serve.deduplication import DeduplicationCache
from diffjscc.serve.keys import generate, load_pair, load_public
from diffjscc.serve.protocol import MAX_IMAGE, VERSION
from diffjscc.serve.router import Router

#: An image near the limit of 64 MiB: width and height.
LARGE = (4700, 4700)


def png(width, height):
    """A PNG of few bytes that takes long to decode."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture(scope="module")
def large_png():
    return png(*LARGE)


def seconds_of(run):
    start = time.monotonic()
    run()
    return time.monotonic() - start


def serves(server, **options):
    """Whether a client that comes now is served."""
    with RefineClient(server.address, **options) as client:
        return client.refine(image(), 1.0, "stub", deadline=20.0).shape == (32, 48, 3)


@pytest.mark.parametrize("with_keys", [False, True])
def test_no_client_can_name_the_routing_id_of_another(tmp_path, with_keys):
    """libzmq numbers connections from a number that is always the same, and aborts where a client has named the next one."""
    arguments, curve, files = [], {}, {}
    if with_keys:
        generate(tmp_path / "server")
        generate(tmp_path / "clients", "radio")
        arguments = ["--keys", tmp_path / "server", "--clients", tmp_path / "clients"]
        files = {"server_key": tmp_path / "server/server.key", "secret_key": tmp_path / "clients/radio.key_secret"}
        public, secret = load_pair(files["secret_key"])
        curve = {"curve_serverkey": load_public(files["server_key"]), "curve_publickey": public, "curve_secretkey": secret}
    with ServerProcess(*arguments) as server:
        named = [Peer(server.address, routing_id=b"\0" + (0x6B8B4567 + k).to_bytes(4, "big"), **curve) for k in range(2, 60)]
        for peer in named:
            peer.ping()
        assert all(peer.receive() is not None for peer in named)
        for _ in range(5):
            assert serves(server, **files)
        for peer in named:
            peer.socket.close()
        assert server.process.poll() is None


def test_a_copy_of_a_request_that_arrives_late_over_an_old_connection_does_not_get_the_answer():
    with ServerProcess() as server:
        relay = Relay(server.address)
        with Peer(relay.address) as old, Peer(server.address) as new:
            old.ping()
            assert old.receive().type == "pong"
            relay.hold()
            old.ask("twice", seed=27)
            new.ask("twice", seed=27)
            assert new.receive().type == "accepted"
            relay.release()
            wait_until(lambda: server.metric("diffjscc_requests_total", outcome="repeated") == 1)
            relay.cut()
            assert new.receive(5.0).type == "result"
        relay.close()


def test_an_answer_goes_to_an_older_connection_where_the_newest_is_gone():
    with ServerProcess() as server, Peer(server.address) as old:
        old.ask("twice", seed=27)
        assert old.receive().type == "accepted"
        with Peer(server.address) as new:
            new.ask("twice", seed=27)
            assert new.receive().type == "accepted"
        assert old.receive(5.0).type == "result"


def test_one_slow_batch_does_not_make_clients_wait_long_before_they_ask_again():
    with ServerProcess("--seconds", "0.02", "--max-queue", "4", "--max-batch", "1") as server:
        with Peer(server.address) as peer:
            peer.ask("slow", seed=60)
            assert peer.receive_finals(1)[-1].type == "result"
            for number in range(20):
                peer.ask(str(number))
            assert all(reply.retry_after <= 2.0 for reply in peer.receive_finals(20) if reply.type == "busy")
        with RefineClient(server.address, max_outstanding=100) as client:
            jobs = [client.submit(image(), 1.0, "stub", seed=100 + number, deadline=10.0) for number in range(60)]
            # 1.2 s of work.
            assert all(job.result(20) is not None for job in jobs)


class TestDecoding:
    def test_cancelled_images_delay_nobody(self, large_png):
        many = {"rcvhwm": 0, "sndhwm": 0}
        with ServerProcess() as server, Peer(server.address, **many) as peer, RefineClient(server.address) as client:
            client.ping()
            for number in range(100):
                peer.send(VERSION, header(str(number), encoding="png", width=LARGE[0], height=LARGE[1]), large_png)
            for number in range(100):
                peer.cancel(str(number))
            wait_until(lambda: server.metric("diffjscc_requests_total", outcome="cancelled") > 10, 60)
            assert seconds_of(lambda: client.refine(image(64, 64), 1.0, "stub", deadline=60.0)) < 1.0

    def test_a_jpeg_of_very_many_scans_is_refused(self):
        file = io.BytesIO()
        Image.fromarray(image(64, 64)).save(file, "JPEG", progressive=True)
        data = file.getvalue()
        start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
        with ServerProcess() as server, Peer(server.address) as peer:
            for count, code in ((1, None), (100, "bad-image")):
                peer.send(
                    VERSION,
                    header(str(count), encoding="jpeg", width=64, height=64),
                    data[:start] + count * data[start:end] + data[end:],
                )
                reply = peer.receive_finals(1)[-1]
                assert getattr(reply, "code", None) == code
            assert "scans: at most 64" in reply.message

    def test_a_server_that_stops_does_not_decode_on(self, large_png):
        with ServerProcess("--drain", "0.5") as server, Peer(server.address) as peer:
            for number in range(30):
                peer.send(VERSION, header(str(number), encoding="png", width=LARGE[0], height=LARGE[1]), large_png)
            assert peer.receive().type == "accepted"
            # And what the interpreter takes to end. Before, it took minutes.
            assert seconds_of(server.terminate) < 0.5 + 1.0 + 0.5


class TestMultipart:
    def test_a_message_of_very_many_large_frames_ends_its_connection(self):
        with ServerProcess() as server, RawPeer(server.address) as raw:
            assert serves(server)
            before, frame = server.memory("VmHWM"), b"\x03" + MAX_IMAGE.to_bytes(8, "big") + bytes(MAX_IMAGE)
            with pytest.raises(ConnectionError):
                for _ in range(48):
                    raw.socket.sendall(frame)
            assert server.memory("VmHWM") - before < 4 * MAX_IMAGE
            assert serves(server)

    def test_a_million_empty_frames_hold_up_the_others_for_a_moment_only(self):
        with ServerProcess() as server, RawPeer(server.address) as raw, RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
            raw.socket.sendall(b"\x01\x00" * 1_000_000 + b"\x00\x00")
            time.sleep(0.1)
            # Before: 12 s.
            assert seconds_of(lambda: client.refine(image(), 1.0, "stub", deadline=60.0)) < 4.0
            wait_until(lambda: raw.is_ended)
            assert server.process.poll() is None

    def test_hashing_large_images_does_not_delay_others(self):
        data = bytes(MAX_IMAGE)
        with ServerProcess("--max-queue", "1000") as server, Peer(server.address) as peer, RefineClient(server.address) as client:
            client.ping()
            for number in range(6):
                peer.send(VERSION, header(str(number), encoding="png", width=LARGE[0], height=LARGE[1]), data)
            delays = [seconds_of(lambda: client.ping(30.0)) for _ in range(100)]
            replies = peer.receive_finals(6)
            assert {getattr(reply, "code", reply.type) for reply in replies if reply.type != "accepted"} == {"bad-image"}
            assert max(delays) < 1.0 and statistics.median(delays) < 0.1


class TestFairness:
    def test_a_small_client_beside_one_with_a_thousand_requests_waits_for_a_batch_and_its_own(self):
        batch = 0.1
        with ServerProcess("--seconds", batch, "--max-batch", "4") as server, Peer(server.address, rcvhwm=0, sndhwm=0) as greedy:
            with RefineClient(server.address) as client:
                refine = lambda: client.refine(image(), 1.0, "stub", encoding="raw")  # noqa: E731
                alone = statistics.median(seconds_of(refine) for _ in range(5))
                for number in range(1000):
                    greedy.ask(str(number), seed=100)
                wait_until(lambda: server.metric("diffjscc_queued_requests") >= 60)
                beside = [seconds_of(refine) for _ in range(5)]
                assert server.metric("diffjscc_queued_requests") >= 20
            assert statistics.median(beside) <= 1.5 * alone + batch + 0.05

    def test_small_images_are_refined_between_the_tiles_of_a_large_one_and_a_cancel_stops_it(self):
        pixels = image(4000, 5000)
        with ServerProcess("--seconds", "0.3") as server, Peer(server.address) as peer, RefineClient(server.address) as client:
            peer.ask("large", pixels, width=5000, height=4000, seed=101)
            assert peer.receive().type == "accepted"
            wait_until(lambda: 101 in server.computed())
            # 20 tiles of 0.3 s.
            assert all(seconds_of(lambda: client.refine(image(), 1.0, "stub", seed=102)) < 2.0 for _ in range(2))
            assert server.metric("diffjscc_running_requests") == 1
            peer.cancel("large")
            assert peer.receive().code == "cancelled"
            wait_until(lambda: server.metric("diffjscc_running_batches") == 0, 2.0)


class TestSlowReaders:
    def test_small_replies_leave_nothing_behind(self):
        router = Router("tcp://127.0.0.1:*", None, None, DeduplicationCache(0))
        try:
            with Peer(router.address) as client:
                client.ping()
                router.socket.poll(10_000)
                peer, _ = router.receive()
                for _ in range(100):
                    router.send(peer.id, [VERSION, b"small"])
                    router.send(peer.id, [VERSION, b"x" * 100_000])
                    for _ in range(2):
                        wait_until(lambda: router.send_again() or client.has_message(0))
                        client.socket.recv_multipart()
                # Those of the large ones, until libzmq has let go of them.
                wait_until(lambda: peer.unsent_bytes() == 0 and not peer.unsent)
        finally:
            router.close()

    def test_clients_that_do_not_read_cost_little_and_get_one_answer_each_later(self):
        """Each asks for 24 images of 3 MB: 864 MB in all."""
        pixels, count = image(1000, 1000), 24
        with ServerProcess("--seconds", "0", "--keep", 64_000_000) as server:
            peers = [Peer(server.address, rcvhwm=1, rcvbuf=1 << 16) for _ in range(12)]
            before = server.memory()
            for id in range(count):
                for number, peer in enumerate(peers):
                    peer.ask(f"{number} {id}", pixels, width=1000, height=1000, reply_encoding="raw")
                done = (id + 1) * len(peers)
                wait_until(lambda: server.metric("diffjscc_requests_total", outcome="ok") == done, 60)  # noqa: B023
            assert server.memory() - before < 300e6
            assert serves(server)
            for number, peer in enumerate(peers):
                finals = [reply for reply in peer.receive_finals(count) if reply.type in ("result", "error")]
                assert sorted(reply.id for reply in finals) == sorted(f"{number} {id}" for id in range(count))
                # What had to make room for others' can be asked for again.
                assert {reply.code for reply in finals if reply.type == "error"} <= {"lost"}
                peer.socket.close()

    def test_a_server_that_stops_does_not_wait_for_them(self):
        pixels = image(1500, 2000)
        with ServerProcess("--drain", "5", "--keep", 64_000_000) as server, Peer(server.address, rcvhwm=1, rcvbuf=1 << 16) as peer:
            for number in range(8):
                peer.ask(str(number), pixels, width=2000, height=1500, reply_encoding="raw")
            wait_until(lambda: server.metric("diffjscc_requests_total", outcome="ok") == 8, 60)
            assert seconds_of(server.terminate) < 3.0
            assert server.process.returncode == 0

    def test_one_that_reads_nothing_though_it_asks_more_and_more_is_disconnected(self):
        pixels = image(700, 700)
        with ServerProcess("--seconds", "0", "--keep", 1) as server, RawPeer(server.address) as raw:
            pings = b"".join(frames_on_the_wire(VERSION, b"\x81\xa4type\xa4ping") for _ in range(3000))
            request = frames_on_the_wire(VERSION, header("%d", width=700, height=700, reply_encoding="raw"), pixels.tobytes())
            ended = threading.Event()

            def send():
                try:
                    for number in range(200):
                        raw.socket.sendall(request.replace(b"\xa2%d", b"\xa2" + b"%02d" % (number % 90 + 10)) + pings)
                except OSError:
                    ended.set()

            threading.Thread(target=send, daemon=True).start()
            wait_until(ended.is_set, 30)
            wait_until(lambda: any("replies: disconnected" in line for line in server.log))
            assert serves(server)


def frames_on_the_wire(*frames):
    """A message as ZMTP sends it."""
    parts = []
    for number, frame in enumerate(frames):
        more, size = int(number + 1 < len(frames)), len(frame)
        parts.append((bytes([more, size]) if size < 256 else bytes([more | 2]) + size.to_bytes(8, "big")) + frame)
    return b"".join(parts)


def test_an_image_at_the_size_limit_arrives_with_keys(tmp_path):
    """Encryption adds to a frame, which must not make it too large."""
    width, height = 8191, 2731
    assert MAX_IMAGE - 3 < 3 * width * height <= MAX_IMAGE
    generate(tmp_path / "server")
    generate(tmp_path / "clients", "radio")
    files = tmp_path / "server/server.key", tmp_path / "clients/radio.key_secret"
    options = "--seconds", "0", "--keys", tmp_path / "server", "--clients", tmp_path / "clients"
    with ServerProcess(*options) as server, RefineClient(server.address, *files) as client:
        refined = client.refine(np.zeros((height, width, 3), np.uint8), 1.0, "stub", encoding="raw", deadline=30.0)
    assert refined.shape == (height, width, 3) and refined.min() == 255


def test_ipv6_is_served_and_reached():
    with ServerProcess("--bind", "tcp://[::1]:*", "--status", "[::1]:0") as server:
        assert "[::1]" in server.address and "[::1]" in server.page
        assert serves(server)
        assert server.probe("readyz") == (200, "ok\n")


def test_a_second_signal_ends_a_server_that_hangs_in_its_engine():
    with ServerProcess("--drain", "60") as server, Peer(server.address) as peer:
        peer.ask("hangs", seed=50)
        assert peer.receive().type == "accepted"
        wait_until(lambda: server.metric("diffjscc_running_requests") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert not peer.has_message(0.3)
        assert seconds_of(server.terminate) < 2.0
        assert peer.receive().code == "draining"
