# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of a batch on a CPU: each by itself, several at once.

One pass over eight images moves eight times the activations through the same caches, and every layer waits for its slowest
thread. A thread an image shares neither: with `mini` on two cores it takes a tenth off what the images take in turn, where a
single pass adds a tenth.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def side_by_side(run: Callable[[int], T], count: int, threads: int) -> list[T]:
    """[run(0), … run(count − 1)], ``threads`` at once; torch's threads are shared out among those that are left over.

    The first error is raised, and nothing that was not begun before it is begun. The threads are daemons: a network that
    runs does not keep a process that ends alive.
    """
    import torch

    even = count - count % threads
    try:
        return [*_at_once(run, range(even), threads, threads), *_at_once(run, range(even, count), count - even, threads)]
    finally:
        # MKL's number of threads is the process's, and the last to set it were those that are gone.
        torch.set_num_threads(threads)


def _at_once(run: Callable[[int], T], numbers: range, workers: int, threads: int) -> list[T]:
    """Those of ``numbers``, by so many workers, which share ``threads`` of torch's."""
    import torch

    results: dict[int, T] = {}
    errors: list[BaseException] = []
    left = iter(numbers)

    def work() -> None:
        # Torch's number is a thread's own, but for MKL.
        torch.set_num_threads(threads // workers)
        for number in left:
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
