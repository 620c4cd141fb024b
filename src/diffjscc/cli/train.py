# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc train codec`: train a codec on a folder of pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="train a model", description="Trains a model.")
    recipes = parser.add_subparsers(title="what to train", metavar="WHAT", required=True)
    codec = recipes.add_parser(
        "codec",
        help="a JSCC autoencoder",
        description="Trains a codec. Killed at any time and started again with the same options, it goes on from its last minute;"
        " another --steps then prolongs the run, or winds it up early.",
        epilog="example: diffjscc train codec --data photographs/ --out runs/lite --steps 20000",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    codec.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of pictures; every 40th is held out for validation"
    )
    codec.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run: checkpoint, recipe and exported model"
    )
    codec.add_argument("--architecture", default="lite", help="lite, resnet or swin")
    codec.add_argument(
        "--options", type=json.loads, default={}, metavar="JSON", help='options of the architecture, such as {"rate": "1/64"}'
    )
    codec.add_argument("--steps", type=int, default=20_000, metavar="N", help="optimiser steps")
    codec.add_argument("--batch", type=int, default=16, metavar="N", help="crops a step")
    codec.add_argument("--crop", type=int, default=128, metavar="PIXELS", help="side of a crop")
    codec.add_argument("--lr", type=float, default=1e-3, metavar="X", help="peak learning rate of AdamW")
    codec.add_argument("--muon-lr", type=float, default=0.01, metavar="X", help="peak learning rate of Muon")
    codec.add_argument(
        "--decay", type=float, default=0.4, metavar="SHARE", help="share of the steps over which the rates fall to zero"
    )
    codec.add_argument("--rates", nargs="+", default=[], metavar="R", help="rates to draw from; a repeated one comes more often")
    codec.add_argument("--snr-range", nargs=2, type=float, default=[], metavar="DB", help="SNRs to draw from")
    codec.add_argument(
        "--start-from", default="", metavar="MODEL", help="name or folder of the codec to begin with, to fine-tune it"
    )
    codec.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, crops and noise")
    codec.add_argument("--checkpoint-seconds", type=float, default=50.0, metavar="S", help="time between checkpoints")
    codec.add_argument("--device", default="cpu", help="where to compute")
    codec.set_defaults(run=train_codec)


def train_codec(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ..train.codec import CodecRecipe, Progress, Trainer

    recipe = CodecRecipe(
        steps=arguments.steps,
        batch=arguments.batch,
        crop=arguments.crop,
        lr=arguments.lr,
        muon_lr=arguments.muon_lr,
        decay=arguments.decay,
        rates=arguments.rates,
        snr_range_db=arguments.snr_range,
        seed=arguments.seed,
        start_from=arguments.start_from,
    )
    architecture = {"architecture": arguments.architecture, **arguments.options}
    trainer = Trainer(arguments.data, arguments.out, architecture, recipe, arguments.device, arguments.checkpoint_seconds)
    with tqdm(total=recipe.steps, initial=trainer.step, unit="step", desc="held-out PSNR", dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            bar.update()
            points = "  ".join(f"{point} {psnr:.2f}" for point, psnr in progress.psnr.items())
            bar.set_postfix_str(f"loss {progress.loss:.3f}  {points}", refresh=False)

        model = trainer.run(show)
    print(f"model written to {model}")
