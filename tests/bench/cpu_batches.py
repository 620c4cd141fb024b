#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images through `mini` on a CPU: one, and eight in one pass, in turn and side by side; with glibc as it is, and keeping pages.

Each setting has a process of its own, because what malloc is told counts from its start. Images are 768×512.
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time

IMAGES = 8


def measure(threads, repeats):
    """Prints seconds an image, each a median: alone, in one pass, in turn, side by side."""
    import numpy as np
    import torch
    from skimage import data
    from skimage.transform import resize

    from diffjscc.serve.backend import Batch, Item
    from diffjscc.serve.engine import Engine

    engine = Engine(["mini"], threads=threads)
    engine.prepare()
    pixels = (resize(data.astronaut(), (512, 768)) * 255).astype(np.uint8)

    def batch(count):
        return Batch(1, "mini", None, None, tuple(Item(pixels, 1.0, seed, None) for seed in range(count)))

    def quiet(*step):
        pass

    refiner = engine._refiner("mini")
    ways = {
        "alone": (1, lambda: engine.run(batch(1), quiet)),
        "one pass": (IMAGES, lambda: engine._run(refiner, batch(IMAGES), quiet)),
        "in turn": (IMAGES, lambda: [engine.run(batch(1), quiet) for _ in range(IMAGES)]),
        "side by side": (IMAGES, lambda: engine.run(batch(IMAGES), quiet)),
    }
    times = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, (count, run) in ways.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append((time.perf_counter() - start) / count)
    assert torch.get_num_threads() == threads
    print(" | ".join(f"{statistics.median(values):.3f} s" for values in times.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs that a median is taken of (default: %(default)s)")
    parser.add_argument("--measure", choices=("plain", "kept"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        if arguments.measure == "kept":
            from diffjscc.serve.allocator import keep_pages

            keep_pages()
        # In a thread, as a server's models are: threads have arenas of their own.
        thread = threading.Thread(target=measure, args=(arguments.threads, arguments.repeats))
        thread.start()
        thread.join()
        return
    print("| an image of 768×512 | alone | eight in one pass | eight in turn | eight side by side |\n|---|---|---|---|---|")
    for kind, name in {"plain": "glibc's own settings", "kept": "pages kept"}.items():
        command = [sys.executable, __file__, "--measure", kind]
        command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
        row = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
