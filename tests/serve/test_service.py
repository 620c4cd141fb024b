# SPDX-License-Identifier: GPL-3.0-or-later
"""Server and client, each in a process of its own, when nothing fails; and the replies to wrong requests."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, wait

import msgpack
import numpy as np
import pytest
from serve.peers import Peer
from serve.processes import ServerProcess, image, wait_until

from diffjscc.serve import RefineClient, RefineError, RefineTimeout
from diffjscc.serve.protocol import VERSION


@pytest.fixture(scope="module")
def server():
    with ServerProcess() as server:
        yield server


@pytest.fixture
def client(server):
    with RefineClient(server.address) as client:
        yield client


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_an_image_comes_back_refined(client, encoding):
    pixels = image(60, 80)
    refined = client.refine(pixels, 1.0, "stub", encoding=encoding)
    assert np.array_equal(refined, 255 - pixels) and refined.flags.writeable


def test_a_jpeg_comes_back_about_refined(client):
    pixels = np.full((64, 64, 3), 60, np.uint8)
    assert np.abs(client.refine(pixels, 1.0, "stub", encoding="jpeg").astype(int) - 195).max() <= 2


def test_numbers_may_be_numpys(client):
    refined = client.refine(image(), np.float32(1), "stub", seed=np.int64(33), steps=np.int32(4), deadline=np.float64(9))
    assert refined.shape == (32, 48, 3)


def test_ping_says_what_is_served(server, client):
    pong = client.ping()
    assert pong.refiners == ("stub", "other") and (pong.queued, pong.running) == (0, 0)
    assert client.connected


def test_progress_is_told_step_by_step_with_previews_where_asked(client):
    told = []
    client.refine(image(), refiner="stub", seed=29, on_progress=lambda *step: told.append(step), preview=True, encoding="raw")
    assert [step[:2] for step in told] == [(k, 10) for k in range(1, 11)]
    assert all(step[2].shape == (32, 48, 3) for step in told[:-1]) and told[-1][2] is None
    told.clear()
    client.refine(image(), refiner="stub", seed=28, on_progress=lambda *step: told.append(step))
    assert told == [(k, 10, None) for k in range(1, 11)]


def test_steps_faster_than_previews_are_encoded_are_told_in_order(client):
    for _ in range(10):
        told = []
        client.refine(image(), refiner="stub", seed=19, on_progress=lambda k, *_: told.append(k), preview=True)  # noqa: B023
        assert told == sorted(set(told)) and told[-1] == 10


def test_a_callback_that_raises_costs_nothing(client):
    assert client.refine(image(), refiner="stub", on_progress=lambda *_: 1 / 0).shape == (32, 48, 3)


def test_asyncio_waits_without_blocking_and_cancels(server, client):
    async def both():
        pixels = [image(seed=seed) for seed in range(5)]
        refined = await asyncio.gather(*(client.arefine(p, 1.0, "stub") for p in pixels))
        assert all(np.array_equal(r, 255 - p) for r, p in zip(refined, pixels))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.arefine(image(), 1.0, "stub", seed=43), 0.3)

    before = server.metric("diffjscc_requests_total", outcome="cancelled")
    asyncio.run(both())
    wait_until(lambda: server.metric("diffjscc_requests_total", outcome="cancelled") == before + 1)


def test_requests_at_once_are_computed_in_batches():
    with ServerProcess("--seconds", "0.1", "--max-batch", "4") as server, RefineClient(server.address) as client:
        jobs = [client.submit(image(seed=n), 1.0, "stub", seed=100 + n) for n in range(9)]
        for number, job in enumerate(jobs):
            assert np.array_equal(job.result(10), 255 - image(seed=number))
        assert sorted(server.computed()) == list(range(100, 109))
        assert {int(line.split()[2]) for line in server.output if line.startswith("computed")} >= {4}


def test_a_bad_request_in_a_batch_costs_only_itself():
    with ServerProcess("--seconds", "0.1") as server, RefineClient(server.address) as client:
        jobs = [client.submit(image(), 1.0, "stub", seed=seed) for seed in (100, 101, 5, 102)]
        assert [job.exception(10) is None for job in jobs] == [True, True, False, True]
        assert jobs[2].exception().code == "failed" and jobs[2].exception().message == "this seed is not to be refined"


def test_cancelling_stops_the_work_and_the_wait(server, client):
    job = client.submit(image(), 1.0, "stub", seed=40)
    wait_until(lambda: client.ping().running == 1)
    assert job.cancel() and job.cancelled()
    with pytest.raises(CancelledError):
        job.result(0)
    assert wait([job], 5).done == {job}
    # To the end it would take a minute.
    wait_until(lambda: client.ping().running == 0, 30)
    assert 40 in server.computed() and 40 not in server.completed()


def test_work_that_waits_is_cancelled_before_it_starts(server, client):
    running = client.submit(image(), 1.0, "stub", seed=41)
    wait_until(lambda: client.ping().running == 1)
    waiting = client.submit(image(), 1.0, "other", seed=23)
    wait_until(lambda: client.ping().queued == 1)
    waiting.cancel()
    wait_until(lambda: client.ping().queued == 0)
    running.cancel()
    wait_until(lambda: client.ping().running == 0)
    assert client.refine(image(), 1.0, "other").shape == (32, 48, 3)
    assert 41 in server.computed() and 23 not in server.computed()


def test_every_job_is_over_by_its_deadline_though_the_server_is_slow(server, client):
    start = time.monotonic()
    with pytest.raises(RefineTimeout, match=r"no image within 0.5 s: the server has not finished it"):
        client.refine(image(), 1.0, "stub", seed=42, deadline=0.5)
    assert time.monotonic() - start >= 0.5
    # To the end it would take a minute; the client's cancel stops it.
    wait_until(lambda: client.ping().running == 0, 30)
    assert 42 in server.computed() and 42 not in server.completed()


def test_work_whose_deadline_has_passed_is_not_started(server):
    with Peer(server.address) as peer:
        peer.ask("long", seed=25)
        peer.ask("short", refiner="other", seed=26, deadline=0.2)
        replies = peer.receive_finals(2)
        errors = [reply for reply in replies if reply.type == "error"]
        assert [(error.id, error.code, error.retryable) for error in errors] == [("short", "deadline", True)]
        assert {reply.id for reply in replies if reply.type == "result"} == {"long"}
    assert 26 not in server.computed()


def test_a_deadline_is_a_duration_whatever_the_clocks_say():
    for ahead in (1e8, -1e8):
        with ServerProcess("--clock-ahead", ahead) as server, RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub", deadline=5.0).shape == (32, 48, 3)


def test_a_full_queue_says_busy_and_a_client_comes_again():
    with ServerProcess("--max-queue", "2", "--max-batch", "1", "--seconds", "0.05") as server:
        with Peer(server.address) as peer:
            for number in range(8):
                peer.ask(str(number), seed=100 + number)
            replies = peer.receive_finals(8)
            busy = [reply for reply in replies if reply.type == "busy"]
            assert len(busy) >= 4 and all(0 < reply.retry_after < 5 and reply.message for reply in busy)
            assert len([reply for reply in replies if reply.type == "result"]) == 8 - len(busy)
        with RefineClient(server.address) as client:
            jobs = [client.submit(image(), 1.0, "stub", seed=200 + number) for number in range(12)]
            assert all(job.result(20) is not None for job in jobs)
        assert sorted(seed for seed in server.computed() if seed >= 200) == list(range(200, 212))


def test_the_same_id_is_computed_once_however_often_it_is_asked(server):
    with Peer(server.address) as first, Peer(server.address) as second:
        first.ask("twice", seed=27)
        assert first.receive().type == "accepted"
        second.ask("twice", seed=27, deadline=30.0, progress=True)
        assert second.receive().type == "accepted"
        replies = second.receive_finals(1)
        assert replies[-1].type == "result" and {reply.type for reply in replies[:-1]} == {"progress"}
        # Only the connection that asked last has received it.
        assert not first.has_message(0.1)
        first.ask("twice", seed=27)
        assert bytes(first.receive().image) == bytes(replies[-1].image)
    assert server.computed().count(27) == 1


def test_the_same_id_for_something_else_is_an_error(server):
    with Peer(server.address) as peer:
        peer.ask("other", seed=100)
        assert [reply.type for reply in peer.receive_all(2)] == ["accepted", "result"]
        for changes in ({"seed": 101}, {"snr_db": 1.0}, {"pixels": image(seed=9)}):
            peer.ask("other", **({"seed": 100} | changes))
            error = peer.receive()
            assert (error.code, error.id, error.retryable) == ("duplicate", "other", False)


def test_a_failure_is_remembered_like_a_result(server):
    with Peer(server.address) as peer:
        for _ in range(2):
            peer.ask("fails", seed=7)
        replies = {reply.type for reply in peer.receive_all(3)}
        assert replies == {"accepted", "error"}


@pytest.mark.parametrize(
    "changes, code, words",
    [
        ({"refiner": "/etc/passwd"}, "unknown-refiner", "there are stub, other"),
        ({"refiner": "mini"}, "unknown-refiner", "'mini' is not served here"),
        ({"colour": 3}, "bad-request", "unknown field 'colour'"),
        ({"type": "result"}, "bad-request", "unknown field"),
        ({"type": "accepted", "refiner": None, "width": None, "height": None, "encoding": None}, "bad-request", "third frame"),
        ({"width": 40_000, "height": 36_000, "encoding": "png"}, "too-large", "4320000000 bytes"),
        ({"encoding": "png"}, "bad-image", "not a png file"),
        ({"encoding": "raw", "width": 49}, "bad-image", "expected 4704"),
    ],
)
def test_a_wrong_request_is_answered_with_its_id_and_the_reason(server, changes, code, words):
    with Peer(server.address) as peer:
        peer.ask("wrong", **changes)
        reply = next(reply for reply in iter(peer.receive, None) if reply.type == "error")
        assert (reply.id, reply.code, reply.retryable) == ("wrong", code, False) and words in reply.message


def test_another_version_is_told_which_one_is_spoken(server):
    with Peer(server.address) as peer:
        peer.send(b"diffjscc-refine/2", msgpack.packb({"type": "ping"}))
        reply = peer.receive()
        assert reply.code == "version" and "this end speaks diffjscc-refine/1" in reply.message
        peer.send(VERSION, msgpack.packb({"type": "pong"}))
        assert peer.receive().code == "bad-request"


def test_cancelling_what_is_not_there_is_answered(server):
    with Peer(server.address) as peer:
        peer.cancel("never asked")
        reply = peer.receive()
        assert (reply.code, reply.id) == ("unknown-id", "never asked")


def test_cancelling_what_is_answered_adds_no_second_answer(server):
    with Peer(server.address) as peer:
        peer.ask("done", seed=100)
        assert [reply.type for reply in peer.receive_all(2)] == ["accepted", "result"]
        peer.cancel("done")
        peer.ping()
        assert peer.receive().type == "pong"


def test_a_cancel_that_follows_a_large_request_at_once_reaches_it(server):
    """A large image is hashed in another thread, and is not queued yet."""
    pixels = image(1500, 2000)
    with Peer(server.address) as peer:
        for number in range(3):
            peer.ask(f"large {number}", pixels, width=2000, height=1500, seed=44)
            peer.cancel(f"large {number}")
            errors = [reply for reply in peer.receive_finals(1) if reply.type == "error"]
            assert [(error.id, error.code) for error in errors] == [(f"large {number}", "cancelled")]
        peer.ping()
        assert peer.receive().type == "pong"


@pytest.mark.parametrize(
    "arguments",
    [
        {"pixels": np.zeros((8, 8, 3), np.uint8)},
        {"pixels": np.zeros((32, 32))},
        {"snr_db": float("nan")},
        {"deadline": 0},
        {"deadline": float("inf")},
        {"encoding": "bmp"},
        {"seed": -1},
        {"steps": 0},
        {"refiner": ""},
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(client, arguments):
    with pytest.raises(ValueError):
        client.submit(**{"pixels": image(), "refiner": "stub"} | arguments)


def test_one_job_too_many_is_refused_and_closing_ends_the_rest(server):
    client = RefineClient(server.address, max_outstanding=2)
    jobs = [client.submit(image(), 1.0, "stub", seed=28) for _ in range(2)]
    with pytest.raises(RefineError) as caught:
        client.submit(image(), 1.0, "stub")
    assert caught.value.code == "busy" and caught.value.retryable
    client.close()
    assert [job.exception(0).code for job in jobs] == ["closed"] * 2
    for call in (lambda: client.submit(image(), 1.0, "stub"), client.ping):
        with pytest.raises(RefineError, match="client is closed"):
            call()
    client.close()


def test_clients_leave_no_threads_behind(server):
    before = threading.active_count()
    for _ in range(3):
        with RefineClient(server.address) as client:
            client.ping()
    assert threading.active_count() == before


@pytest.mark.parametrize("address", ["", "nonsense", "tcp://", "tcp://host", "http://host:1", "tcp://host:70000"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="cannot connect to|does not exist"):
        RefineClient(address)


def test_client_and_help_need_no_torch():
    names = ("serve", "serve.server", "serve.engine", "serve.backend", "cli.serve")
    code = f"import sys, {', '.join(f'diffjscc.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
