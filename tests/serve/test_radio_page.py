# SPDX-License-Identifier: GPL-3.0-or-later
"""The page and the line of a radio: whatever comes off the air, they are whole, bounded and harmless."""

import html.parser
import math
import urllib.error
import urllib.request

import numpy as np
import pytest

from diffjscc.serve.radio_page import EVENTS, IMAGES, RadioState, bars
from diffjscc.serve.web import WebServer


def state_of():
    return RadioState([("Radio", "zmq"), ("Frequency", "<b>7 MHz</b>")], 250e3)


def full(state, images=20, bursts=2000):
    random = np.random.default_rng(0)
    for index in range(bursts):
        state.burst(10 + math.sin(index), 0.01, random.standard_normal((6144, 2)) @ (1, 1j), np.arange(256) * 1j)
    for index in range(images):
        state._shown = -math.inf
        pixels = random.integers(0, 256, (512, 768, 3), dtype=np.uint8)
        evil = '"><script>alert(1)</script>' + "x" * 5000
        state.image(pixels, {"image_id": index, "width": 768, "height": 512, "callsign": evil, "codec": evil, "snr_db": 9.6})
        state.event(f"<img src=x onerror=alert({index})>\nsecond line" + "y" * 5000)
    state.spectrum(random.standard_normal(256), -20.0, 1.0)
    state.counters({"bursts": {"detected": 5, "rejected": 2}, "dropped": 3, "decoded": 7}, {"dropped": {"<i>queue full": 3}})


class Tags(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.sources = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attributes)


def test_an_empty_page_and_line_say_that_nothing_came():
    page = state_of().page().decode()
    assert page.count("nothing yet") == 4 and "None yet." in page
    assert "0 images" in state_of().line(200)


def test_what_comes_off_the_air_is_escaped_and_bounded():
    state = state_of()
    full(state)
    content = state.page()
    page = content.decode()
    tags = Tags(page)
    assert len(content) < 500_000
    assert tags.found.count("img") == IMAGES == len(tags.sources) and all(
        s.startswith("data:image/jpeg;base64,") for s in tags.sources
    )
    assert not {"script", "b", "i", "iframe"} & set(tags.found)
    assert "&lt;script&gt;" in page and "&lt;i&gt;queue full 3" in page and "3 (&lt;i&gt;queue full 3)" in page
    assert tags.found.count("li") == EVENTS and "second line" not in page
    assert tags.found.count("polyline") == 2 and "the receiver clips: lower its gain" in page


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_values_that_are_no_numbers_spoil_nothing(value):
    state = state_of()
    state.burst(
        10.0 if math.isinf(value) or math.isnan(value) else value, value, np.full(100, value, np.complex64), np.full(256, value)
    )
    state.spectrum(np.full(256, value), value, value)
    Tags(state.page().decode())
    assert "0 images" in state.line(200)


def test_the_line_fits_and_tells_the_same():
    state = state_of()
    full(state)
    line = state.line(300)
    for word in ("20 images", "SNR ", "CFO +2500 Hz", "detected 5", "rejected 2", "level -20 dB CLIPPING"):
        assert word in line
    assert len(state.line(40)) == 40
    assert bars([0, 5, 10]) == "▁▅█" and bars([3.0, 3.0]) == "▁▁" and bars([math.nan]) == ""


def test_the_page_is_served_to_this_machine_alone_and_only_read():
    state = state_of()
    server = WebServer("127.0.0.1", 0, {"/": lambda: (200, state.page(), "text/html; charset=utf-8")})
    try:
        with urllib.request.urlopen(server.address) as answer:
            assert answer.read() == state.page()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for path, method, host, status in [
            ("", "POST", None, 501),
            ("../../etc/passwd", "GET", None, 404),
            ("", "GET", "evil.example", 421),
        ]:
            request = urllib.request.Request(server.address + path, method=method, headers={"Host": host} if host else {})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request)
            assert caught.value.code == status
    finally:
        server.close()
