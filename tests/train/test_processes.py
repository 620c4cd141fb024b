# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes train together as one would alone."""

import math
import os
import subprocess
import sys

import torch
from conftest import SMALL
from train.small import codec_recipe

from diffjscc.train.codec import CodecTrainer
from diffjscc.train.recipes import as_yaml

#: What each process runs: a training, of which it keeps its own weights and the files that it wrote itself.
PROCESS = """
import sys, torch
from pathlib import Path
from diffjscc.train import folder, trainer_of
from diffjscc.train.recipes import load_recipe

recipe, data, out = sys.argv[1:]
written = []
for name in ("save", "write", "new_model"):
    method = getattr(folder.RunFolder, name)
    setattr(folder.RunFolder, name, lambda self, *a, _method=method, _name=name: written.append(_name) or _method(self, *a))
trainer = trainer_of(load_recipe(recipe))(load_recipe(recipe), [data], Path(out) / "run", "cpu")
trainer.run()
accelerator = trainer.accelerator
state = {"codec": trainer.codec.state_dict(), "critic": trainer.adversary.critic.state_dict(), "written": written}
torch.save({**state, "processes": accelerator.num_processes}, Path(out) / f"{accelerator.process_index}.pt")
"""


def test_two_processes_share_a_batch_and_keep_equal_weights(images, tmp_path):
    # Wide enough that Muon trains its last stage.
    wide = {**SMALL["lite"], "widths": [8, 16, 64]}
    recipe = codec_recipe(wide, batch=4, precision="no", adversarial=0.01, steps=4)
    (tmp_path / "small.yaml").write_text(as_yaml(recipe))
    (tmp_path / "process.py").write_text(PROCESS)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    done = subprocess.run(
        [*launch, tmp_path / "process.py", tmp_path / "small.yaml", images, tmp_path],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in (0, 1))
    assert first["processes"] == 2
    assert all(torch.equal(second[part][name], value) for part in ("codec", "critic") for name, value in first[part].items())
    assert second["written"] == [] and set(first["written"]) == {"save", "write", "new_model"}

    alone = CodecTrainer(recipe, [images], tmp_path / "alone")
    alone.run()
    for name, value in alone.codec.state_dict().items():
        # Muon computes in bfloat16.
        assert (first["codec"][name] - value).norm() <= max(0.01 * value.norm(), 2e-6 * math.sqrt(value.numel())), name
    # And one process goes on with what two have begun.
    again = CodecTrainer(codec_recipe(wide, batch=4, precision="no", adversarial=0.01, steps=6), [images], tmp_path / "run")
    assert again.step == 4
    again.run()
