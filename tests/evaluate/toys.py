# SPDX-License-Identifier: GPL-3.0-or-later
"""A transmission system that takes no time, and fails on demand."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from diffjscc.evaluate.systems import Sent
from diffjscc.fields import nearest


@dataclass(frozen=True)
class Toy:
    """Adds the channel's noise to the pixels; the more channel uses, the less.

    cliff_db  below this SNR nothing arrives
    seconds   that a transmission takes
    grey      what every pixel is received as, where it is not negative
    deaths    folder of one file a death to die; the process dies while it sends image rows of these seeds
    """

    name: str = "toy"
    rates: tuple | None = None
    cliff_db: float = -100.0
    seconds: float = 0.0
    deaths: str = ""
    fails: bool = False
    grey: float = -1.0

    def send(self, image, budget, snr_db, channel, seed):
        if self.deaths:
            path = Path(self.deaths) / str(seed)
            if path.exists():
                left = int(path.read_text()) - 1
                path.write_text(str(left)) if left else path.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        if self.fails:
            raise RuntimeError("out of order\nand more lines")
        time.sleep(self.seconds)
        details = {"seed": seed, "codec_seconds": time.time(), "blocks": 3}
        if snr_db < self.cliff_db:
            return Sent(None, budget, details)
        if self.grey >= 0:
            return Sent(torch.full_like(image, self.grey), budget, details)
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        deviation = 10 ** (-snr_db / 20) * (1000 / budget) ** 0.5 / 10
        return Sent((image + deviation * noise).clamp(0, 1), budget, details)


def build(spec):
    options = {"system": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("system")
    # A toy under the names of real systems: some things depend on the kind.
    if name not in ("toy", "deepjscc", "separate"):
        raise ValueError(f"no system is called '{name}'{nearest(name, ['toy'])}; there is toy")
    if "rates" in options:
        from fractions import Fraction

        options["rates"] = tuple(map(Fraction, options["rates"]))
    return Toy(**options)
