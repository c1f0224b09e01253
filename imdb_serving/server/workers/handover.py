"""Between the supervisor and the workers: requests that it has read and passes on, and what they report to it.

Both go over a pair of sockets that keeps messages apart. All idle workers wait at one end for requests, and the kernel
gives each to one of them; the number of the request is read straight into the worker's row, so it is known who was at
it. What is large, or stays within the process, goes beside the socket: as a file in memory, or as it is.
"""

from __future__ import annotations

import array
import fcntl
import itertools
import os
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, NamedTuple

from imdb_serving.server.workers.scoreboard import PASSED, Row

INLINE_BYTES = 1 << 15
SMALL_BYTES = 1 << 12
"""Up to here a copy costs less than a call that gathers."""

HEAD = struct.Struct("<qqqq")
SCRATCH_BYTES = HEAD.size - 8 + INLINE_BYTES
_unpack_rest = struct.Struct("<qqq").unpack_from
KIND = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM) if sys.platform.startswith("linux") else socket.SOCK_DGRAM
DESCRIPTOR_SPACE = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0

LEFT, UNSENT, RESULT, UNREAD, BUSY, OBSERVED = range(6)
"""What a worker reports: a connection that it leaves to the supervisor, the rest of an answer that the client does not
read, the answer to a passed request, that it could not read one, that it has begun to work, or an answer for the
metrics."""


class Passed(NamedTuple):
    """A request that the supervisor has read; both times in ns."""

    number: int
    received_ns: int
    deadline_ns: int
    message: Any


class Report(NamedTuple):
    """What a worker reports: its kind, the number of the connection or of the request, a code, and bytes.

    None in their place were too many to be sent with it, and came in a file for which no descriptor was left.
    """

    kind: int
    number: int
    code: int
    data: Any


def renumbered(given: socket.socket, lowest: int) -> socket.socket:
    """Return a socket under a number that is not below `lowest`; raise `OSError` when there is none left."""
    if lowest <= given.fileno():
        return given
    with given:
        number = fcntl.fcntl(given.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
    return socket.socket(fileno=number)


class _Pair:
    """Two connected sockets. Of one in one process, `local` holds what is not sent over it."""

    def __init__(self, ends: tuple[socket.socket, socket.socket] | None = None, *, local: bool) -> None:
        self.sender, self.receiver = ends or socket.socketpair(socket.AF_UNIX, KIND)
        self.local: dict[int, Any] | None = {} if local else None

    def send(self, fields: tuple[int, int, int], data: Any, key: int) -> None:
        """Send; raise `BlockingIOError` when that cannot be done at once and the socket does not wait."""
        if self.local is not None:
            self.local[key] = data
            self.sender.send(HEAD.pack(*fields, key))
        elif len(data) <= SMALL_BYTES:
            self.sender.send(HEAD.pack(*fields, -1) + data)
        elif len(data) <= INLINE_BYTES:
            self.sender.sendmsg([HEAD.pack(*fields, -1), data])
        else:
            file = os.memfd_create("imdb-serving-message")
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
                rights = array.array("i", [file])
                head = HEAD.pack(*fields, len(data))
                self.sender.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            finally:
                os.close(file)

    def payload(self, key: int, inline: bytes, ancillary: list[Any]) -> Any:
        """Return the data of a message from its last field, what came with it, and a descriptor."""
        if self.local is not None:
            return self.local.pop(key)
        if key < 0:
            return inline
        (file,) = array.array("i", ancillary[0][2][:4])
        try:
            data = bytearray(key)
            os.preadv(file, [data], 0)
        finally:
            os.close(file)
        return data

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


class Handover:
    """Both pairs. A worker process gets the two ends that are the workers'."""

    def __init__(self, *, local: bool, lowest: int = 3) -> None:
        """Make the pairs; `local` says that the workers are threads of this process.

        The socket at which workers wait gets a number that is not below `lowest`.
        """
        self.local = local
        self._request_pair, self._report_pair = _Pair(local=local), _Pair(local=local)
        for end in (self._request_pair.sender, self._request_pair.receiver, self._report_pair.receiver):
            end.setblocking(False)
        self.requests = self._request_pair.receiver = renumbered(self._request_pair.receiver, lowest)
        self.reports = self._report_pair.receiver  # where the supervisor reads
        self.reporter = self._report_pair.sender
        self._view = memoryview(bytearray(8 + SCRATCH_BYTES))
        self._keys = itertools.count()

    @classmethod
    def of_worker(cls, requests: socket.socket, reporter: socket.socket) -> Handover:
        """Return what a worker process has of it."""
        made = cls.__new__(cls)
        made.local = False
        made._request_pair = _Pair((requests, requests), local=False)
        made._report_pair = _Pair((reporter, reporter), local=False)
        made.requests, made.reports, made.reporter = requests, reporter, reporter
        made._keys = itertools.count()
        return made

    def pass_on(self, passed: Passed) -> bool:
        """Pass a request to the next idle worker; return whether there was room for it."""
        number, received_ns, deadline_ns, message = passed
        try:
            self._request_pair.send((number, received_ns, deadline_ns), message, number)
        except BlockingIOError:
            return False
        return True

    def take(self, row: Row, scratch: memoryview) -> Passed | None:
        """Return a passed request, if there is one. Its number is in the row by then.

        What it reads goes to `scratch`, of `SCRATCH_BYTES` bytes, first.
        """
        try:
            size, ancillary, _, _ = self.requests.recvmsg_into([row.passed, scratch], DESCRIPTOR_SPACE)
        except BlockingIOError:
            return None
        if size < HEAD.size:  # the supervisor has gone
            return None
        received_ns, deadline_ns, key = _unpack_rest(scratch)
        data = self._request_pair.payload(key, bytes(scratch[24 : size - 8]), ancillary)
        return Passed(row.cells[PASSED], received_ns, deadline_ns, data)

    def report(self, kind: int, number: int, code: int = 0, data: Any = b"") -> None:
        """Report something to the supervisor; by any worker."""
        with suppress(BrokenPipeError, ConnectionResetError):  # without a supervisor this process ends
            self._report_pair.send((kind, number, code), data, next(self._keys))

    def next_report(self) -> Report | None:
        """Return the next report of a worker, if there is one."""
        view = self._view
        try:
            size, ancillary, _, _ = self.reports.recvmsg_into([view], DESCRIPTOR_SPACE)
        except BlockingIOError:
            return None
        kind, number, code, key = HEAD.unpack_from(view)
        if self._report_pair.local is None and key >= 0 and not ancillary:
            return Report(kind, number, code, None)
        return Report(kind, number, code, self._report_pair.payload(key, bytes(view[HEAD.size : size]), ancillary))

    def close(self) -> None:
        """Close all ends."""
        self._request_pair.close()
        self._report_pair.close()
