#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peak memory of importing a checkpoint of the authors' full size: 7 GB of numbers in their tensors' names and shapes.

Needs 11 GB of disk in the folder of temporary files.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

MANIFEST = Path(__file__).parents[1] / "data" / "official_checkpoint_manifest.json"


def write_checkpoint(folder):
    from diffjscc.refine.convert import STABLE_DIFFUSION_2

    tensors = {name: torch.rand(()).expand(shape).clone() for name, shape in json.loads(MANIFEST.read_text()).items()}
    for name in tensors:
        if name.startswith("cond_encoder."):
            tensors[name] = tensors[name.replace("cond_encoder.", "first_stage_model.", 1)].clone()
    torch.save({"state_dict": tensors}, folder / "model.ckpt")
    codec = {"C_channel": 4, "ngf": 64, "max_ngf_E": 384, "max_ngf_D": 384, "n_blocks_E": 4, "n_blocks_D": 4}
    parameters = {
        **STABLE_DIFFUSION_2,
        "control_stage_config": STABLE_DIFFUSION_2["unet_config"],
        "preprocess_config": {"target": "model.deepjscc_cnn.DeepJSCC", "params": {**codec, "SNR_low": 0, "SNR_high": 14}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"params": parameters}))


def import_into(folder, models):
    from diffjscc.checkpoints import import_checkpoint

    start = time.perf_counter()
    import_checkpoint(folder, out=models)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"imported in {time.perf_counter() - start:.0f} s, peak memory {peak:.1f} GB")


def main():
    if len(sys.argv) == 3:
        step, folder = sys.argv[1], Path(sys.argv[2])
        write_checkpoint(folder) if step == "write" else import_into(folder, folder / "models")
        return
    with tempfile.TemporaryDirectory() as folder:
        # A process each: a child starts with its parent's peak.
        for step in ("write", "import"):
            subprocess.run([sys.executable, __file__, step, folder], check=True)


if __name__ == "__main__":
    main()
