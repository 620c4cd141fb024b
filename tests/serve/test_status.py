# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page and the metrics: there, right, valid, and closed to what comes from outside."""

import http.client
import math
import re
import signal
import socket
import time
import urllib.error
from html.parser import HTMLParser

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.peers import Peer
from serve.processes import ServerProcess, image, wait_until

import diffjscc
from diffjscc.serve import RefineClient, RefineError, page
from diffjscc.serve.health import LOOP_SECONDS, Health
from diffjscc.serve.page import Gallery
from diffjscc.serve.protocol import Request

VOID = {"meta", "img", "link", "br"}


class Strict(HTMLParser):
    """Fails on tags that are not closed; keeps text and references."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.references, self.tags = [], "", [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag == "img":
            assert dict(attributes)["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def server():
    """One that has refined two images and failed at one."""
    with ServerProcess() as server, RefineClient(server.address) as client:
        client.refine(image(200, 300), 2.5, "stub", prompt="<script>alert(1)</script>&\"'")
        client.refine(image(), 1.0, "stub")
        with pytest.raises(RefineError):
            client.refine(image(), 1.0, "stub", seed=1)
        yield server


def test_the_page_is_valid_and_shows_what_happened(server):
    text = server.get()
    page = Strict()
    page.feed(text)
    page.close()
    assert page.open == [] and text.startswith("<!DOCTYPE html>")
    for words in (
        "stub, other",
        "Latency, 99 %, last 5 min",
        "GPU memory, cuda:01.0 GB",
        "ok2",
        "failed1",
        "stub, 300×200, 2.5 dB",
    ):
        assert words in page.text, words


def test_the_page_runs_nothing_and_loads_nothing_from_elsewhere(server):
    page = Strict()
    page.feed(server.get())
    assert "script" not in page.tags and "<script>alert(1)</script>&\"'" in page.text
    assert all(reference == "/metrics" or reference.startswith("data:image/jpeg;base64,") for reference in page.references)
    # Of the first image, before and after; and of the second, unless it came within a second of the first.
    assert len([reference for reference in page.references if reference.startswith("data:")]) in (2, 4)


def test_the_page_takes_an_image_a_second(monkeypatch):
    gallery = Gallery()
    assert gallery.wants_image()
    monkeypatch.setattr(page, "IMAGE_SECONDS", math.inf)
    assert not gallery.wants_image()
    monkeypatch.setattr(page, "IMAGE_SECONDS", 0.0)
    assert gallery.wants_image() and not Gallery(enabled=False).wants_image()


def test_images_leave_the_page_after_a_time(monkeypatch):
    gallery = Gallery()
    request = Request(id="a", refiner="stub", width=48, height=32, encoding="png", image=b"x")
    gallery.show(request, "radio1", image(), image())
    assert [pair.caption for pair in gallery.pairs()] == ["stub, 48×32, unknown SNR, seed 0, for radio1"]
    monkeypatch.setattr(page, "EXPIRY_SECONDS", 0.0)
    assert gallery.pairs() == []


def test_metrics_are_what_prometheus_reads_and_named_by_its_conventions(server):
    families = list(text_string_to_metric_families(server.get("metrics")))
    metrics = {family.name: family for family in families}
    outcomes = {s.labels["outcome"]: s.value for s in metrics["diffjscc_requests"].samples if s.name.endswith("_total")}
    assert outcomes == {"ok": 2, "failed": 1}
    assert server.metric("diffjscc_images_total", refiner="stub") == 3
    assert server.metric("diffjscc_request_duration_seconds_count", refiner="stub", client="anonymous") == 2
    assert server.metric("diffjscc_queue_wait_seconds_count") == 3
    assert server.metric("diffjscc_request_duration_seconds_bucket", le="120.0") == 2
    assert server.metric("diffjscc_queued_requests") == server.metric("diffjscc_running_requests") == 0
    assert server.metric("diffjscc_queue_limit_requests") == 64 and server.metric("diffjscc_workers") == 1
    assert server.metric("diffjscc_device_memory_used_bytes", device="cuda:0") == 1e9
    assert server.metric("diffjscc_refiner_loaded", worker="local", refiner="stub") == 1
    assert server.metric("diffjscc_ready") == 1 and server.metric("diffjscc_draining") == 0
    assert server.metric("diffjscc_build_info", version=diffjscc.__version__) == 1
    assert server.metric("process_resident_memory_bytes") > 1e6
    for family in families:
        assert family.documentation and (family.type != "counter" or not family.name.endswith("_total"))
        assert not re.search(r"_(ms|milliseconds|mb|kb|minutes)$", family.name)


def test_the_page_says_what_an_operator_asks(server):
    with Peer(server.address) as peer:
        peer.ask("slow", seed=45)
        assert peer.receive().type == "accepted"
        peer.ask("waits", refiner="other", seed=45)
        assert peer.receive().type == "accepted"
        wait_until(lambda: server.metric("diffjscc_running_requests") == 1)
        text = Strict()
        text.feed(server.get())
        for id in ("waits", "slow"):
            peer.cancel(id)
        peer.receive_finals(2)
    for words in ("Stateready", "Waiting1 of at most 64", "Running1 in 1 batches", "In memory, localstub, other", "127.0.0.12"):
        assert words in text.text, words
    assert "failed127.0.0.1: this seed is not to be refined" in text.text
    wait_until(lambda: server.metric("diffjscc_running_requests") == 0)


def test_what_is_not_there_is_not_found(server):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("../../etc/passwd")


def host_and_port(server):
    host, port = re.fullmatch(r"http://(.*):(\d+)/", server.page).groups()
    return host, int(port)


def asked_as(server, name, path="/"):
    """The status of the answer to a request with a Host header."""
    connection = http.client.HTTPConnection(*host_and_port(server), timeout=10)
    connection.request("GET", path, headers={"Host": name} if name else {})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_foreign_name_gets_nothing_so_that_no_site_can_make_a_browser_fetch_the_page():
    with ServerProcess("--status-name", "gpu.example") as server:
        port = host_and_port(server)[1]
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1].evil.example"):
            assert [asked_as(server, name, path) for path in ("/", "/metrics", "/readyz")] == [421] * 3, name
        for name in (f"127.0.0.1:{port}", "localhost", "[::1]:80", "10.1.2.3", "GPU.example", socket.gethostname(), None):
            assert asked_as(server, name) == 200, name


def test_images_can_be_left_out_and_a_page_for_other_machines_has_none():
    for options in (["--no-images"], ["--status", "0.0.0.0:0", "--public-status"]):
        with ServerProcess(*options) as server, RefineClient(server.address) as client:
            client.refine(image(), 1.0, "stub")
            page = Strict()
            page.feed(server.get())
            assert "img" not in page.tags and "Last images" not in page.text
            assert server.metric("diffjscc_images_total") == 1


class TestHealth:
    """/livez says whether to restart the process, /readyz whether to send requests; /healthz is the same as /readyz."""

    def test_it_is_ready_once_refiners_are_loaded(self):
        with ServerProcess("--load", "1.5", ready=False) as server:
            assert server.probe("livez") == (200, "ok\n")
            assert server.probe("readyz") == server.probe("healthz") == (503, "loading refiners\n")
            with RefineClient(server.address) as client:
                # What comes early waits.
                assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
            assert server.probe("readyz") == server.probe("healthz") == (200, "ok\n")

    def test_sigterm_while_loading_does_not_wait(self):
        with ServerProcess("--load", "60", ready=False) as server:
            start = time.monotonic()
            assert server.terminate() == 0
            assert time.monotonic() - start < 3

    def test_a_hung_engine_is_not_ready_and_ends_the_process_with_a_reason(self):
        with ServerProcess("--watchdog", "1") as server, Peer(server.address) as peer:
            peer.ask("hangs", seed=50)
            assert peer.receive().type == "accepted"
            wait_until(lambda: server.probe("readyz")[0] == 503)
            error = peer.receive()
            assert (error.code, error.retryable) == ("lost", True) and "no sign of life" in error.message
            assert server.finish(10) == 1
            assert any("ERROR the refiner has given no sign of life" in line for line in server.log)

    def test_steps_are_signs_of_life(self):
        with ServerProcess("--watchdog", "0.5") as server, RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub", seed=27).shape == (32, 48, 3)

    def test_it_is_not_ready_while_draining(self):
        with ServerProcess() as server, Peer(server.address) as peer:
            peer.ask("running", seed=27)
            assert peer.receive().type == "accepted"
            wait_until(lambda: server.metric("diffjscc_running_requests") == 1)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.probe("readyz") == (503, "draining\n"))
            assert server.probe("livez")[0] == 200 and server.metric("diffjscc_draining") == 1
            assert server.finish(10) == 0

    def test_a_stopped_process_is_not_live(self):
        """The loop hangs: SIGSTOP would stop the page too, so that it is the loop's own clock that is turned back."""
        health = Health()
        assert health.live() == ""
        health._turn -= LOOP_SECONDS + 1
        assert "hung" in health.live()

    def test_slow_sockets_do_not_keep_probes_out(self, server):
        stalled = [socket.create_connection(host_and_port(server)) for _ in range(100)]
        for connection in stalled:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        start = time.monotonic()
        for _ in range(10):
            assert server.probe("readyz") == (200, "ok\n")
        assert time.monotonic() - start < 2
        # The oldest were closed; the others are after some seconds.
        stalled[0].settimeout(5)
        assert stalled[0].recv(1) == b""
        for connection in stalled:
            connection.close()

    def test_systemd_is_told_and_its_watchdog_fed(self, tmp_path, monkeypatch):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(str(tmp_path / "notify"))
            supervisor.settimeout(20)
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            monkeypatch.setenv("WATCHDOG_USEC", "400000")
            messages = []
            with ServerProcess() as server:
                while messages.count("WATCHDOG=1") < 3:
                    messages.append(supervisor.recv(1000).decode())
                assert server.terminate() == 0
            supervisor.setblocking(False)
            try:
                while True:
                    messages.append(supervisor.recv(1000).decode())
            except BlockingIOError:
                pass
        assert any(message.startswith("READY=1\nSTATUS=serving stub, other on tcp://") for message in messages)
        assert messages[-1].startswith("STOPPING=1")
