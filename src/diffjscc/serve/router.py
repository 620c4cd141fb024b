# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's socket: whole messages of bounded length in, replies out, whatever single clients do or leave undone."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import zmq

from . import keys
from .addresses import is_ipv6
from .allowed import AllowedClients
from .authenticator import Authenticator, age_of, seed
from .connections import CHECK_SECONDS, Connections, inode_of
from .deduplication import DeduplicationCache
from .logs import Limited
from .protocol import MAX_FRAME, Error, Frames, encode
from .work import Client

logger = logging.getLogger(__name__)

#: Messages that libzmq queues for a client that does not read, or from one that sends too fast. Few, because images are large.
PEER_QUEUE = 16

#: Bytes of large frames that libzmq holds for a client that does not read; one reply is sent whatever its size.
UNSENT_BYTES = 8 << 20

#: Frames above this many bytes are followed until libzmq has sent them; smaller ones are copied.
LARGE_FRAME = 1 << 16

#: Seconds between attempts to deliver what a client did not read; how many such replies a client may have, and how many bytes
#: of those that are not cached; and seconds after which the connection of one that reads nothing at all is ended.
REDELIVERY_SECONDS, UNDELIVERED, UNDELIVERED_BYTES, UNREAD_SECONDS = 0.005, 20_000, 8 << 20, 60.0

#: Frames of a message that are kept, to say what is wrong with it; and how many more are read before others get their turn.
KEPT_FRAMES, DISCARDED_FRAMES = 64, 10_000

#: Connections that are remembered.
PEERS = 10_000

#: Milliseconds that libzmq may take to send the last replies when the socket is closed.
LINGER = 300


@dataclass(frozen=True)
class Cached:
    """A reply that is in the deduplication cache under ``key``: while it waits for delivery it takes no further memory."""

    key: Hashable
    id: str


@dataclass(eq=False)
class Peer:
    """A connection.

    id       its routing id
    socket   (descriptor, inode) of its TCP connection; None where it has none
    waiting  replies that it has not accepted yet, each with the other connections that could get it; and the bytes of those that
             are not in the cache
    unsent   (tracker, bytes) of large frames that libzmq still holds
    moved    when it last accepted a reply
    """

    id: bytes
    client: Client
    socket: tuple[int, int] | None
    waiting: deque[tuple[Frames | Cached, tuple[bytes, ...]]] = field(default_factory=deque)
    waiting_bytes: int = 0
    unsent: deque[tuple[zmq.MessageTracker, int]] = field(default_factory=deque)
    moved: float = 0.0

    def unsent_bytes(self) -> int:
        while self.unsent and self.unsent[0][0].done:
            self.unsent.popleft()
        return sum(size for _, size in self.unsent)


class Router:
    """A ROUTER socket that is bound to ``bind``. Only the server's thread uses it.

    server_keys, clients  as of `Server`
    cache                 where `Cached` replies are
    refused               called, in another thread, for each connection that is refused

    Raises ValueError where the address cannot be bound or the keys cannot be read.
    """

    def __init__(
        self,
        bind: str,
        server_keys: str | os.PathLike | None,
        clients: str | os.PathLike | None,
        cache: DeduplicationCache,
        refused: Callable[[], object] = lambda: None,
    ):
        self._cache = cache
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()
        self._behind: dict[bytes, Peer] = {}
        self._discarding: Peer | None = None
        self._log = Limited(logger)
        seed()
        pair = None if server_keys is None else keys.load_pair(os.path.join(server_keys, keys.SERVER + keys.SECRET))
        self._allowed = AllowedClients(clients) if clients is not None else None
        self._context = zmq.Context()
        self._authenticator: Authenticator | None = None
        self._connections: Connections | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._authenticator = Authenticator(self._context, self._allowed, refused)
            self._open(bind, pair)
        except BaseException:
            self.close()
            raise

    def _open(self, bind: str, pair: tuple[bytes, bytes] | None) -> None:
        socket = self._socket
        socket.linger = LINGER
        socket.sndhwm = socket.rcvhwm = PEER_QUEUE
        # libzmq closes the connection before it receives a larger frame.
        socket.maxmsgsize = MAX_FRAME
        # Otherwise libzmq would silently drop replies to a client that does not read.
        socket.router_mandatory = True
        # Without a domain libzmq does not ask the authenticator about clients without keys.
        socket.zap_domain = b"diffjscc"
        socket.ipv6 = is_ipv6(bind)
        # Long intervals: they only serve to forget machines that are gone, and a large image takes long over a slow network.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 30_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 120_000)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
        if pair is not None:
            socket.curve_publickey, socket.curve_secretkey = pair
            socket.curve_server = True
        self._connections = Connections(socket)
        try:
            socket.bind(bind)
        except zmq.ZMQError as error:
            raise ValueError(f"cannot bind {bind}: {error}") from None

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    @property
    def has_keys(self) -> bool:
        return self._allowed is not None

    @property
    def socket(self) -> zmq.Socket:
        """The one to wait for."""
        return self._socket

    def connections(self) -> int:
        return 0 if self._connections is None else len(self._connections)

    # Receiving.

    def receive(self) -> tuple[Peer, list[zmq.Frame]] | None:
        """The next message: who sent it, and its frames, at most `KEPT_FRAMES` and one; None where there is none at present."""
        if self._discarding is not None and not self._discard(self._discarding):
            return None
        try:
            first = self._socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        peer = self._peer(first)
        frames: list[zmq.Frame] = []
        more = first.more
        while more:
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame)
            more = frame.more
            if more and len(frames) > KEPT_FRAMES:
                frames.clear()
                self._log.warning("frames", "%s sends messages of more than %d frames: disconnected", peer.client.name, KEPT_FRAMES)
                self.end(peer)
                self._discarding = peer
                return None
        if peer.socket is not None and self._connections is not None:
            self._connections.completed(peer.socket[0])
        return peer, frames

    def _discard(self, peer: Peer) -> bool:
        """Reads the rest of an endless message, a part at a time; whether its end is reached. Until then others cannot be read."""
        receive = self._socket.recv
        for _ in range(DISCARDED_FRAMES):
            if not receive(zmq.NOBLOCK, copy=False).more:
                self._discarding = None
                return True
        return False

    @property
    def is_behind(self) -> bool:
        """Whether `receive` returned None though there is more to read."""
        return self._discarding is not None

    def _peer(self, frame: zmq.Frame) -> Peer:
        id = frame.bytes
        peer = self._peers.get(id)
        if peer is None:
            peer = self._peers[id] = Peer(id, self._client(id, frame), _socket_of(frame))
            if len(self._peers) > PEERS:
                self._behind.pop(self._peers.popitem(last=False)[0], None)
        else:
            self._peers.move_to_end(id)
        return peer

    def _client(self, id: bytes, frame: zmq.Frame) -> Client:
        user, address = _property(frame, "User-Id"), _property(frame, "Peer-Address")
        if self._allowed is None:
            return Client(id, "", address or "a client")
        name = self._allowed.name_of(user) or "a client whose key was removed"
        return Client(user, user, name, name)

    def is_allowed(self, peer: Peer) -> bool:
        """Whether the client's key is still in the folder. If not, its connection is ended."""
        if self._allowed is None or self._allowed.name_of(peer.client.user) is not None:
            return True
        self._log.warning(peer.client.user, "%s is disconnected: its key was removed", peer.client.name)
        self.end(peer)
        return False

    def end(self, peer: Peer) -> None:
        """Ends a connection. Replies that wait for it are dropped; the client can ask again."""
        self._forget(peer)
        if peer.socket is not None and self._connections is not None:
            self._connections.end(*peer.socket)

    def end_removed(self) -> None:
        """Ends the connections of clients whose keys were removed."""
        if self._allowed is not None:
            for peer in list(self._peers.values()):
                self.is_allowed(peer)

    def watch_connections(self) -> None:
        """Ends the connections that send without end. To be called when `receive` has returned None."""
        if self._connections is not None and not self.is_behind:
            self._connections.check()

    # Sending.

    def answer(self, askers: Sequence[bytes], reply: Frames | Cached) -> None:
        """Sends a final reply to the newest of the connections that asked for it and still exists.

        A copy of the request that was on its way over an older connection may have arrived last. That connection is gone, or
        about to be: newest is the one that was accepted last.
        """
        ordered = sorted(reversed(askers), key=age_of, reverse=True) if len(askers) > 1 else askers
        self._send_to_first(tuple(ordered), reply)

    def send(self, peer: bytes, frames: Frames) -> None:
        """Sends a message, or queues it where the client does not read at present."""
        self._send_to_first((peer,), frames)

    def send_cached(self, peer: bytes, key: Hashable, id: str) -> None:
        """Sends the cached reply to a request that was asked for again."""
        self._send_to_first((peer,), Cached(key, id))

    def _send_to_first(self, ids: tuple[bytes, ...], reply: Frames | Cached) -> None:
        for number, id in enumerate(ids):
            peer = self._peers.get(id)
            if peer is None:
                continue
            if peer.waiting or (sent := self._try(peer, reply)) is None:
                self._queue(peer, reply, ids[number + 1 :])
                return
            if sent:
                return
        logger.debug("nobody is there for a reply: it will be asked for again")

    def _queue(self, peer: Peer, reply: Frames | Cached, others: tuple[bytes, ...]) -> None:
        if not peer.waiting:
            peer.moved = time.monotonic()
            self._behind[peer.id] = peer
        peer.waiting.append((reply, others))
        peer.waiting_bytes += _bytes_of(reply)
        if len(peer.waiting) > UNDELIVERED or peer.waiting_bytes > UNDELIVERED_BYTES:
            self._log.warning("unread", "%s does not read %d replies: disconnected", peer.client.name, len(peer.waiting))
            self.end(peer)

    def offer(self, askers: Sequence[bytes], frames: Frames) -> None:
        """Sends a message that may be lost to the newest connection, or drops it where that does not read at present."""
        id = max(reversed(askers), key=age_of, default=b"")
        peer = self._peers.get(id)
        if peer is not None and not peer.waiting:
            self._try(peer, frames)

    def send_again(self) -> None:
        """Sends the replies that wait, as far as clients accept them."""
        now = time.monotonic()
        for peer in list(self._behind.values()):
            while peer.waiting:
                reply, others = peer.waiting[0]
                sent = self._try(peer, reply)
                if sent is None:
                    break
                peer.moved = now
                peer.waiting.popleft()
                peer.waiting_bytes -= _bytes_of(reply)
                if not sent:
                    # Gone, and so are the other replies that wait for it.
                    self._send_to_first(others, reply)
            if not peer.waiting:
                self._behind.pop(peer.id, None)
            elif now - peer.moved > UNREAD_SECONDS:
                self._log.warning("unread", "%s has read nothing for %.0f s: disconnected", peer.client.name, now - peer.moved)
                self.end(peer)

    @property
    def has_undelivered(self) -> bool:
        """Whether a reply waits for a client that does not read."""
        return bool(self._behind)

    def seconds_to_wait(self) -> float:
        """How long to wait before replies are sent again, or what is left of a message is read."""
        if self.is_behind:
            return 0.0
        # Connections have to be watched, whether or not they complete a message.
        return REDELIVERY_SECONDS if self._behind else 2 * CHECK_SECONDS

    def _try(self, peer: Peer, reply: Frames | Cached) -> bool | None:
        """Whether the reply was sent; None where the client has to read first; False where it is gone."""
        frames: Frames
        if isinstance(reply, Cached):
            cached = self._cache.reply(reply.key)
            frames = _evicted(reply.id) if cached is None else cached.frames
        else:
            frames = reply
        large = max(map(len, frames)) > LARGE_FRAME
        if large and (unsent := peer.unsent_bytes()) and unsent + sum(map(len, frames)) > UNSENT_BYTES:
            return None
        try:
            tracker = self._socket.send_multipart([peer.id, *frames], zmq.NOBLOCK, copy=False, track=large)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._peers.pop(peer.id, None)
            return False
        # Small frames are copied, and their tracker is a constant.
        if large and tracker is not None:
            peer.unsent.append((tracker, sum(map(len, frames))))
        return True

    def _forget(self, peer: Peer) -> None:
        self._peers.pop(peer.id, None)
        self._behind.pop(peer.id, None)
        peer.waiting.clear()

    def close(self) -> None:
        """Gives libzmq at most `LINGER` to send what it has."""
        if self._authenticator is not None:
            self._authenticator.close()
        if self._connections is not None:
            self._connections.close()
        self._socket.close()
        self._context.term()


def _bytes_of(reply: Frames | Cached) -> int:
    """Bytes that a reply takes while it waits, beside its place in the queue."""
    return 0 if isinstance(reply, Cached) else sum(map(len, reply))


def _evicted(id: str) -> Frames:
    """What a client gets that read so late that its reply had to make room for others'."""
    message = "the image was refined, but not read before it had to make room for others: ask again"
    return encode(Error(id=id, code="lost", message=message, retryable=True))


def _socket_of(frame: zmq.Frame) -> tuple[int, int] | None:
    try:
        descriptor = frame.get(zmq.SRCFD)
    except (zmq.ZMQError, KeyError, ValueError):
        return None
    inode = inode_of(descriptor)
    return None if inode is None else (descriptor, inode)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except (zmq.ZMQError, KeyError):
        return ""
