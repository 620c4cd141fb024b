# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium that opens a page, is clicked and dragged, and shows what it shows."""

import base64
import io
import json
import os
import select
import shlex
import shutil
import subprocess
import time

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """Driven by the DevTools protocol over a pair of pipes. ``errors`` holds what the page's scripts raised."""

    def __init__(self, folder, width=1280, height=1600):
        program = next(path for path in map(shutil.which, NAMES) if path)
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        options = (
            "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run"
            f" --disable-background-networking --remote-debugging-pipe --user-data-dir={folder} --window-size={width},{height}"
        )
        # Chromium talks over the descriptors 3 and 4.
        command = f"exec {shlex.quote(program)} {options} about:blank 3<&{reads} 4>&{writes}"
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(reads, writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(reads)
        os.close(writes)
        self._number, self._buffer, self._session, self.errors = 0, b"", None, []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path):
        self._call("Page.navigate", url=f"file://{path}")
        deadline = time.monotonic() + 60
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            assert time.monotonic() < deadline
        # Images of the page are decoded.
        self.run("Promise.all([...document.images].map((image) => image.decode()))")

    def run(self, script):
        """The value of a script's last expression, a promise's included."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def drag(self, start, end):
        """Presses the mouse at a point of the window, moves it to another, releases it."""
        self._mouse("mouseMoved", start, 0)
        self._mouse("mousePressed", start, 1)
        for step in range(1, 6):
            self._mouse("mouseMoved", [a + (b - a) * step / 5 for a, b in zip(start, end)], 1)
        self._mouse("mouseReleased", end, 0)

    def hover(self, point):
        self._mouse("mouseMoved", point, 0)

    def click(self, point):
        self.drag(point, point)

    def key(self, name, code):
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def box(self, selector, index=0):
        """Where an element is in the window: left, top, width, height; it is scrolled to first."""
        return self.run(
            f"(() => {{ const e = document.querySelectorAll({selector!r})[{index}]; e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )

    def pixels(self):
        """The window, uint8 RGB (H, W, 3)."""
        content = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def close(self):
        self._process.kill()
        self._process.wait(20)
        os.close(self._read)
        os.close(self._write)

    def _mouse(self, kind, point, buttons):
        self._call(
            "Input.dispatchMouseEvent",
            **{"type": kind, "x": point[0], "y": point[1], "buttons": buttons},
            button="left" if buttons or kind == "mouseReleased" else "none",
            clickCount=1 if kind != "mouseMoved" else 0,
        )

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])

    def _next(self, seconds=60):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], seconds)
            assert ready, "the browser does not answer"
            content = os.read(self._read, 1 << 20)
            assert content, "the browser has ended"
            self._buffer += content
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)
