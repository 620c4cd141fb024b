#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the refinement service costs, bears and gains: a table of measurements beside their goals.

    service.py                  on the CPU, with real server processes on loopback
    service.py --device cuda    the bundled refiner on a GPU
    service.py --only load      one of latency, load, batching

Latency and batching compare medians of runs that take turns, so that whatever else the machine does meets both alike.
"""

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve.processes import ServerProcess

from diffjscc.serve import RefineClient

HEIGHT, WIDTH = 512, 768
CLIENTS, REQUESTS, WARM_UP = 64, 1000, 500
BATCH = 8


def photograph():
    from skimage import data
    from skimage.transform import resize

    return (resize(data.astronaut(), (HEIGHT, WIDTH)) * 255).astype(np.uint8)


def mini_server(arguments):
    command = (sys.executable, "-m", "diffjscc.cli", "serve", "--bind", "tcp://127.0.0.1:*", "--status", "127.0.0.1:0")
    return ServerProcess("--device", arguments.device, "--threads", arguments.threads, command=command, timeout=300)


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def taking_turns(first, second, repeats):
    """Median seconds of two runs, and of the second less the first, after one of each to warm up."""
    pairs = [(timed(first), timed(second)) for _ in range(repeats + 1)][1:]
    return [statistics.median(times) for times in (*zip(*pairs), [b - a for a, b in pairs])]


def latency(arguments):
    """An image through the service, over the same image through the pipeline in this process."""
    import torch

    from diffjscc.hub import load_refiner
    from diffjscc.serve.allocator import keep_pages

    # As the server does, so that the difference is the service's.
    keep_pages()
    torch.set_num_threads(arguments.threads)
    refiner, pixels = load_refiner("mini", arguments.device), photograph()
    here = lambda: refiner(pixels, 1.0, generator=torch.Generator().manual_seed(0)).images[0]  # noqa: E731
    with mini_server(arguments) as server, RefineClient(server.address) as client:
        for encoding, goal in {"raw": "≤ 10 ms", "png": ""}.items():
            there = lambda encoding=encoding: client.refine(pixels, 1.0, encoding=encoding)  # noqa: E731
            within, _, added = taking_turns(here, there, arguments.repeats)
            what = f"added latency, {WIDTH}×{HEIGHT}, {encoding}, batch 1 ({1000 * within:.0f} ms in-process)"
            yield what, f"{1000 * added:.1f} ms", goal


def load(arguments):
    """Many clients against a refiner of 5 ms."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    lost = []

    def many(clients, first, count):
        """Seeds first … first + count − 1, each asked once; the seconds it took."""

        def run(client, seeds):
            for seed in seeds:
                try:
                    if not np.array_equal(client.refine(pixels, 1.0, "stub", seed=seed, encoding="raw"), 255 - pixels):
                        lost.append(seed)
                except Exception:
                    lost.append(seed)

        seeds = range(first, first + count)
        threads = [
            threading.Thread(target=run, args=(client, seeds[index :: len(clients)])) for index, client in enumerate(clients)
        ]
        return timed(lambda: ([thread.start() for thread in threads], [thread.join() for thread in threads]))

    for refiner, options in {"a batch": ("--seconds", 0.005), "an image": ("--seconds", 0, "--each", 0.005)}.items():
        lost.clear()
        with ServerProcess(*options) as server:
            clients = [RefineClient(server.address) for _ in range(CLIENTS)]
            many(clients, 1000, WARM_UP)
            warm = server.memory()
            taken = many(clients, 10_000, REQUESTS)
            grown = server.memory() / warm - 1
            for client in clients:
                client.close()
            computed = [seed for seed in server.computed() if seed >= 10_000]
        what = f"{CLIENTS} clients, {REQUESTS} requests, refiner of 5 ms {refiner}: "
        yield what + "rate", f"{REQUESTS / taken:.0f} a second", "≥ 150"
        yield what + "lost", str(len(lost) + len(set(range(10_000, 10_000 + REQUESTS)) - set(computed))), "0"
        yield what + "computed twice", str(len(computed) - len(set(computed))), "0"
        yield what + "memory growth after warm-up", f"{100 * grown:.1f} %", "< 5 %"


def batching(arguments):
    """Images asked for at once, and one after the other."""
    pixels = photograph()
    with mini_server(arguments) as server, RefineClient(server.address) as client:

        def at_once():
            for job in [client.submit(pixels, 1.0, seed=seed, encoding="raw") for seed in range(BATCH)]:
                job.result()

        def in_turn():
            for seed in range(BATCH):
                client.refine(pixels, 1.0, seed=seed, encoding="raw")

        together, alone, _ = taking_turns(at_once, in_turn, max(2, arguments.repeats // 4))
    goal = "> 1×" if arguments.device == "cpu" else "4×"
    yield f"{BATCH} at once, {WIDTH}×{HEIGHT}: {together:.2f} s; in turn {alone:.2f} s", f"{alone / together:.2f}×", goal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where mini computes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="runs that a median is taken of (default: %(default)s)")
    parser.add_argument("--only", choices=("latency", "load", "batching"), help="measure only this")
    arguments = parser.parse_args()
    print("| refinement service | measured | goal |\n|---|---|---|")
    for measure in (latency, load, batching):
        if arguments.only in (None, measure.__name__):
            for row in measure(arguments):
                print("| {} | {} | {} |".format(*row), flush=True)


if __name__ == "__main__":
    main()
