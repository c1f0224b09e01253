"""Messages between a server and a worker process: a number and some frames over a stream socket.

A message is the number and the count of frames (int64 each), their sizes (uint64 each), and the frames, each padded to
eight bytes, so that arrays in them lie where processors want them. What the frames hold is not known here.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from time import monotonic, sleep

from imdb_serving.protocol.framing import Frame

Frames = Sequence[Frame]

SHORTAGES = frozenset({errno.ENOBUFS, errno.ENOMEM})
"""Errors of a call on a socket that say that the system is short of memory for the moment."""

CALL_ERRORS = SHORTAGES | {errno.EMSGSIZE, errno.EINVAL, errno.EFAULT}
"""Errors of a call on a socket that say nothing about the other end."""

SHORTAGE_SECONDS = 0.01
MAX_PARTS = min(1024, os.sysconf("SC_IOV_MAX")) if hasattr(os, "sysconf") else 1024
"""How many parts one `sendmsg` takes (IOV_MAX on Linux)."""

HEAD = struct.Struct("<qq")
CHUNK = 1 << 16
_PADDING = [bytes(count) for count in range(8)]


def pack(number: int, frames: Frames) -> list[Frame]:
    """Return the parts of a message, for a call that gathers them; the frames are not copied."""
    sizes = [len(frame) for frame in frames]
    parts: list[Frame] = [struct.pack(f"<qq{len(sizes)}Q", number, len(sizes), *sizes)]
    for frame, size in zip(frames, sizes, strict=True):
        parts.append(frame)
        if size % 8:
            parts.append(_PADDING[-size % 8])
    return parts


def missing(data: memoryview) -> int:
    """Return how many more bytes the message that begins with `data` has, as far as can be told: 0 when it is whole."""
    if len(data) < HEAD.size:
        return HEAD.size - len(data)
    count: int = HEAD.unpack_from(data)[1]
    if len(data) < HEAD.size + 8 * count:
        return HEAD.size + 8 * count - len(data)
    sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", data, HEAD.size)
    return HEAD.size + sum(8 + size + -size % 8 for size in sizes) - len(data)


def unpack(data: memoryview) -> tuple[int, list[Frame]]:
    """Return the number and the frames of a whole message, as views into it."""
    number, count = HEAD.unpack_from(data)
    start = HEAD.size + 8 * count
    frames: list[Frame] = []
    for size in struct.unpack_from(f"<{count}Q", data, HEAD.size):
        frames.append(data[start : start + size])
        start += size + -size % 8
    return number, frames


class NotSent(Exception):
    """Nothing of a message was sent, and not because of the other end: it can still be used."""


class Channel:
    """One end of the conversation. Used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Take a connected stream socket. Nothing waits longer than its deadline."""
        self.connection = connection
        connection.setblocking(False)
        self._broken = False
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)

    def send(self, number: int, frames: Frames, deadline: float | None = None) -> None:
        """Send a message.

        Raises `TimeoutError` at the deadline, `OSError` when the other end is gone or got only a part of the message,
        and `NotSent` when the call fails for another reason before anything was sent.
        """
        parts = pack(number, frames)
        size = left = sum(map(len, parts))
        while True:
            try:
                left -= (sent := self.connection.sendmsg(parts if len(parts) <= MAX_PARTS else parts[:MAX_PARTS]))
            except BlockingIOError:
                sent = 0
            except OSError as error:
                if error.errno in SHORTAGES:
                    sent = 0
                    sleep(SHORTAGE_SECONDS)
                elif error.errno in CALL_ERRORS and left == size:
                    raise NotSent(error.strerror) from error
                else:
                    raise
            if not left:
                return
            parts = _without(parts, sent)
            if not self._writable.poll(_milliseconds(deadline)) or (deadline is not None and monotonic() > deadline):
                raise TimeoutError

    def receive(self, deadline: float | None = None) -> tuple[int, list[Frame]]:
        """Return the next message; raise `TimeoutError` at the deadline, `EOFError` when the other end is gone.

        One of which a part was read when the deadline came cannot be read later: then this is the end.
        """
        if self._broken:
            raise EOFError
        if not self._readable.poll(_milliseconds(deadline)):
            raise TimeoutError
        data: Frame = self._some(deadline)
        if more := missing(memoryview(data)):
            data = self._rest(data, more, deadline)
        return unpack(memoryview(data))

    def _rest(self, begun: Frame, more: int, deadline: float | None) -> Frame:
        data = bytearray(begun)
        while more:
            view, start = bytearray(more), 0
            while start < more:
                try:
                    start += (count := self.connection.recv_into(memoryview(view)[start:]))
                except OSError as error:
                    count = self._retried(error)
                    if not self._readable.poll(_milliseconds(deadline)):
                        self._broken = True
                        raise TimeoutError from None
                if not count:
                    raise EOFError
            data += view
            more = missing(memoryview(data))
        return data

    def _some(self, deadline: float | None) -> bytes:
        while True:
            try:
                data = self.connection.recv(CHUNK)
            except ConnectionResetError:
                data = b""
            except OSError as error:
                self._retried(error)
                if not self._readable.poll(_milliseconds(deadline)):
                    raise TimeoutError from None
                continue
            if not data:
                raise EOFError
            return data

    @staticmethod
    def _retried(error: OSError) -> int:
        """Return -1 bytes for an error after which reading is tried again; raise it when it is the end."""
        if isinstance(error, BlockingIOError):
            return -1
        if error.errno not in SHORTAGES:
            raise error
        sleep(SHORTAGE_SECONDS)
        return -1

    def has_word(self, seconds: float = 0.0) -> bool:
        """Tell whether there is something to read, its end included, within some seconds."""
        return bool(self._readable.poll(max(0.0, seconds) * 1000))

    def close(self) -> None:
        """Close this end, which the other one reads as the end."""
        self.connection.close()


def _without(parts: list[Frame], sent: int) -> list[Frame]:
    """Return what is left of the parts once so many bytes of them were sent."""
    for position, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[position + 1 :]]
        sent -= len(part)
    return []


def _milliseconds(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, (deadline - monotonic()) * 1000)
