#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A refinement server whose refiner takes a given time and inverts the image: all of the service but torch.

The seed says what the stub does besides: 1 … 9 raises; 10 … 19 takes 1 … 10 steps; 20 … 29 takes ten steps of 0.1 s;
40 … 49 takes 600 steps of 0.1 s, so that what does not wait for its end is much faster on any machine; 50 … 59 hangs;
60 … 69 takes 5 s.
An image of more than 2 megapixels is computed in tiles, one for each megapixel, each of which takes as long as a small image.
Every image that is begun is a line on standard output, "computed", its seed and the size of its batch; at the end of the last
step of seeds 40 … 49 there is another one, "completed" and the seed.
"""

import argparse
import logging
import sys
import time

import numpy as np

from diffjscc.cli.serve import host_and_port
from diffjscc.serve.backend import LocalBackend
from diffjscc.serve.logs import configure
from diffjscc.serve.process import run_process
from diffjscc.serve.server import Server


class Stub:
    """Inverts images, in ``seconds`` a batch and ``each`` more an image; ``any_seed``: whatever their seeds say."""

    refiners = loaded = ("stub", "other")

    def __init__(self, seconds, each, any_seed=False, load=0.0):
        self._seconds, self._each, self._any_seed, self._load = seconds, each, any_seed, load

    def prepare(self):
        time.sleep(self._load)

    def memory(self):
        return {"cuda:0": 1e9}

    def run(self, batch, on_step, pause):
        seeds = [0 if self._any_seed else item.seed for item in batch.items]
        if any(1 <= seed <= 9 for seed in seeds):
            raise ValueError("this seed is not to be refined\nat all")
        for seed in seeds:
            print(f"computed {seed} {len(seeds)}", flush=True)
        steps, wait = max([seed - 9 for seed in seeds if 10 <= seed <= 19], default=1), 0.0
        if any(20 <= seed <= 29 for seed in seeds):
            steps, wait = 10, 0.1
        if any(40 <= seed <= 49 for seed in seeds):
            steps, wait = 600, 0.1
        if any(50 <= seed <= 59 for seed in seeds):
            time.sleep(3600)
        if any(60 <= seed <= 69 for seed in seeds):
            time.sleep(5)
        if batch.is_tiled:
            for _ in range(batch.items[0].pixels.size // 3_000_000):
                pause()
                time.sleep(self._seconds)
        for step in range(steps):
            time.sleep(wait or (self._seconds + self._each * len(seeds)) / steps)
            shown = batch.previews if step + 1 < steps else ()
            on_step(step + 1, steps, {index: batch.items[index].pixels for index in shown})
        for seed in seeds:
            # Not of every seed: measurements use this stub too.
            if 40 <= seed <= 49:
                print(f"completed {seed}", flush=True)
        return [np.ascontiguousarray(255 - item.pixels) for item in batch.items]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", default="tcp://127.0.0.1:*")
    parser.add_argument("--seconds", type=float, default=0.005)
    parser.add_argument("--each", type=float, default=0.0)
    parser.add_argument("--any-seed", action="store_true", help="seeds mean nothing")
    parser.add_argument("--keep", type=int, default=1 << 20)
    parser.add_argument("--max-queue", type=int, default=64)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--load", type=float, default=0.0, help="seconds that loading takes")
    parser.add_argument("--watchdog", type=float, default=600.0)
    parser.add_argument("--status", type=host_and_port, default="127.0.0.1:0")
    parser.add_argument("--public-status", action="store_true")
    parser.add_argument("--status-name", action="append", default=[])
    parser.add_argument("--no-images", action="store_true")
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--log", default="")
    parser.add_argument("--drain", type=float, default=10.0)
    parser.add_argument("--keys")
    parser.add_argument("--clients")
    parser.add_argument("--clock-ahead", type=float, default=0.0, help="seconds by which the wall clock of this machine is wrong")
    arguments = parser.parse_args()
    wall = time.time
    time.time = lambda: wall() + arguments.clock_ahead
    if arguments.log:
        configure(arguments.log)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    server = Server(
        LocalBackend(Stub(arguments.seconds, arguments.each, arguments.any_seed, arguments.load)),
        arguments.bind,
        max_queue=arguments.max_queue,
        max_batch=arguments.max_batch,
        keep=arguments.keep,
        server_keys=arguments.keys,
        clients=arguments.clients,
        insecure=arguments.insecure,
        status=arguments.status,
        public_status=arguments.public_status,
        status_names=tuple(arguments.status_name),
        images=not arguments.no_images,
        drain=arguments.drain,
        watchdog=arguments.watchdog,
    )
    sys.exit(run_process(server))


if __name__ == "__main__":
    main()
