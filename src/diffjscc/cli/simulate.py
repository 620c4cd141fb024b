# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc simulate`: images through a channel model, without GNU Radio."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from pathlib import Path

from ..errors import one_line
from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "simulate",
        help="send images through a simulated channel",
        description="Encodes each image, adds the channel's noise, decodes, and writes what was received.",
        epilog="example: diffjscc simulate photo.jpg --rate 1/128 --snr 1 --refiner mini --out received",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image, a folder of images, or a quoted pattern")
    parser.add_argument("--rate", type=options.rate, metavar="R", help="channel uses per pixel (default: the codec's lowest)")
    parser.add_argument("--snr", type=options.snr_db, default=1.0, metavar="DB", help="SNR in dB (default: %(default)s)")
    options.add_channel(parser)
    options.add_effort(parser)
    options.add_codec(parser)
    options.add_refiner(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("received"), metavar="DIR", help="folder for the images (default: %(default)s)"
    )
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..hub import find_model
    from ..images import find_images, read_image, to_tensor
    from ..symbols import check_rate

    # What can be told without torch, which takes seconds to import, is told first.
    entry = find_model(arguments.codec)
    rate = check_rate(entry.name, entry.rates, arguments.rate or entry.rates[0])
    refining = options.refiner_options(arguments)
    if arguments.refiner:
        find_model(arguments.refiner, "refiner")
    paths = [path for source in arguments.images for path in find_images(source)]
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {arguments.out}: no folder can be made there ({one_line(error)})") from None

    import torch

    from ..channel import draw_gain, transmit
    from ..hub import load_codec, load_refiner

    codec = load_codec(arguments.codec, arguments.device)
    refiner = load_refiner(arguments.refiner, arguments.device, captioner=arguments.captioner) if arguments.refiner else None
    results, failed, stems = [], False, Counter[str]()
    for index, path in enumerate(paths):
        try:
            image = to_tensor(read_image(path))
        except ValueError as error:
            # The other images are still sent.
            print(f"diffjscc: {error}", file=sys.stderr)
            failed = True
            continue
        seed = arguments.seed + index
        gain = draw_gain(arguments.channel, seed)
        symbols = codec.encode(image, arguments.snr, rate, image_id=index, fading=gain, effort=arguments.effort)
        reception = transmit(symbols, arguments.snr, gain, seed, arguments.erasures)
        received = codec.decode(reception, symbols.header)
        stems[path.stem] += 1
        # Images of one name, from several folders, do not overwrite each other.
        stem = path.stem if stems[path.stem] == 1 else f"{path.stem}-{stems[path.stem]}"
        name = f"{stem}_{arguments.snr:g}dB_{str(rate).replace('/', '-')}"
        result = {
            "image": str(path),
            "symbols": len(symbols.values),
            **_written(received, image, arguments.out / f"{name}.png"),
        }
        if refiner is not None:
            generator = torch.Generator().manual_seed(seed)
            (refined,) = refiner(received, reception.snr_db, generator=generator, output_type="pt", **refining).images
            result["refined"] = _written(refined, image, arguments.out / f"{name}_refined.png")
        results.append(result)
        if not arguments.json:
            print(f"{path.name}: {result['symbols']} symbols, {_line(result)}")
            if refiner is not None:
                print(f"{path.name}: refined, {_line(result['refined'])}")
    if arguments.json:
        print(json.dumps(results, indent=2))
    return 2 if failed else 0


def _written(image, original, path: Path) -> dict:
    """Writes the image, and says where and how good it is."""
    from ..images import to_pixels, write_image
    from ..metrics import ms_ssim, psnr

    image = image.cpu()
    try:
        write_image(path, to_pixels(image))
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({one_line(error)})") from None
    similarity = ms_ssim(image, original)
    return {
        "received": str(path),
        "psnr_db": round(psnr(image, original), 3),
        "ms_ssim": None if math.isnan(similarity) else round(similarity, 4),
    }


def _line(result: dict) -> str:
    similarity = "" if result["ms_ssim"] is None else f", MS-SSIM {result['ms_ssim']:.3f}"
    return f"PSNR {result['psnr_db']:.2f} dB{similarity} → {result['received']}"
