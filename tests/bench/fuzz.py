#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutated messages, which know the protocol, against a real server: it must live, answer, and not grow.

    fuzz.py --messages 1000000

Every message that the protocol refuses must be answered by an error. Each row shows what came back and the server's memory,
descriptors and threads. At the end the server has to serve an honest client. The exit status is 1 where something was wrong.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve.fuzzing import Fuzzer
from serve.peers import Peer
from serve.processes import ServerProcess, image, process_figures

from diffjscc.serve import RefineClient
from diffjscc.serve.protocol import Ping, Refusal, decode

#: Messages that are sent before their answers are read.
AHEAD = 50


def run(count, seed, every=50_000, report=print):
    """Sends ``count`` messages. Returns (messages that should have been refused and were not, growth of memory in per cent,
    tracebacks in the server's log); raises where the server dies."""
    rng = random.Random(seed)
    fuzzer, replies, refused, pings, start = Fuzzer(rng), Counter(), 0, 0, time.monotonic()
    with ServerProcess("--any-seed", "--seconds", "0.0005", "--keep", 1_000_000) as server:
        with Peer(server.address, rcvhwm=0, sndhwm=0) as peer:
            warm = None
            for number in range(1, count + 1):
                frames = fuzzer.message()
                try:
                    pings += isinstance(decode(frames), Ping)
                except Refusal:
                    refused += 1
                peer.send(*frames)
                if number % AHEAD == 0 or number == count:
                    peer.ping()
                    pings += 1
                    while replies["pong"] < pings:
                        message = peer.receive(120)
                        assert message is not None, "the server does not answer"
                        replies[getattr(message, "code", message.type)] += 1
                if number % every == 0 or number == count:
                    figures = process_figures(server.process.pid)
                    report(
                        "{} messages in {:.0f} s; server: {:.0f} MB, {} fds, {} threads".format(
                            number, time.monotonic() - start, *figures
                        ),
                        flush=True,
                    )
                if number == max(1, count // 3):
                    warm = server.memory()
            while (message := peer.receive(2.0)) is not None:
                replies[getattr(message, "code", message.type)] += 1
            grown = 100 * (server.memory() / warm - 1)
        errors = sum(
            server.metric("diffjscc_bad_messages_total", code=code) for code in ("version", "bad-request", "too-large", "bad-image")
        )
        with RefineClient(server.address) as client:
            assert client.refine(image(), 1.0, "stub").shape == (32, 48, 3)
        tracebacks = [line for line in server.log if "Traceback" in line or "could not be handled" in line]
        report(f"answers: {dict(replies)}")
        assert server.terminate() == 0
    return refused - errors, grown, len(tracebacks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    missing, grown, tracebacks = run(arguments.messages, arguments.seed)
    print(f"refusals that did not come: {missing:.0f}; memory grew by {grown:.1f} %; tracebacks: {tracebacks}")
    sys.exit(int(missing > 0 or tracebacks > 0 or grown > 10))


if __name__ == "__main__":
    main()
