#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers gain on one machine, and what bounds them: a table of images a second.

    service_workers.py               the bundled refiner on two CPU cores, then a stub that only waits
    service_workers.py --only stub   one of mini, stub

Servers take turns, and the median of their rates is given, so that whatever else the machine does meets all alike.
"""

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve.processes import STUB, ServerProcess
from service import HEIGHT, WIDTH, photograph

from diffjscc.serve import RefineClient

#: Requests that are always outstanding.
CONCURRENT = 12

LOCAL_STUB, RAY_STUB = (sys.executable, STUB), (sys.executable, STUB.with_name("ray_stub_server.py"))


def serving(*arguments):
    """The command's server, on any port."""
    command = (sys.executable, "-m", "diffjscc.cli", "serve", "--bind", "tcp://127.0.0.1:*", "--status", "127.0.0.1:0")
    return lambda: ServerProcess(*arguments, command=command, timeout=300)


def rate(address, images, first, **request):
    """Images a second, seeds from ``first``, with enough requests that no worker waits for one."""
    pixels = photograph()
    with RefineClient(address) as client, ThreadPoolExecutor(CONCURRENT) as pool:
        start = time.perf_counter()
        list(pool.map(lambda seed: client.refine(pixels, 1.0, seed=seed, deadline=600.0, **request), range(first, first + images)))
        return images / (time.perf_counter() - start)


def compare(servers, images, repeats, **request):
    """Rows of the servers, by name: the median of their rates, and over the first one's."""
    with ExitStack() as stack:
        started = [stack.enter_context(make()) for make in servers.values()]
        for server in started:
            # A server that is killed cannot end its Ray.
            stack.callback(server.terminate)
        addresses = [server.address for server in started]
        for address in addresses:
            rate(address, CONCURRENT, 10_000, **request)
        rounds = [[rate(address, images, 1000 * (n + 20), **request) for address in addresses] for n in range(repeats)]
    rates = [statistics.median(column) for column in zip(*rounds)]
    for name, measured in zip(servers, rates):
        yield name, f"{measured:.2f}" if measured < 10 else f"{measured:.0f}", f"{measured / rates[0]:.2f}×"


def mini(repeats):
    batches = ("--max-batch", "2")
    servers = {
        "--workers local, 2 threads": serving("--threads", "2", *batches),
        "--workers ray, 1 worker of 1 thread": serving("--workers", "ray", "--count", "1", *batches),
        "--workers ray, 2 workers of 1 thread": serving("--workers", "ray", "--count", "2", *batches),
    }
    for name, *row in compare(servers, 24, repeats, encoding="raw"):
        yield f"mini: {name}", *row


def stub(repeats):
    for seconds, encoding in ((0.005, "raw"), (0.0, "raw"), (0.005, "png")):
        options = ("--max-batch", "1", "--seconds", str(seconds))
        servers = {
            "local": lambda options=options: ServerProcess("--any-seed", *options, command=LOCAL_STUB),
            "1 Ray worker": lambda options=options: ServerProcess("--count", "1", *options, command=RAY_STUB),
            "2 Ray workers": lambda options=options: ServerProcess("--count", "2", *options, command=RAY_STUB),
        }
        for name, *row in compare(servers, 300, repeats, refiner="stub", encoding=encoding):
            yield f"stub of {1000 * seconds:.0f} ms, {encoding}: {name}", *row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs that a median is taken of (default: %(default)s)")
    parser.add_argument("--only", choices=("mini", "stub"), help="measure only this")
    arguments = parser.parse_args()
    print(f"| {WIDTH}×{HEIGHT}, {CONCURRENT} requests outstanding | images a second | ratio |\n|---|---|---|")
    for measure in (mini, stub):
        if arguments.only in (None, measure.__name__):
            for row in measure(arguments.repeats):
                print("| {} | {} | {} |".format(*row), flush=True)


if __name__ == "__main__":
    main()
