# SPDX-License-Identifier: GPL-3.0-or-later
"""Real server processes for tests and measurements."""

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

STUB = Path(__file__).with_name("stub_server.py")


class ServerProcess:
    """A server in a process of its own, ready when constructed unless ``ready`` is False, when it may still be loading.

    command  the stub's unless another is given

    address, page  where it listens
    log            lines of its standard error; output: of its standard output
    """

    def __init__(self, *arguments, command=(sys.executable, STUB), timeout=60.0, ready=True):
        self.process = subprocess.Popen(
            [str(part) for part in (*command, *arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log, self.output = [], []
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stderr, self.log), (self.process.stdout, self.output))
        ]
        for thread in self._threads:
            thread.start()
        self.address = self._said(r"serving .* on (\S+) \(" if ready else r"listening on ([^\s\"]+)", timeout)
        self.page = self._said(r"status on ([^\s\"]+)", timeout)

    @staticmethod
    def _read(stream, lines):
        for line in stream:
            lines.append(line.rstrip())

    def _said(self, pattern, timeout):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and (self.process.poll() is None or self._threads[0].is_alive()):
            for line in list(self.log):
                if found := re.search(pattern, line):
                    return found[1]
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f"server did not say {pattern}:\n" + "\n".join(self.log))

    def get(self, path=""):
        with urllib.request.urlopen(self.page + path, timeout=10) as response:
            return response.read().decode()

    def probe(self, path):
        """(status, body) of a path; status 0 where there is no answer."""
        try:
            with urllib.request.urlopen(self.page + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name, **labels):
        """The sum of a metric over the labels that are not given; 0 where it has none yet."""
        families = text_string_to_metric_families(self.get("metrics"))
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def computed(self):
        """Seeds of the images that the stub has begun to compute, in order."""
        return self._seeds("computed")

    def completed(self):
        """Seeds, of 40 … 49, of the images that the stub has computed to the end, in order."""
        return self._seeds("completed")

    def _seeds(self, word):
        return [int(line.split()[1]) for line in list(self.output) if line.startswith(word)]

    def memory(self, kind="VmRSS"):
        """Bytes, as the kernel counts them: VmRSS resident, VmHWM the most that ever were, VmPeak the most address space."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"{kind}:\s+(\d+) kB", status)[1])

    def terminate(self, timeout=20.0):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.finish(timeout)

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        return self.finish(10.0)

    def finish(self, timeout):
        status = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(5.0)
        return status

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if self.process.poll() is None:
            self.kill()
        if kind is None:
            assert not any("Traceback" in line for line in self.log), "\n".join(self.log)


def image(height=32, width=48, seed=0):
    """uint8 (height, width, 3): noise, different for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def wait_until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def process_figures(process):
    """(resident MB, descriptors, threads)."""
    folder = Path(f"/proc/{process}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1000, len(list((folder / "fd").iterdir())), int(status["Threads"])
