# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc train`: train what a recipe describes."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import extra
from . import options

if TYPE_CHECKING:
    from ..train.recipes import Recipe
    from ..train.run import Progress


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a codec, a refiner or its parts",
        description="Trains what a recipe describes. Stopped or killed at any time and started again with the same arguments, it"
        " goes on from its last checkpoint, at most about a minute old; another steps=N then prolongs the run, or ends it early."
        " `accelerate launch -m diffjscc.cli train …` runs it on several GPUs or hosts.",
        epilog="example: diffjscc train codec-lite --data photographs/ --out runs/lite steps=20000 channel.clip_db=4",
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="name, or YAML file; without one the names are listed")
    parser.add_argument(
        "changes", metavar="KEY=VALUE", nargs="*", help="changes to the recipe, such as batch=4 or channel.clip_db=4"
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of images or shards, repeated for more of them; every 40th image is held out",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run: checkpoint, recipe, model")
    parser.add_argument("--device", default="", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--checkpoint-seconds",
        type=options.number(0, 86400),
        default=60.0,
        metavar="S",
        help="time between checkpoints (default: %(default)s)",
    )
    parser.add_argument("--tracker", default="", metavar="T", help="tensorboard, or another that Accelerate knows (default: none)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with extra("train", "diffjscc train"):
        from ..packaged import packaged_names
        from ..train.recipes import load_recipe, recipe_summary

    if arguments.recipe is None:
        for name in packaged_names("recipes"):
            print(f"{name:20}{recipe_summary(name)}")
        return 0
    with extra("train", "diffjscc train"):
        # The module of the recipe's kind may need more.
        recipe = load_recipe(arguments.recipe, arguments.changes)
    if arguments.data is None or arguments.out is None:
        raise ValueError("train needs --data and --out: the folders of the images and of the run")
    return _train(recipe, arguments)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """A tracker writes in a thread of its own; where it cannot, `Run.run` reports that in one line."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _train(recipe: Recipe, arguments: argparse.Namespace) -> int:
    import signal

    with extra("train", "diffjscc train"):
        from tqdm import tqdm

        from ..train import trainer_of

        trainer = trainer_of(recipe)
    training = trainer(recipe, arguments.data, arguments.out, arguments.device, arguments.checkpoint_seconds, arguments.tracker)
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        training.stop()
        # The second one ends it at once, without a last checkpoint.
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    threading.excepthook = _thread_failed
    silent = not training.accelerator.is_main_process
    what = f"{recipe.kind} on {training.accelerator.num_processes} × {training.device.type}"
    with tqdm(total=recipe.steps, initial=training.step, unit="step", desc=what, dynamic_ncols=True, disable=silent) as bar:

        def show(progress: Progress) -> None:
            bar.update()
            scores = "  ".join(f"{name} {value:.2f}" for name, value in progress.scores.items())
            bar.set_postfix_str(f"loss {progress.loss:.3f}  {scores}", refresh=False)

        model = training.run(show)
    complete = training.step >= recipe.steps
    if not silent:
        print(f"{'' if complete else f'stopped at step {training.step} of {recipe.steps}, '}model written to {model}")
    # As a shell counts a command that a signal ended, so that a script does not go on with half a training.
    return 0 if complete else 128 + (received[0] if received else signal.SIGTERM)
