# SPDX-License-Identifier: GPL-3.0-or-later
"""What several tests need: photographs, the bundled codec, small untrained ones."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from skimage import data

from diffjscc.codec import build_codec
from diffjscc.hub import load_codec
from diffjscc.images import to_tensor, write_image

settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

#: Small untrained networks of each architecture.
SMALL = {
    "lite": {
        "architecture": "lite",
        "widths": [8, 16, 16],
        "encoder_depths": [1, 1, 1],
        "decoder_depths": [1, 1, 1],
        "condition": 8,
    },
    "resnet": {
        "architecture": "resnet",
        "rate": "1/64",
        "ngf": 4,
        "max_ngf_E": 16,
        "max_ngf_D": 16,
        "n_blocks_E": 1,
        "n_blocks_D": 1,
    },
    "swin": {"architecture": "swin", "rate": "1/64", "widths": [8, 8, 16, 16], "depths": [2, 2, 2, 2], "heads": [2, 2, 2, 2]},
}


def small_codec(architecture):
    torch.manual_seed(0)
    codec = build_codec(SMALL[architecture]).eval()
    # Layers that start at zero would hide what passes through them.
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return codec


def photograph(height, width):
    """float32 (3, height, width): a photograph, cut or tiled to size."""
    pixels = data.astronaut()
    repeats = -(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1
    return to_tensor(np.ascontiguousarray(np.tile(pixels, repeats)[:height, :width]))


def stop_at(trainer, step):
    """Runs a training until after this step, which is saved."""

    def interrupt(progress):
        if progress.step == step:
            trainer.save()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(interrupt)


@pytest.fixture(scope="session")
def lite():
    """The bundled codec, float32."""
    return load_codec("lite", dtype=torch.float32)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of three small photographs."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("astronaut", "chelsea", "coffee"):
        write_image(folder / f"{name}.png", getattr(data, name)()[:160, :224])
    return folder
