# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc train`: train a codec, a small autoencoder, a small refiner, or the control module of a large one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import extra

if TYPE_CHECKING:
    from ..train.run import Progress

#: Options that recipes share, by their field: (type, metavar, help).
FIELDS = {
    "steps": (int, "N", "optimiser steps"),
    "batch": (int, "N", "crops a step"),
    "crop": (int, "PIXELS", "side of a crop"),
    "lr": (float, "X", "peak learning rate of AdamW"),
    "muon_lr": (float, "X", "peak learning rate of Muon"),
    "decay": (float, "SHARE", "share of the steps over which the learning rates fall to zero"),
    "ema": (float, "X", "decay of the average of the weights that is exported"),
    "seed": (int, "N", "of weights, crops and noise"),
    "start_from": (str, "MODEL", "name or folder of the model to begin with, to fine-tune it"),
    "codec": (str, "MODEL", "name or folder of the frozen codec"),
    "vae": (str, "DIR", "folder of the trained autoencoder"),
    "channels": (int, "N", "channels of the latent"),
    "width": (int, "N", "channels of every convolution"),
    "start_noise": (float, "X", "deviation of the noise that a refinement starts with, in units of the latent's"),
    "texture": (float, "X", "weight of the loss on the distribution of patches"),
    "spectrum": (float, "X", "weight of the loss on local spectra"),
    "adversarial": (float, "X", "weight of the adversarial loss; 0: none"),
    "coarse": (float, "X", "weight of L1 at a quarter of the resolution"),
    "stable_diffusion": (str, "PATH", "Stable Diffusion 2.1-base: a diffusers folder, or a single file"),
    "config": (str, "YAML", "configuration of a single file that is not Stable Diffusion 2.1-base"),
    "captioner": (str, "MODEL", "BLIP-2 that captions the initial reconstructions; none: no text"),
    "precision": (str, "P", "no, bf16 or fp16: mixed precision"),
}

#: Recipe by what is trained: module, recipe, trainer, fields on the command line, description, example.
WHAT = {
    "codec": (
        "codec",
        "CodecRecipe",
        "CodecTrainer",
        ("steps", "batch", "crop", "lr", "muon_lr", "decay", "seed", "start_from"),
        "a JSCC autoencoder",
        "diffjscc train codec --data photographs/ --out runs/lite --steps 20000",
    ),
    "vae": (
        "vae",
        "VaeRecipe",
        "VaeTrainer",
        ("channels", "width", "steps", "batch", "crop", "lr", "muon_lr", "decay", "ema", "seed"),
        "the small autoencoder in whose latent space a small refiner works",
        "diffjscc train vae --data photographs/ --out runs/vae",
    ),
    "refiner": (
        "refiner",
        "RefinerRecipe",
        "RefinerTrainer",
        ("vae", "codec", "start_noise", "texture", "spectrum", "coarse", "adversarial")
        + ("steps", "batch", "crop", "lr", "muon_lr", "decay", "ema", "seed", "start_from"),
        "a small one-step refiner",
        "diffjscc train refiner --data photographs/ --vae runs/vae/model --out runs/mini",
    ),
    "control": (
        "control",
        "ControlRecipe",
        "ControlTrainer",
        ("stable_diffusion", "config", "codec", "captioner", "precision", "steps", "batch", "crop", "lr", "seed"),
        "the control module of DiffJSCC on a frozen Stable Diffusion",
        "diffjscc train control --data photographs/ --stable-diffusion sd21-base/ --codec lite --out runs/control --device cuda",
    ),
}


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="train a model", description="Trains a model.")
    recipes = parser.add_subparsers(title="what to train", metavar="WHAT", required=True)
    for name, (_, _, _, fields, what, example) in WHAT.items():
        sub = recipes.add_parser(
            name,
            help=what,
            description=f"Trains {what}. It may be killed at any time: started again with the same options, it resumes from its"
            " last checkpoint, about a minute old. Another --steps then makes the run longer or shorter.",
            epilog=f"example: {example}",
            argument_default=argparse.SUPPRESS,
        )
        sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of images; every 40th is held out")
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run: checkpoint, recipe, model")
        for field in fields:
            kind, metavar, text = FIELDS[field]
            required = field == "stable_diffusion"
            sub.add_argument(f"--{field.replace('_', '-')}", type=kind, metavar=metavar, help=text, required=required)
        if name in ("codec", "refiner"):
            sub.add_argument("--rates", nargs="+", metavar="R", help="rates to draw from; a repeated one comes more often")
            sub.add_argument("--snr-range", nargs=2, type=float, metavar="DB", dest="snr_range_db", help="SNRs to draw from")
        if name == "codec":
            sub.add_argument("--architecture", default="lite", help="lite, resnet or swin")
            sub.add_argument(
                "--options", type=json.loads, default={}, metavar="JSON", help='of the architecture, such as {"rate": "1/64"}'
            )
        sub.add_argument("--checkpoint-seconds", type=float, metavar="S", help="time between checkpoints")
        sub.add_argument("--device", default="cpu", help="where to compute")
        sub.set_defaults(run=run, what=name)


def run(arguments: argparse.Namespace) -> None:
    from importlib import import_module

    module, recipe_name, trainer_name, _, _, _ = WHAT[arguments.what]
    with extra("train", "diffjscc train"):
        from tqdm import tqdm

        trainers = import_module(f"..train.{module}", __package__)
    given = vars(arguments)
    recipe_class = getattr(trainers, recipe_name)
    recipe = recipe_class(**{name: value for name, value in given.items() if name in recipe_class.__dataclass_fields__})
    options = {name: given[name] for name in ("checkpoint_seconds",) if name in given}
    if arguments.what == "codec":
        options["architecture"] = {"architecture": arguments.architecture, **arguments.options}
    trainer = getattr(trainers, trainer_name)(arguments.data, arguments.out, recipe=recipe, device=arguments.device, **options)
    with tqdm(total=recipe.steps, initial=trainer.step, unit="step", desc=arguments.what, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            bar.update()
            scores = "  ".join(f"{name} {value:.2f}" for name, value in progress.scores.items())
            bar.set_postfix_str(f"loss {progress.loss:.3f}  {scores}", refresh=False)

        model = trainer.run(show)
    print(f"model written to {model}")
