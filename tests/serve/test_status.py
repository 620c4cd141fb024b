# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page and the metrics: there, right, valid, and closed to what comes from outside."""

import math
import re
import socket
import urllib.error
from html.parser import HTMLParser

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.processes import ServerProcess, image

from diffjscc.serve import RefineClient, RefineError
from diffjscc.serve.status import Status

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
    for words in ("stub, other", "Latency, 99 %", "GPU memory, cuda:01.0 GB", "ok2", "failed1", "stub, 300×200, 2.5 dB"):
        assert words in page.text, words


def test_the_page_runs_nothing_and_loads_nothing_from_elsewhere(server):
    page = Strict()
    page.feed(server.get())
    assert "script" not in page.tags and "<script>alert(1)</script>&\"'" in page.text
    assert all(reference == "/metrics" or reference.startswith("data:image/jpeg;base64,") for reference in page.references)
    # Of the first image, before and after; and of the second, unless it came within a second of the first.
    assert len([reference for reference in page.references if reference.startswith("data:")]) in (2, 4)


def test_the_page_takes_an_image_a_second(monkeypatch):
    status = Status(("stub",), dict, lambda: (0, 0))
    assert status.wants_image()
    monkeypatch.setattr("diffjscc.serve.status.IMAGE_SECONDS", math.inf)
    assert not status.wants_image()
    monkeypatch.setattr("diffjscc.serve.status.IMAGE_SECONDS", 0.0)
    assert status.wants_image()


def test_metrics_are_what_prometheus_reads(server):
    metrics = {family.name: family for family in text_string_to_metric_families(server.get("metrics"))}
    outcomes = {s.labels["outcome"]: s.value for s in metrics["diffjscc_requests"].samples if s.name.endswith("_total")}
    assert outcomes == {"ok": 2, "failed": 1}
    assert server.metric("diffjscc_images_total") == 3
    assert server.metric("diffjscc_request_seconds_count") == 2
    assert server.metric("diffjscc_queued") == server.metric("diffjscc_running") == 0
    assert server.metric("diffjscc_gpu_memory_bytes", device="cuda:0") == 1e9
    assert server.metric("process_resident_memory_bytes") > 1e6


def test_health_is_ok_and_the_rest_is_not_found(server):
    assert server.get("healthz") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("../../etc/passwd")


def test_browsers_that_stall_keep_nobody_out_for_long(server):
    host, port = re.fullmatch(r"http://(.*):(\d+)/", server.page).groups()
    stalled = [socket.create_connection((host, port)) for _ in range(10)]
    assert server.get("healthz") == "ok\n"
    for connection in stalled:
        connection.close()
