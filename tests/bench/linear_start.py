#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it is worth to start `lite` from the best linear code: the same short training with and without it.

python tests/bench/linear_start.py --data photographs/ --steps 150
"""

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

from diffjscc.codec import LiteCodec
from diffjscc.train.codec import CodecRecipe, CodecTrainer


def short_run(data, steps):
    """Held-out PSNR, dB, by point after ``steps`` steps."""
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="step") as bar:
        recipe = CodecRecipe(steps=steps, batch=16, crop=128, ema=0.99)
        trainer = CodecTrainer(recipe, [data], folder, checkpoint_seconds=1e9)
        trainer.run(lambda progress: bar.update())
        return trainer.scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of training photographs")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of each run (default: %(default)s)")
    arguments = parser.parse_args()
    start = LiteCodec.start_from_principal_components
    rows = {"principal components": short_run(arguments.data, arguments.steps)}
    # The same linear paths, but drawn at random like any other layer.
    LiteCodec.start_from_principal_components = lambda self, blocks: None
    rows["random"] = short_run(arguments.data, arguments.steps)
    LiteCodec.start_from_principal_components = start
    points = list(rows["random"])
    print(f"| start, {arguments.steps} steps | " + " | ".join(points) + " |\n" + "|---" * (len(points) + 1) + "|")
    for name, psnr in rows.items():
        print(f"| {name} | " + " | ".join(f"{psnr[point]:.2f} dB" for point in points) + " |")


if __name__ == "__main__":
    main()
