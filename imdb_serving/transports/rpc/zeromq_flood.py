"""Ends connections that send one message without end, which ZeroMQ would keep in memory until there is none left.

It also tells which clients have gone, so that nothing is computed for them.

ZeroMQ limits frames, not messages, and shows a message only once its last frame has arrived. So the kernel is asked how
many bytes a connection has received: one that has received more than two whole messages may hold, and of which no
message was seen meanwhile, is cut. So is one whose large message takes longer than its size allows, and those that hold
most and longest while all together hold too much. Small frames take many times their bytes (64 each), so the memory of
the process is looked at as well. Works where the kernel tells (Linux, TCP); elsewhere it does nothing.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import struct
from time import monotonic

import zmq
from zmq.utils.monitor import recv_monitor_message

from imdb_serving.transports.rpc.framing import SMALL_BYTES
from imdb_serving.transports.rpc.zeromq_listeners import ConnectionRefuser
from imdb_serving.transports.streams.connection import LEAST_RATE, MESSAGE_SECONDS
from imdb_serving.transports.streams.front import MAX_HELD_BYTES

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.1
BYTES_RECEIVED = 128
"""Where `tcpi_bytes_received`, 8 bytes, lies in Linux's `tcp_info`."""

FRAME_COST = 40
"""How many times its bytes the smallest frame takes in memory, at most."""

UNHEARD_SECONDS = 1.0
"""After how long a connection of which no message was seen may have the identity of another one."""

TWIN_SECONDS = 5.0
"""For how long such connections are looked for once a client with an identity of its own choice has left."""

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
        self._monitor = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_LISTENING)
        self._refuser = ConnectionRefuser()
        self._memory = _Memory()
        self._resident = self._memory.resident()  # while no large message arrives
        self._large: dict[int, float] = {}  # when a large message was first seen to arrive, by descriptor
        self._accepted: dict[int, float] = {}  # when, by descriptor
        self._chosen_left = float("-inf")  # when a client with an identity of its own choice left last
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
        if client[:1] == GIVEN:
            self._gone.append(client)
        else:  # one that a client has chosen may be in use again already, on another connection
            self._chosen_left = monotonic()

    def _forget_seen(self) -> None:
        self._seen: set[bytes] = set()
        self.saw = self._seen.add  # takes note that a message of a client was whole

    def _hear(self) -> None:
        """Learn which connections came and went. A descriptor's new owner is not mistaken for the one before."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_LISTENING:
                self._refuser.add(descriptor)
                continue
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._floor[descriptor], self._accepted[descriptor] = 0, monotonic()
                continue
            self._floor.pop(descriptor, None)
            self._accepted.pop(descriptor, None)
            self._large.pop(descriptor, None)
            for client in [who for who, which in self.known.items() if which == descriptor]:
                self._leave(client)

    def check(self) -> list[bytes]:
        """Cut what floods, now and then; return the identities of clients that have gone."""
        now = monotonic()
        if now - self._checked < CHECK_SECONDS:
            return []
        self._checked = now
        self._hear()
        self._refuser.check()
        gone, self._gone = self._gone, []
        seen = {self.known.get(client) for client in self._seen}
        self._forget_seen()
        begun = []
        for descriptor, floor in self._floor.items():
            received = _received(descriptor)
            if descriptor in seen:
                self._floor[descriptor] = received
            else:
                begun.append((max(0, received - floor), descriptor))
        self._cut_those_with_too_much(begun, now)
        if now < self._chosen_left + TWIN_SECONDS:
            self._cut_those_never_heard(begun, now)
        return gone

    def _cut_those_never_heard(self, begun: list[tuple[int, int]], now: float) -> None:
        """Have connections made again that may have the identity of a client that has left.

        ZeroMQ heeds no connection with the identity of one that lives, neither then nor later, and tells nobody.
        """
        heard = set(self.known.values())
        for size, descriptor in begun:
            if descriptor not in heard and size <= SMALL_BYTES and now > self._accepted[descriptor] + UNHEARD_SECONDS:
                _cut(descriptor, "may have the identity of a client that has left, and is to connect again")

    def _cut_those_with_too_much(self, begun: list[tuple[int, int]], now: float) -> None:
        """Cut connections whose message is too large or too slow, or that hold most and longest of too much in all."""
        self._large = {at: self._large.get(at, now) for size, at in begun if size > SMALL_BYTES}
        total = sum(size for size, _ in begun)
        held = self._memory_of(total)
        for size, descriptor in sorted(
            begun, key=lambda one: one[0] * (now - self._large.get(one[1], now) + 1), reverse=True
        ):
            seconds = now - self._large.get(descriptor, now)
            if size > self._limit:
                _cut(descriptor, "sends a message without end")
            elif seconds > MESSAGE_SECONDS + size / LEAST_RATE:
                _cut(descriptor, "sends a large message too slowly")
            elif held > MAX_HELD_BYTES:
                _cut(descriptor, f"holds the most and longest of {held >> 20} MiB of messages that are not whole")
            else:
                continue
            held -= size * held // total

    def _memory_of(self, total: int) -> int:
        """Return about how many bytes of memory messages take of which so many bytes have arrived."""
        resident = self._memory.resident()
        if total <= SMALL_BYTES:
            self._resident = resident
        grown = resident - self._resident
        return grown if total < grown < FRAME_COST * total else total

    def close(self) -> None:
        """Watch no more; before the socket is closed."""
        self._refuser.close()
        self._memory.close()
        self._router.disable_monitor()
        self._monitor.close(linger=0)


class _Memory:
    """The resident memory of this process, read from a file that is kept open: descriptors may be short."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/self/statm", os.O_RDONLY)
        except OSError:
            self._file = -1

    def resident(self) -> int:
        """Return bytes, 0 where that is not told."""
        if self._file < 0:
            return 0
        return int(os.pread(self._file, 100, 0).split()[1]) * mmap.PAGESIZE

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _received(descriptor: int) -> int:
    """Return how many bytes a connection has received, 0 where that is not told."""
    if TCP_INFO is None:
        return 0
    try:
        connection = socket.socket(fileno=descriptor)
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
        finally:
            connection.detach()
        count: int = struct.unpack_from("=Q", info, BYTES_RECEIVED)[0]
    except (OSError, struct.error):
        return 0
    return count


def _cut(descriptor: int, why: str) -> None:
    log.warning("a connection is cut: it %s", why)
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            # With this the close that follows resets the connection, and the sender learns of it at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("it had gone by itself")
