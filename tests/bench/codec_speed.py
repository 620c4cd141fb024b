#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed and memory of the codecs on an image of Kodak's size, 768×512: `make bench`.

Each codec runs in a process of its own, alone, so that peak memory is its own; rounds alternate between the codecs, so that
what else the machine does falls on all of them alike. Times are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys

CODECS = {
    "lite, bfloat16 where native": {"name": "lite", "dtype": None},
    "lite, float32": {"name": "lite", "dtype": "float32"},
    "resnet (the authors' size), float32": {"resnet": True},
}
RATE, SNR_DB = "1/128", 1.0


def measure(options, threads, repeats):
    """{encode_s, decode_s, load_s, import_s, peak_mb} of one codec, in this process."""
    import resource
    import time

    start = time.perf_counter()
    import torch

    from diffjscc.channel import transmit
    from diffjscc.codec import ResnetCodec
    from diffjscc.hub import load_codec
    from diffjscc.images import to_tensor

    imported = time.perf_counter()
    torch.set_num_threads(threads)
    if options.get("resnet"):
        torch.manual_seed(0)
        codec = ResnetCodec(RATE).eval().to(memory_format=torch.channels_last)
    else:
        codec = load_codec(options["name"], dtype=getattr(torch, options["dtype"]) if options["dtype"] else None)
    loaded = time.perf_counter()
    from skimage import data
    from skimage.transform import resize

    image = to_tensor((resize(data.astronaut(), (512, 768)) * 255).astype("uint8"))
    times = {"encode_s": [], "decode_s": []}
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        symbols = codec.encode(image, SNR_DB, RATE)
        encoded = time.perf_counter()
        reception = transmit(symbols, SNR_DB)
        sent = time.perf_counter()
        codec.decode(reception, symbols.header)
        times["encode_s"].append(encoded - begin)
        times["decode_s"].append(time.perf_counter() - sent)
    # The first pass warms caches and picks kernels.
    return {name: statistics.median(values[1:]) for name, values in times.items()} | {
        "dtype": str(codec.dtype).removeprefix("torch."),
        "load_s": loaded - imported,
        "import_s": imported - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over the codecs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=8, help="images a round (default: %(default)s)")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.threads, arguments.repeats)))
        return
    results = {name: [] for name in CODECS}
    for _ in range(arguments.rounds):
        for name, options in CODECS.items():
            command = [
                sys.executable,
                __file__,
                "--threads",
                arguments.threads,
                "--repeats",
                arguments.repeats,
                "--one",
                json.dumps(options),
            ]
            results[name].append(
                json.loads(subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout)
            )

    def median(name, figure):
        return statistics.median(result[figure] for result in results[name])

    print(f"| 768×512, {arguments.threads} CPU threads | encode | decode | load | peak memory |\n|---|---|---|---|---|")
    for name in CODECS:
        print(
            f"| {name} | {median(name, 'encode_s'):.3f} s | {median(name, 'decode_s'):.3f} s"
            f" | {median(name, 'load_s'):.2f} s | {median(name, 'peak_mb'):.0f} MB |"
        )
    ours, theirs = list(CODECS)[0], list(CODECS)[-1]
    ratios = [median(theirs, figure) / median(ours, figure) for figure in ("encode_s", "decode_s")]
    print(f"\nlite ({results[ours][0]['dtype']}) is {ratios[0]:.1f}× faster than resnet to encode, {ratios[1]:.1f}× to decode.")


if __name__ == "__main__":
    main()
