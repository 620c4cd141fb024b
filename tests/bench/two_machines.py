#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two machines in a Ray cluster, one of which is cut off from the network in the middle: do requests go on, and does it come back?

    sudo two_machines.py

The machines are two network namespaces of this one, with a Ray node each and a cable (veth) in between. The server runs in the
first. Clients ask all the time; then the second machine's link is taken down, and up again. Ray is started again there whenever it
ends, as systemd would. Shown are the images that each machine refined in each phase. The exit status is 1 where a request was lost,
where requests stopped for longer than a deadline, or where the second machine did not come back.

It needs root, for the namespaces; without it, it says so and exits with 2.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from serve.processes import ServerProcess, image, wait_until

from diffjscc.serve import RefineClient, RefineError

NAMES, ADDRESSES, PORT = ("djscc-a", "djscc-b"), ("10.213.7.1", "10.213.7.2"), 6399

#: Seconds of each phase, of a request's deadline, of a batch, and for the second machine to come back.
PHASE, DEADLINE, BATCH, RETURN = 15.0, 90.0, 0.2, 180.0

STUB = Path(__file__).parents[1] / "serve" / "ray_stub_server.py"

RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1")

#: Ray notices within seconds that a machine is gone, instead of within a minute.
SOON = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000", "RAY_health_check_failure_threshold": "3"}


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def lay_cable():
    """Two namespaces with a cable in between."""
    for name in NAMES:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "eth", "netns", NAMES[0], "type", "veth", "peer", "name", "eth", "netns", NAMES[1])
    for name, address in zip(NAMES, ADDRESSES):
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth")
        ip("-n", name, "link", "set", "eth", "up")


def set_link(state):
    ip("-n", NAMES[1], "link", "set", "eth", state)


class Node:
    """Ray in a namespace, which is started again when it ends."""

    def __init__(self, number, environment):
        where = ("--head", "--port", PORT, "--include-dashboard", "0") if number == 0 else ("--address", f"{ADDRESSES[0]}:{PORT}")
        words = ("ip", "netns", "exec", NAMES[number], *RAY, *where, "--node-ip-address", ADDRESSES[number])
        self._command, self._environment = [str(word) for word in words], environment
        self._ended = threading.Event()
        self.starts = 0
        self._process = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while not self._ended.is_set():
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self.starts += 1
            self._process.wait()
            self._ended.wait(1.0)

    def end(self):
        self._ended.set()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()


def namespace_of(process):
    """0 or 1; None where the process has ended."""
    try:
        inode = os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return None
    return next((number for number, name in enumerate(NAMES) if os.stat(f"/run/netns/{name}").st_ino == inode), None)


class Load:
    """Clients that ask all the time, and who answered when."""

    def __init__(self, address, folder):
        self._folder, self._stop = folder, threading.Event()
        self._machines = {}
        self.lost, self.wrong, self.ends = [], 0, []
        self._seeds = iter(range(1000, 1 << 60))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(address,), daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _ask(self, address):
        with RefineClient(address) as client:
            while not self._stop.is_set():
                with self._lock:
                    seed = next(self._seeds)
                try:
                    refined = client.refine(image(seed=seed), 1.0, "stub", seed=seed, deadline=DEADLINE, encoding="raw")
                    self.wrong += not np.array_equal(refined, 255 - image(seed=seed))
                    self.ends.append(time.monotonic())
                except RefineError as error:
                    self.lost.append(f"{error.code}: {error.message}")

    def refined_by(self, since):
        """Images that each machine has completed since a moment."""
        counts = [0, 0]
        file = self._folder / "completed"
        for line in file.read_text().splitlines() if file.exists() else ():
            _, process, moment = line.split()
            if process not in self._machines:
                self._machines[process] = namespace_of(process)
            if float(moment) >= since and self._machines[process] is not None:
                counts[self._machines[process]] += 1
        return counts

    def end(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE + 10)


def measure(folder):
    """Prints a row for each phase; returns the exit status."""
    environment = (
        os.environ
        | SOON
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
            "RAY_ADDRESS": f"{ADDRESSES[0]}:{PORT}",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "PYTHONPATH": os.pathsep.join([str(STUB.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
    )
    os.environ.update(environment)
    nodes = [Node(0, environment)]
    try:
        time.sleep(8)
        nodes.append(Node(1, environment))
        time.sleep(12)
        arguments = ("--folder", folder, "--count", "2", "--ray", "auto", "--seconds", BATCH, "--any-seed")
        with ServerProcess(*arguments, command=(sys.executable, STUB), timeout=120) as server:
            load = Load(server.address, folder)
            print("| phase | seconds | images of machine 1 | of machine 2 | longest gap, s |\n|---|---|---|---|---|", flush=True)

            def phase(name, wait):
                start = time.monotonic()
                wait(start)
                ends = [start, *(moment for moment in load.ends if moment >= start), time.monotonic()]
                gap = max(b - a for a, b in zip(ends, ends[1:]))
                first, second = load.refined_by(start)
                print(f"| {name} | {time.monotonic() - start:.0f} | {first} | {second} | {gap:.1f} |", flush=True)
                return first, second, gap

            try:
                both = phase("both", lambda start: time.sleep(PHASE))
                set_link("down")
                cut = phase("the second is cut off", lambda start: time.sleep(3 * PHASE))
                set_link("up")
                back = phase("until it is back", lambda start: wait_until(lambda: load.refined_by(start + 5)[1] > 0, RETURN))
                again = phase("both again", lambda start: time.sleep(PHASE))
            finally:
                load.end()
                print(f"requests lost: {len(load.lost)} {load.lost[:3]}; wrong: {load.wrong}; answered: {len(load.ends)}")
                print("\n".join(line for line in server.log if "worker" in line))
                server.terminate(30)
        good = min(both[:2]) > 0 and cut[0] > 0 and min(again[:2]) > 0 and max(cut[2], back[2], again[2]) < DEADLINE
        return int(bool(load.lost) or load.wrong > 0 or not good)
    finally:
        for node in reversed(nodes):
            node.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("two_machines.py makes network namespaces, which needs root: run it with sudo", file=sys.stderr)
        sys.exit(2)
    if arguments.inside:
        with tempfile.TemporaryDirectory() as folder:
            sys.exit(measure(Path(folder)))
    try:
        lay_cable()
        # The server and its clients are on the first machine.
        status = subprocess.run(["ip", "netns", "exec", NAMES[0], sys.executable, __file__, "--inside"]).returncode
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name])
    sys.exit(status)


if __name__ == "__main__":
    main()
