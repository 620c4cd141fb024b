# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a client's requests: when each is sent, sent again, or given up. Pure logic: the caller supplies the time.

     add                sent             accepted
─────────► TO BE SENT ────────► SENT ──────────────► ACCEPTED ──► result, error, or its deadline
                ▲                │ busy, draining       │
                └────────────────┴──────────────────────┘ connection lost, server restarted, busy, draining
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .protocol import Accepted, Busy, Error, Message, Progress, Request, Result

#: Back-off before a request is sent again that the server could not accept, s: the first, and the longest; doubled in between,
#: with jitter.
RETRY_SECONDS = (0.1, 5.0)

#: Errors after which a request is sent again until its deadline. Not "lost": an image that killed two workers may kill the next.
RETRIED_CODES = ("draining",)


class State(Enum):
    TO_BE_SENT = "to be sent"
    SENT = "sent"
    ACCEPTED = "accepted"


@dataclass(eq=False)
class Pending:
    """An unfinished request. Times are those of the caller's clock, s.

    send_at   when it is to be sent, where it is
    back_off  before it is sent again
    reason    why the server has not accepted it; "" where it has, or was not asked yet
    """

    request: Request
    deadline: float
    send_at: float
    state: State = State.TO_BE_SENT
    back_off: float = RETRY_SECONDS[0]
    reason: str = ""

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def is_with_server(self) -> bool:
        """Whether the server has it, or may have it."""
        return self.state is not State.TO_BE_SENT


class Jobs:
    """The unfinished requests of a client."""

    def __init__(self, jitter: random.Random | None = None):
        self._pending: dict[str, Pending] = {}
        self._jitter = jitter or random.Random()

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, id: str) -> bool:
        return id in self._pending

    def get(self, id: str | None) -> Pending | None:
        return self._pending.get(id or "")

    def add(self, request: Request, now: float) -> Pending:
        """A new request, to be sent at once. It ends at its deadline, a duration from now."""
        pending = self._pending[request.id] = Pending(request, now + request.deadline, now)
        return pending

    def remove(self, id: str) -> Pending | None:
        """A request that is finished or cancelled; None where there is none."""
        return self._pending.pop(id, None)

    def due(self, now: float) -> list[Pending]:
        """Those that are to be sent now, oldest first."""
        return [p for p in self._pending.values() if p.state is State.TO_BE_SENT and p.send_at <= now < p.deadline]

    def sent(self, pending: Pending) -> None:
        pending.state = State.SENT

    def expired(self, now: float) -> list[Pending]:
        """Those whose deadline has passed."""
        return [p for p in self._pending.values() if p.deadline <= now]

    def next_change(self, now: float) -> float:
        """Seconds until one is to be sent or its deadline passes; infinity where none is. Those due already do not count."""
        times = [p.deadline for p in self._pending.values()]
        times += [p.send_at for p in self._pending.values() if p.state is State.TO_BE_SENT and p.send_at > now]
        return max(0.0, min(times, default=math.inf) - now)

    def bytes_with_server(self) -> int:
        """Bytes of the images that may be on their way to the server."""
        return sum(len(p.request.image) for p in self._pending.values() if p.state is State.SENT)

    def send_all_again(self, now: float) -> None:
        """The connection, or the server, is a new one: requests and replies may have been lost."""
        for pending in self._with_server():
            pending.state, pending.send_at = State.TO_BE_SENT, now

    def _with_server(self) -> Iterable[Pending]:
        return (p for p in self._pending.values() if p.is_with_server)

    def receive(self, message: Message, now: float) -> bool:
        """Takes note of a message about a request; True where it ends it."""
        pending = self.get(getattr(message, "id", None))
        if pending is None:
            return False
        if isinstance(message, (Accepted, Progress)):
            pending.state, pending.reason = State.ACCEPTED, ""
        elif isinstance(message, Busy):
            pending.reason = message.message
            self._send_again(pending, now, max(pending.back_off, min(message.retry_after, RETRY_SECONDS[1])))
        elif isinstance(message, Error) and message.code in RETRIED_CODES:
            pending.reason = message.message
            self._send_again(pending, now, pending.back_off)
        elif isinstance(message, (Result, Error)):
            self._wake_one(now)
            return True
        return False

    def _send_again(self, pending: Pending, now: float, seconds: float) -> None:
        """Schedules a request to be sent again in about ``seconds``, with jitter so that clients do not retry in step."""
        pending.state = State.TO_BE_SENT
        pending.send_at = now + seconds * self._jitter.uniform(0.75, 1.25)
        pending.back_off = min(2 * pending.back_off, RETRY_SECONDS[1])

    def _wake_one(self, now: float) -> None:
        """A reply means room in the server's queue: the request that has waited longest need not wait on."""
        waiting = [p for p in self._pending.values() if p.state is State.TO_BE_SENT and p.send_at > now]
        if waiting:
            waiting[0].send_at = now
