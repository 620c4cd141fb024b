# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills a sweep at random moments, and compares its table with that of a run at one go, bit for bit.

python tests/bench/sweep_kills.py figure3-initial --kills 20 -- images=kodak/
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

TABLES = ("table.parquet", "summary.parquet", "summary.csv")


def command(arguments, out):
    words = [sys.executable, "-m", "diffjscc.cli", "evaluate", arguments.sweep, *arguments.changes, "--out", str(out)]
    return [*words, "--processes", str(arguments.processes), "--json"]


def rows(out):
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def killed(arguments, out, total, rng):
    """Runs the sweep with kills spread over its rows; returns (seconds, rows at each kill)."""
    started, at = time.monotonic(), []
    for wanted in sorted(rng.randrange(total) for _ in range(arguments.kills)):
        process = subprocess.Popen(command(arguments, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while rows(out) < wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.random() * arguments.most_seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        at.append(rows(out))
    subprocess.run(command(arguments, out), stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started, at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="name or file")
    parser.add_argument("changes", nargs="*", help="KEY=VALUE")
    parser.add_argument("--whole", type=Path, help="folder of a run at one go (default: it is made)")
    parser.add_argument("--out", type=Path, default=Path("killed"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--most-seconds", type=float, default=3.0, help="longest time between a row and the kill")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    whole = arguments.whole or arguments.out.with_name(arguments.out.name + "-whole")
    started = time.monotonic()
    subprocess.run(command(arguments, whole), stdout=subprocess.DEVNULL, check=True)
    total = rows(whole)
    print(f"at one go: {total} rows in {time.monotonic() - started:.0f} s")
    seconds, at = killed(arguments, arguments.out, total, random.Random(arguments.seed))
    print(f"killed {arguments.kills} times: {rows(arguments.out)} rows written in {seconds:.0f} s; at each kill: {at}")
    same = all((whole / name).read_bytes() == (arguments.out / name).read_bytes() for name in TABLES)
    print("the tables are the same, bit for bit" if same else "THE TABLES DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
