"""Limits that ZeroMQ lacks: on the size of one message, and on connections while descriptors are short.

ZeroMQ limits frames, not messages, and shows a message only once its last frame has arrived. So the kernel is asked how
many bytes each connection has received: one that has received more than two whole messages may hold, without a message
seen, is cut; so is one whose large message takes longer than its size allows, and those that hold most while all
together hold too much. Small frames take many times their bytes (64 each), so the process's memory is watched too. This
works where the kernel tells (Linux, TCP), and also shows which clients have gone. Without a free descriptor ZeroMQ's
thread tries to accept without end and takes a whole processor, so a thread with a descriptor table of its own (Linux,
unshare) accepts such connections and closes them.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from time import monotonic

import zmq
from zmq.utils.monitor import recv_monitor_message

from imdb_serving.protocol.framing import SMALL_BYTES
from imdb_serving.server.connection import LEAST_RATE, MESSAGE_SECONDS
from imdb_serving.server.stream_listener import MAX_HELD_BYTES

log = logging.getLogger(__name__)

LOOK_MS = 200
END_SECONDS = 2.0
CLONE_FILES = 0x400
MOST = 1 << 20


class ConnectionRefuser:
    """Refuses connections at some listening sockets while no descriptor is left."""

    def __init__(self) -> None:
        self._listeners: list[int] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, listener: int) -> None:
        """Look after one more listening socket, given by its descriptor.

        Two threads accept from it, so neither may wait there for a connection that the other one took.
        """
        with suppress(OSError):
            os.set_blocking(listener, False)
            self._listeners.append(listener)

    def check(self) -> None:
        """Begin to refuse connections when no descriptor is left, and end when there is one; called now and then."""
        if _is_one_left():
            self._over.set()
        elif self._listeners and (self._thread is None or not self._thread.is_alive()):
            log.warning("no descriptor is left: new connections are refused; raise the limit (ulimit -n)")
            self._over.clear()
            self._thread = threading.Thread(target=self._refuse, name="refuse", daemon=True)
            self._thread.start()

    def _refuse(self) -> None:
        if not _unshare_descriptors():
            self._over.wait()
            return
        below = 0
        for listener in [*sorted(self._listeners), MOST]:  # what else is open is not to be kept open by this thread
            os.closerange(below, listener)
            below = listener + 1
        poll = select.poll()
        for listener in self._listeners:
            poll.register(listener, select.POLLIN)
        while not self._over.is_set():
            for listener, _ in poll.poll(LOOK_MS):
                _refuse_one(listener)

    def close(self) -> None:
        """Refuse no more; before the listening sockets are closed."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)


def _unshare_descriptors() -> bool:
    """Give the calling thread a table of descriptors of its own; tell whether that could be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return int(ctypes.CDLL(None).unshare(CLONE_FILES)) == 0
    except (OSError, AttributeError):
        return False


def _refuse_one(listener: int) -> None:
    listening = socket.socket(fileno=listener)
    try:
        with suppress(OSError):
            listening.accept()[0].close()
    finally:
        listening.detach()


def _is_one_left() -> bool:
    try:
        os.close(os.dup(2))
    except OSError:
        return False
    return True


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


class MessageLimit:
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
        """Read which connections opened and closed. The new owner of a descriptor is not mistaken for the old one."""
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

    def is_due(self) -> bool:
        """Tell whether it is time for a `check`."""
        return monotonic() - self._checked >= CHECK_SECONDS

    def check(self) -> list[bytes]:
        """Cut what floods; return the identities of clients that have gone."""
        now = self._checked = monotonic()
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
