#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A refinement server whose stub refiners are Ray workers. Besides what the stub does, seed 30 kills its worker.

Every image that a worker begins is a line in FOLDER/begun: its seed, the worker's process and the time; each that it completes
is such a line in FOLDER/completed. While FOLDER/broken exists, workers cannot get ready.
"""

import argparse
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from stub_server import Stub

from diffjscc.serve.cluster import RayBackend
from diffjscc.serve.process import run_process
from diffjscc.serve.server import Server


class DeadlyStub(Stub):
    def __init__(self, seconds, each, folder, any_seed):
        super().__init__(seconds, each, any_seed or folder is None)
        self._folder = folder

    def prepare(self):
        if self._folder and (self._folder / "broken").exists():
            raise ValueError("the refiner is broken\nbeyond repair")

    def run(self, batch, on_step, pause):
        self._note("begun", batch)
        if self._folder and not self._any_seed and any(item.seed == 30 for item in batch.items):
            os.kill(os.getpid(), signal.SIGKILL)
        refined = super().run(batch, on_step, pause)
        self._note("completed", batch)
        return refined

    def _note(self, name, batch):
        if self._folder:
            with open(self._folder / name, "a") as file:
                file.writelines(f"{item.seed} {os.getpid()} {time.monotonic()}\n" for item in batch.items)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int)
    parser.add_argument("--ray", default="local", help="address of a cluster")
    parser.add_argument("--seconds", type=float, default=0.005)
    parser.add_argument("--each", type=float, default=0.0)
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--any-seed", action="store_true", help="seeds mean nothing")
    parser.add_argument("--folder", type=Path, help="where workers write notes; without it they write none, and seeds mean nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    make = partial(DeadlyStub, arguments.seconds, arguments.each, arguments.folder, arguments.any_seed)
    server = Server(
        RayBackend(make, arguments.count, address=arguments.ray),
        "tcp://127.0.0.1:*",
        max_batch=arguments.max_batch,
        status=("127.0.0.1", 0),
        drain=10.0,
    )
    sys.exit(run_process(server))


if __name__ == "__main__":
    main()
