# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of a batch on a CPU: each by itself, several at once.

One pass over eight pictures moves eight times the activations through the same caches, and every layer waits for its slowest
thread. A thread a picture shares neither: with `mini` on two cores it takes a tenth off what the pictures take in turn, where a
single pass adds a tenth.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def side_by_side(run: Callable[[int], T], count: int, threads: int) -> list[T]:
    """[run(0), … run(count − 1)], up to ``threads`` at once; torch's threads are shared out among them.

    The first error is raised, and nothing that was not begun before it is begun. The threads are daemons: a network that
    runs does not keep a process that ends alive.
    """
    import torch

    workers = min(threads, count)
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    numbers = iter(range(count))

    def work() -> None:
        # Torch's number is a thread's own, but for MKL.
        torch.set_num_threads(threads // workers)
        for number in numbers:
            try:
                results[number] = run(number)
            except BaseException as error:
                errors.append(error)
            if errors:
                return

    pool = [threading.Thread(target=work, daemon=True, name=f"diffjscc-refine-{k}") for k in range(workers)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    # MKL's is the process's, and the last to set it were they.
    torch.set_num_threads(threads)
    if errors:
        raise errors[0]
    return [results[number] for number in range(count)]
