"""Ends connections that send one message without end, which ZeroMQ would keep in memory until there is none left.

It also tells which clients have gone, so that nothing is computed for them.

ZeroMQ limits frames, not messages, and shows a message only once its last frame has arrived. So the kernel is asked how
many bytes a connection has received: one that has received more than two whole messages may hold, and of which no
message was seen meanwhile, is cut. Works where the kernel tells (Linux, TCP); elsewhere it does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from time import monotonic

import zmq
from zmq.utils.monitor import recv_monitor_message

from imdb_serving.transports.streams.front import MAX_HELD_BYTES

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.1
BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received`, 8 bytes, lies in Linux's `tcp_info`."""

UNKNOWN = -1
GIVEN = b"\0"
"""How the identities begin that ZeroMQ gives to connections, and no other (ZMQ_ROUTING_ID)."""

MAX_KNOWN = 10_000
"""How many clients are remembered of whom the connection cannot be told."""

TCP_INFO = getattr(socket, "TCP_INFO", None)


class FloodGuard:
    """Watches the connections of one ROUTER. All calls are made with the socket's lock held."""

    def __init__(self, router: zmq.Socket[bytes], max_message_bytes: int) -> None:
        """Begin to watch; before the socket is bound, or connections are missed."""
        self._router, self._limit = router, 2 * max_message_bytes
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._floor: dict[int, int] = {}
        self.known: dict[bytes, int] = {}
        """The descriptor of each client's connection, by the client's identity."""

        self._gone: list[bytes] = []
        self._forget_seen()
        self._checked = monotonic()

    def meet(self, client: bytes, frame: zmq.Frame) -> bytes:
        """Learn from a frame of a client that is not known which connection is whose; return the frame's bytes."""
        self._hear()
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except (zmq.ZMQError, ValueError):
            descriptor = UNKNOWN
        if len(self.known) < MAX_KNOWN or descriptor != UNKNOWN:
            self.known[client] = descriptor
        if descriptor not in self._floor and descriptor != UNKNOWN:
            self._leave(client)
        return frame.bytes

    def _leave(self, client: bytes) -> None:
        del self.known[client]
        if client[:1] == GIVEN:  # one that a client has chosen may be in use again already, on another connection
            self._gone.append(client)

    def _forget_seen(self) -> None:
        self._seen: set[bytes] = set()
        self.saw = self._seen.add  # takes note that a message of a client was whole

    def _hear(self) -> None:
        """Learn which connections came and went. A descriptor's new owner is not mistaken for the one before."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._floor[descriptor] = 0
                continue
            self._floor.pop(descriptor, None)
            for client in [who for who, which in self.known.items() if which == descriptor]:
                self._leave(client)

    def check(self) -> list[bytes]:
        """Cut what floods, now and then; return the identities of clients that have gone."""
        now = monotonic()
        if now - self._checked < CHECK_SECONDS:
            return []
        self._checked = now
        self._hear()
        gone, self._gone = self._gone, []
        seen = {self.known.get(client) for client in self._seen}
        self._forget_seen()
        begun = []
        for descriptor, floor in self._floor.items():
            received = _received(descriptor)
            if descriptor in seen:
                self._floor[descriptor] = received
            else:
                begun.append((received - floor, descriptor))
        self._cut_those_with_too_much(begun)
        return gone

    def _cut_those_with_too_much(self, begun: list[tuple[int, int]]) -> None:
        """Cut connections of which too much has begun to arrive, or which together hold too much, the largest first."""
        total = sum(size for size, _ in begun)
        for size, descriptor in sorted(begun, reverse=True):
            if size <= self._limit and total <= MAX_HELD_BYTES:
                return
            _cut(descriptor)
            total -= size

    def close(self) -> None:
        """Watch no more; before the socket is closed."""
        self._router.disable_monitor()
        self._monitor.close(linger=0)


def _received(descriptor: int) -> int:
    """Return how many bytes a connection has received, 0 where that is not told."""
    if TCP_INFO is None:
        return 0
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
        count: int = struct.unpack_from("=Q", info, BYTES_RECEIVED)[0]
    except (OSError, struct.error):
        return 0
    return count


def _cut(descriptor: int) -> None:
    log.warning("a connection sends a message without end and is cut")
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            # With this the close that follows resets the connection, and the sender learns of it at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("it had gone by itself")
