# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of a batch on a CPU: one thread per image instead of one pass over all of them.

One pass over eight images moves eight times the activations through the same caches, and each layer waits for its slowest
thread. With one thread per image neither happens: with `mini` on two cores, eight images take a tenth less time than one
after the other; in a single pass they take a tenth more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def parallel_map(run: Callable[[int], T], count: int, threads: int) -> list[T]:
    """[run(0), … run(count − 1)], computed ``threads`` at a time with one of torch's threads each.

    A remainder of fewer than ``threads`` calls shares torch's threads among them. The first error is raised, and no further
    call is begun after it. The threads are daemons: a running network does not keep the process alive.
    """
    import torch

    even = count - count % threads
    try:
        return [*_run_all(run, range(even), threads, threads), *_run_all(run, range(even, count), count - even, threads)]
    finally:
        # MKL's number of threads belongs to the process, and the threads above have changed it.
        torch.set_num_threads(threads)


def _run_all(run: Callable[[int], T], numbers: range, workers: int, threads: int) -> list[T]:
    """run(n) for each of ``numbers``, by ``workers`` threads that share ``threads`` of torch's."""
    import torch

    results: dict[int, T] = {}
    errors: list[BaseException] = []
    remaining = iter(numbers)

    def work() -> None:
        # Torch's number of threads is set per thread (MKL's is not).
        torch.set_num_threads(threads // workers)
        for number in remaining:
            try:
                results[number] = run(number)
            except BaseException as error:
                errors.append(error)
            if errors:
                return

    pool = [threading.Thread(target=work, daemon=True, name=f"diffjscc-refine-{k}") for k in range(workers if numbers else 0)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if errors:
        raise errors[0]
    return [results[number] for number in numbers]
