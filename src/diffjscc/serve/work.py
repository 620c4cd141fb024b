# SPDX-License-Identifier: GPL-3.0-or-later
"""The work item: a request on its way through the server, from its admission to its final reply."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np

from .protocol import CHANNELS, Request

#: Connections that are remembered for one request, the newest. The reply goes to one of them.
ASKERS = 8


@dataclass(frozen=True)
class Client:
    """Who asks. Clients with keys are told apart by key, others by connection.

    share  what identifies the client in the queue, where each client has a share of its own
    user   what its request ids belong to: its public key, or "" without keys
    name   for people: the name of its key file, or its network address
    label  for metrics, which must not have a label per connection: the name of its key file, or "anonymous"
    """

    share: Hashable
    user: str
    name: str
    label: str = "anonymous"


class State(Enum):
    """Where a work item is."""

    QUEUED = "queued"
    DECODING = "decoding"
    RUNNING = "running"
    ENCODING = "encoding"
    FINISHED = "finished"


@dataclass(eq=False)
class Work:
    """A request on its way through the server. Times are those of the caller's clock, s.

    key       (user, request id): a key is computed once, however often it is requested
    digest    of the request's content: tells a retry from another request under the same id
    askers    connections that sent this request: the reply goes to the newest one that still exists
    pixels    uint8 (H, W, 3), set once the image is decoded; only then can the item join a batch
    ready     when the image was decoded
    reported  when progress was last sent, and step: of which step
    """

    key: Hashable
    digest: bytes
    request: Request
    client: Client
    arrived: float
    deadline: float
    askers: list[bytes] = field(default_factory=list)
    state: State = State.QUEUED
    pixels: np.ndarray | None = None
    ready: float = 0.0
    reported: float = -1.0
    step: int = 0

    @cached_property
    def kind(self) -> tuple:
        """Requests of one kind can be computed in one batch."""
        r = self.request
        return r.refiner, r.steps, r.sampler, r.width, r.height, r.prompt is None

    @cached_property
    def size(self) -> int:
        """Bytes of pixels."""
        return self.request.width * self.request.height * CHANNELS

    @property
    def is_open(self) -> bool:
        """Whether the final reply is still to come."""
        return self.state is not State.FINISHED

    def asked_by(self, peer: bytes) -> None:
        """Notes that a connection has sent this request."""
        if peer in self.askers:
            self.askers.remove(peer)
        self.askers.append(peer)
        del self.askers[:-ASKERS]
