# SPDX-License-Identifier: GPL-3.0-or-later
"""`diffjscc serve`: the refinement service, and its keys."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ..errors import extra
from ..serve import addresses
from . import options


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "serve",
        help="refine images for others",
        description="Refines images for radios on this machine or others; docs/refinement-service.md says how.",
        epilog="example: diffjscc serve --refiner mini --bind tcp://0.0.0.0:5555 --keys keys/ --clients clients/",
    )
    parser.add_argument(
        "--refiner",
        action="append",
        metavar="REFINER",
        help="a refiner that may be asked for: a name of `diffjscc models`, or a folder; repeat for more (default: mini)",
    )
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, cuda:1, … (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=options.whole(1, 1024),
        metavar="N",
        help="threads of a computation on the CPU (default: torch's; 1 with Ray)",
    )
    parser.add_argument(
        "--memory",
        type=options.number(0, 1e6, above=True),
        metavar="GB",
        help="weights loaded at once; the least recently used are unloaded (default: no limit)",
    )
    parser.add_argument("--captioner", metavar="MODEL", help="BLIP-2 for refiners that take text: a folder, or an id on the hub")
    parser.add_argument(
        "--workers",
        choices=("local", "ray"),
        default="local",
        help="compute in this process, or in a pool of Ray actors, a GPU or --threads CPUs each (default: %(default)s)",
    )
    parser.add_argument(
        "--count", type=options.whole(1, 10_000), metavar="N", help="of Ray actors (default: as many as there is room for)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="local for a Ray of its own, auto for the cluster of this machine, or ray://HOST:10001 (default: local)",
    )
    parser.add_argument("--bind", default=addresses.DEFAULT, metavar="ADDRESS", help="where to listen (default: %(default)s)")
    parser.add_argument(
        "--status",
        type=host_and_port,
        default="127.0.0.1:9155",
        metavar="HOST:PORT",
        help="status page and metrics, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--max-queue",
        type=options.whole(1, 1_000_000),
        default=64,
        metavar="N",
        help="requests that may wait (default: %(default)s)",
    )
    parser.add_argument(
        "--max-batch", type=options.whole(1, 1024), default=8, metavar="N", help="images of a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-window",
        type=options.number(0, 10_000),
        default=2.0,
        metavar="MS",
        help="how long an image waits for others (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=options.number(0, 1e6),
        default=64.0,
        metavar="MB",
        help="replies cached for clients that ask again (default: %(default)s)",
    )
    parser.add_argument(
        "--drain",
        type=options.number(0, 86_400),
        default=60.0,
        metavar="S",
        help="what running work may take after SIGTERM (default: %(default)s)",
    )
    parser.add_argument("--keys", type=Path, metavar="DIR", help="folder with the server's keys; see diffjscc serve keygen")
    parser.add_argument("--clients", type=Path, metavar="DIR", help="folder with the public keys of clients that may connect")
    parser.add_argument("--insecure", action="store_true", help="let other machines connect without keys")
    parser.add_argument(
        "--public-status",
        action="store_true",
        help="let other machines see the status page, without images, and the metrics",
    )
    parser.add_argument(
        "--status-name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name by which the status page is asked for, beside this machine's own; repeat for more",
    )
    parser.add_argument("--no-images", action="store_true", help="show no images on the status page")
    parser.add_argument(
        "--watchdog",
        type=options.number(0, 86_400, above=True),
        default=600.0,
        metavar="S",
        help="not ready after so long without a sign of life from the refiner, and ends after twice as long (default: %(default)s)",
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="format of the log (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="refine one image with each refiner, and exit: 0 where all is well")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    keygen = actions.add_parser(
        "keygen",
        help="make a pair of keys",
        description="Makes DIR/NAME.key, which is public, and DIR/NAME.key_secret, which is not.",
        epilog="example: diffjscc serve keygen keys/; diffjscc serve keygen radio/ --name radio1; cp radio/radio1.key clients/",
    )
    keygen.add_argument("folder", type=Path, metavar="DIR", help="folder for the two files")
    keygen.add_argument("--name", default="server", help="name of the two files (default: %(default)s)")
    keygen.set_defaults(run=run_keygen)


def run(arguments: argparse.Namespace) -> int:
    if arguments.workers != "ray" and (arguments.count is not None or arguments.ray is not None):
        raise ValueError("--count and --ray are options of --workers ray: give that too, or leave them out")
    from ..serve.allocator import keep_pages

    keep_pages()
    with extra("serve", "diffjscc serve"):
        from ..serve.server import Server
    from ..serve import logs
    from ..serve.backend import Backend, LocalBackend
    from ..serve.cluster import LOCAL, RayBackend
    from ..serve.engine import Engine
    from ..serve.process import check, run_process

    logs.configure(arguments.log)
    memory = None if arguments.memory is None else arguments.memory * 1e9
    make = partial(Engine, arguments.refiner or ["mini"], arguments.device, memory, arguments.threads, arguments.captioner)
    backend: Backend
    if arguments.workers == "ray":
        address = arguments.ray or LOCAL
        backend = RayBackend(make, arguments.count, device=arguments.device, threads=arguments.threads, address=address)
    else:
        backend = LocalBackend(make())
    if arguments.check:
        addresses.check_exposure(
            arguments.bind, arguments.status, arguments.keys, arguments.clients, arguments.insecure, arguments.public_status
        )
        return check(backend, arguments.keys, arguments.clients)
    server = Server(
        backend,
        arguments.bind,
        max_queue=arguments.max_queue,
        max_batch=arguments.max_batch,
        window=arguments.batch_window / 1000,
        keep=int(arguments.keep * 1e6),
        server_keys=arguments.keys,
        clients=arguments.clients,
        insecure=arguments.insecure,
        status=arguments.status,
        public_status=arguments.public_status,
        status_names=tuple(arguments.status_name),
        images=not arguments.no_images,
        drain=arguments.drain,
        watchdog=arguments.watchdog,
    )
    return run_process(server)


def run_keygen(arguments: argparse.Namespace) -> None:
    from ..serve.keys import generate

    public, secret = generate(arguments.folder, arguments.name)
    print(f"public key, to be copied to the other side: {public}\nsecret key, to stay here: {secret}")


def host_and_port(text: str) -> tuple[str, int] | None:
    """The type of HOST:PORT, or none."""
    if text == "none":
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}': expected HOST:PORT, such as 127.0.0.1:9155, or none")
    return host.strip("[]"), int(port)
