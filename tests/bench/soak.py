#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hours of everything at once against a real server: what is lost, what is computed twice, and what grows.

    soak.py --hours 8
    soak.py --hours 0.1 --every 30     the same in six minutes, with a row of figures every 30 s

Clients with keys ask for images of many sizes and encodings. Meanwhile some requests are cancelled, some connections break, some
clients do not read, some send rubbish, a key is revoked and given back, and now and then the server is killed with SIGKILL and
started again at once. The refiner is the stub of the tests, which inverts an image: every answer is checked pixel by pixel.

Each row shows resident memory, descriptors and threads of the server and of this process. At the end: 0 lost, 0 wrong, 0 computed
twice by one server, or the exit status is 1.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve.peers import Peer, Relay
from serve.processes import ServerProcess, process_figures

from diffjscc.serve import RefineClient, RefineError, RefineTimeout
from diffjscc.serve.keys import generate, load_pair, load_public

#: Clients that ask in turn, and seconds that a request may take. It includes the time that a server takes to start again.
CLIENTS, DEADLINE = 4, 600.0

#: Seconds between two kills, revocations, broken connections and slow readers.
KILL, REVOKE, CUT, UNREAD = 95.0, 20.0, 7.0, 10.0

SIZES = ((16, 16), (48, 32), (64, 64), (255, 257), (512, 768), (1024, 1536))


class Soak:
    """Everything at once. Each method runs in a thread of its own until `stop` is set."""

    def __init__(self, folder, seed):
        self.stop, self.counts, self.lock = threading.Event(), Counter(), threading.Lock()
        self.folder, self.random = folder, random.Random(seed)
        generate(folder / "server")
        for number in range(CLIENTS):
            generate(folder / "clients", f"client{number}")
        for name in ("reader", "revoked"):
            generate(folder / "clients", name)
        self.server = self.start("tcp://127.0.0.1:*")
        self.address = self.server.address
        self.twice = 0
        self.relay = Relay(self.address)
        self.seeds = iter(range(1000, 1 << 60))

    def start(self, address):
        keys = "--keys", self.folder / "server", "--clients", self.folder / "clients"
        options = "--any-seed", "--seconds", "0.02", "--keep", 64_000_000, "--max-queue", "32"
        return ServerProcess("--bind", address, *keys, *options)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def client(self, name, address=None):
        secret = self.folder / "clients" / f"{name}.key_secret"
        outage = lambda line: self.count("outages reported")  # noqa: E731
        return RefineClient(address or self.address, self.folder / "server/server.key", secret, 1000, on_outage=outage)

    def ask(self, number):
        """A client that asks for one image after the other, now and then for several at once, or cancels."""
        chance = random.Random(number)
        address = self.relay.address if number % 2 else self.address
        with self.client(f"client{number}", address) as client:
            while not self.stop.is_set():
                jobs = [self.submit(client, chance) for _ in range(chance.choice((1, 1, 1, 8)))]
                if chance.random() < 0.1:
                    jobs.pop()[0].cancel()
                    self.count("cancelled")
                for job, pixels, encoding in jobs:
                    self.check(job, pixels, encoding)

    def submit(self, client, chance):
        height, width = chance.choice(SIZES)
        with self.lock:
            seed = next(self.seeds)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        encoding = chance.choice(("raw", "png", "jpeg"))
        progress = (lambda *_: None) if chance.random() < 0.3 else None
        options = {"seed": seed, "deadline": DEADLINE, "encoding": encoding, "on_progress": progress, "preview": True}
        return client.submit(pixels, 1.0, "stub", **options), pixels, encoding

    def check(self, job, pixels, encoding):
        try:
            refined = job.result(DEADLINE + 10)
        except RefineError as error:
            self.count("lost")
            print(f"lost: {error.code}: {error.message} ({pixels.shape}, {encoding})", flush=True)
            return
        right = refined.shape == pixels.shape if encoding == "jpeg" else np.array_equal(refined, 255 - pixels)
        self.count("refined" if right else "wrong")

    def kill(self):
        """SIGKILL, and a new server at the same address."""
        while not self.stop.wait(KILL):
            computed = self.server.computed()
            self.server.kill()
            self.count_twice(computed)
            self.server = self.start(self.address)
            self.count("kills")

    def count_twice(self, computed):
        """A server computes no seed twice; another one after a kill may."""
        seeds = [seed for seed in computed if seed >= 1000]
        self.twice += len(seeds) - len(set(seeds))

    def cut(self):
        """Breaks the connections of half of the clients."""
        while not self.stop.wait(self.random.uniform(0.5, 1.5) * CUT):
            self.relay.cut()
            self.count("connections cut")

    def revoke(self):
        """Takes a key away from a client that works, and gives it back: it is shut out meanwhile, and served afterwards."""
        key = self.folder / "clients" / "revoked.key"
        text = key.read_bytes()
        with self.client("revoked") as client:
            while not self.stop.wait(REVOKE):
                pixels = np.zeros((16, 16, 3), np.uint8)
                key.unlink()
                time.sleep(2.5)
                try:
                    client.refine(pixels, 1.0, "stub", deadline=2.0)
                    self.count("served without a key")
                except RefineTimeout:
                    self.count("shut out")
                finally:
                    key.write_bytes(text)
                try:
                    client.refine(pixels, 1.0, "stub", deadline=DEADLINE)
                    self.count("let in again")
                except RefineError:
                    self.count("lost")

    def read_nothing(self):
        """Asks for large images and does not read; then rubbish; then goes away."""
        public, secret = load_pair(self.folder / "clients" / "reader.key_secret")
        curve = {"curve_serverkey": load_public(self.folder / "server/server.key")}
        pixels = np.zeros((1000, 1000, 3), np.uint8)
        while not self.stop.wait(UNREAD):
            with Peer(self.address, rcvhwm=1, rcvbuf=1 << 16, curve_publickey=public, curve_secretkey=secret, **curve) as peer:
                for _ in range(6):
                    with self.lock:
                        seed = next(self.seeds)
                    peer.ask(f"unread {seed}", pixels, seed=seed, width=1000, height=1000, reply_encoding="raw")
                for _ in range(200):
                    peer.send(self.random.randbytes(self.random.randrange(60)))
                self.stop.wait(3.0)
            self.count("slow readers")

    def run(self, seconds, every):
        names = (self.kill, self.cut, self.revoke, self.read_nothing)
        threads = [threading.Thread(target=name, daemon=True) for name in names]
        threads += [threading.Thread(target=self.ask, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        end, rows = time.monotonic() + seconds, []
        titles = "| minutes | server MB | server fds | server threads | client MB | client fds | client threads | refined |"
        print(f"{titles}\n|{'---|' * 8}", flush=True)
        while time.monotonic() < end:
            time.sleep(min(every, max(0.1, end - time.monotonic())))
            row = self.figures(seconds - (end - time.monotonic()))
            if row is not None:
                rows.append(row)
                print("| {:.1f} | {:.0f} | {} | {} | {:.0f} | {} | {} | {} |".format(*row), flush=True)
        self.stop.set()
        for thread in threads:
            thread.join(DEADLINE + 30)
        self.count_twice(self.server.computed())
        return rows

    def figures(self, elapsed):
        """One row; None while the server is being killed."""
        try:
            server = process_figures(self.server.process.pid)
        except (OSError, KeyError):
            return None
        return elapsed / 60, *server, *process_figures(os.getpid()), self.counts["refined"]


def growth(rows, column):
    """Of a column, per cent: the median of the last third of the rows over that of the second third."""
    third = max(1, len(rows) // 3)
    middle, last = ([row[column] for row in part] for part in (rows[third : 2 * third], rows[-third:]))
    return 100 * (statistics.median(last) / statistics.median(middle or last) - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between rows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), arguments.seed)
        rows = soak.run(3600 * arguments.hours, arguments.every)
        tracebacks = sum("Traceback" in line for line in soak.server.log)
        status = soak.server.terminate()
    print("\n" + ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items())))
    print(f"computed twice by one server: {soak.twice}; tracebacks: {tracebacks}; exit status of the last server: {status}")
    names = ("server memory", "server descriptors", "server threads", "client memory", "client descriptors", "client threads")
    print("growth: " + ", ".join(f"{name} {growth(rows, column):+.0f} %" for column, name in enumerate(names, 1)))
    bad = soak.counts["lost"] + soak.counts["wrong"] + soak.counts["served without a key"] + soak.twice + tracebacks + abs(status)
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
