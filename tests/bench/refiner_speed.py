#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed and memory of the refiner on images of Kodak's size, 768×512.

    refiner_speed.py                     the bundled refiner on the CPU, in a process of its own
    refiner_speed.py --full-size         the authors' networks, random weights, on a GPU: as they run them (float32, eager)
                                         against bfloat16, channels-last, compiled; images a second at batch 1 and 8

Times are medians over images after a warm-up; on a GPU they end when the GPU has.
"""

import argparse
import resource
import statistics
import time

import torch

HEIGHT, WIDTH = 512, 768

#: Sampler steps that --full-size times; the paper's 100 take the same time each.
STEPS = 10


def photograph():
    from skimage import data
    from skimage.transform import resize

    from diffjscc.images import to_tensor

    return to_tensor((resize(data.astronaut(), (HEIGHT, WIDTH)) * 255).astype("uint8"))


def seconds(run, repeats):
    """Median time of a run, s."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def bundled(name, threads, repeats):
    from diffjscc.hub import load_refiner

    torch.set_num_threads(threads)
    start = time.perf_counter()
    refiner = load_refiner(name)
    loaded = time.perf_counter() - start
    initial = photograph()
    taken = seconds(lambda: refiner(initial, 1.0, generator=torch.Generator().manual_seed(0), output_type="pt"), repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| 768×512, {threads} CPU threads | an image | load | peak memory |\n|---|---|---|---|")
    print(f"| {name}, {str(refiner.unet.dtype).removeprefix('torch.')} | {taken:.2f} s | {loaded:.2f} s | {peak:.0f} MB |")


def full_size():
    """The authors' networks with random weights: UNet, control module, VAE and text encoder of their published sizes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from diffjscc.refine.control import ControlModule
    from diffjscc.refine.pipeline import DiffJSCCPipeline
    from diffjscc.refine.samplers import SpacedDDPMScheduler

    torch.manual_seed(0)
    widths = (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(
        block_out_channels=widths,
        cross_attention_dim=1024,
        attention_head_dim=[width // 64 for width in widths],
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    text = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)
    scheduler = SpacedDDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    return DiffJSCCPipeline(vae, unet, ControlModule.from_unet(unet), scheduler, CLIPTextModel(text))


def gpu(repeats):
    if not torch.cuda.is_available():
        raise SystemExit("refiner_speed: --full-size wants a GPU: torch finds none here")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    refiner = full_size().to("cuda")
    batches = {count: photograph()[None].repeat(count, 1, 1, 1).cuda() for count in (1, 8)}

    def rates():
        def run(batch):
            generator = torch.Generator("cuda").manual_seed(0)
            refiner(batch, 1.0, num_inference_steps=STEPS, generator=generator, output_type="pt")

        return {count: count / seconds(lambda batch=batch: run(batch), repeats) for count, batch in batches.items()}

    eager = rates()
    for network in (refiner.unet, refiner.control, refiner.vae):
        network.to(torch.bfloat16, memory_format=torch.channels_last)
    refiner.text_encoder.to(torch.bfloat16)
    cast = rates()
    for network in (refiner.unet, refiner.control):
        network.compile(mode="max-autotune-no-cudagraphs")
    compiled = rates()
    print(f"| {torch.cuda.get_device_name()}, {STEPS} steps, images/s | batch 1 | batch 8 |\n|---|---|---|")
    for name, rate in (("float32, eager", eager), ("bfloat16, channels-last", cast), ("… compiled", compiled)):
        print(f"| {name} | {rate[1]:.2f} ({rate[1] / eager[1]:.1f}×) | {rate[8]:.2f} ({rate[8] / eager[8]:.1f}×) |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refiner", default="mini", help="refiner (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=8, help="images, or batches (default: %(default)s)")
    parser.add_argument("--full-size", action="store_true", help="time the authors' networks on a GPU")
    arguments = parser.parse_args()
    if arguments.full_size:
        gpu(arguments.repeats)
    else:
        bundled(arguments.refiner, arguments.threads, arguments.repeats)


if __name__ == "__main__":
    main()
