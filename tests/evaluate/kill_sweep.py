# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a sweep with toys, for tests that kill it: kill_sweep.py SWEEP OUT PROCESSES."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from evaluate.toys import build

    from diffjscc.evaluate.plan import load_sweep
    from diffjscc.evaluate.run import SweepRun

    SweepRun(load_sweep(sys.argv[1]), sys.argv[2], int(sys.argv[3]), build=build).run()
    print("complete")
