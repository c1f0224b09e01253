"""A worker: it takes a ready connection, or a request that was passed to it, answers it, and takes the next.

A worker process answers a request where it lies. It looks at the bytes (`MSG_PEEK`), answers, and only then takes them
off the connection. So one that is killed leaves its request to another. Threads of the supervisor's process, which end
with it, take the bytes at once. What is not one whole request, or no prediction, is left to the supervisor.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter_ns, sleep, time_ns
from typing import Any

from imdb_serving.errors import CODES
from imdb_serving.server.workers.carrier import Carrier, Question, encode_stages
from imdb_serving.server.workers.handover import (
    BUSY,
    LEFT,
    OBSERVED,
    RESULT,
    SCRATCH_BYTES,
    UNREAD,
    UNSENT,
    Handover,
)
from imdb_serving.server.workers.pace import LOOK_AT_EVERY, Pace, step_timer
from imdb_serving.server.workers.ready_set import PEER_LEFT, ReadySet
from imdb_serving.server.workers.scoreboard import (
    ANSWERING,
    ASLEEP,
    AT,
    BEAT,
    BRIEF,
    CONNECTION_CELLS,
    CONSUMED,
    DEADLINE,
    EXPIRED,
    GENERATION,
    GIVEN_BACK,
    GIVEN_WAY,
    HAND_OVER,
    KEPT,
    LEAVING,
    MOST_TAKEN,
    OBSERVE,
    OUTCOMES,
    PASSED,
    PHASE,
    REQUEST,
    REVOKED,
    SEEN,
    SENT,
    SHED,
    SHED_NS,
    SIZE,
    TAKEN,
    TURN,
    WORKING,
    Row,
    Scoreboard,
)

log = logging.getLogger(__name__)

CHUNK = 1 << 16
MOST_REST = 1 << 20
"""Of the rest of a request, so many bytes are read by a worker: it copies them. What is larger the supervisor reads."""

FAULT_SECONDS = 0.1
CLOCK_TRIES, APART_NS = 3, 2_000
CLOCKS_NS = 10_000_000
"""For how long it is known how far the wall clock is ahead; it may be set at any time."""

HOLD_NS = 200_000
"""How long a thread holds an answer back for others to leave with it. A process, which is given fewer requests at once,
holds them all: what it is at shall not change while the supervisor gives some of it to others."""

SO_TIMESTAMPNS = 35
"""Linux: have the kernel stamp what arrives (asm-generic/socket.h)."""

MSG_PEEK = int(socket.MSG_PEEK)
STAMP_SPACE = socket.CMSG_SPACE(16) if hasattr(socket, "CMSG_SPACE") else 0
_stamp = struct.Struct("qq").unpack


class Worker:
    """One thread of a server's process; `run` it."""

    def __init__(
        self,
        row: Row,
        board: Scoreboard,
        ready: ReadySet,
        handover: Handover,
        connection_of: Callable[[int], socket.socket],
        carrier: Carrier,
        pace: Pace,
        number: int,
        most: int = MOST_TAKEN,
    ) -> None:
        """Take everything; `connection_of` returns the socket of a number in this process.

        Of brief requests it takes `most` at once.
        """
        self._most, self._stamped = most, carrier.always_stamped
        self._peek = 0 if handover.local else MSG_PEEK
        self._taken_ns = self._clocks_until = self._ahead_ns = 0
        self._held: deque[tuple[int, int, socket.socket, int, Any, int]] = deque()  # answers, to leave together
        self.row, self._board, self._ready, self._handover = row, board, ready, handover
        self._connection_of, self._carrier, self._pace, self._number = connection_of, carrier, pace, number
        self._work_number = handover.requests.fileno()
        self._cells, self._common, self._connections = row.cells, board.common, board.connections
        self._scratch = bytearray(CHUNK)
        self._view = memoryview(self._scratch)[:SCRATCH_BYTES]
        self.is_over = False

    def run(self) -> None:
        """Answer requests until `is_over`."""
        row, cells, wait, pace = self.row, self._cells, self._ready.waiter(self.row), self._pace
        while True:
            if self._number and pace.is_brief:
                pace.wait()
            count = 0 if self.is_over else wait(self._most if pace.is_brief else 1)
            if self.is_over:
                with suppress(OSError):  # the server has closed all
                    self._leave_all(count)
                return
            if not count:
                cells[BEAT] += 1
                continue
            try:
                if self._common[ASLEEP]:
                    self._handover.report(BUSY, 0)
                if count == 1:
                    self._take_one()
                else:
                    self._take(count)
            except Exception:  # a fault of ours must not cost the worker
                log.exception("a worker goes on behind a fault")
                self._leave_all(count)
                sleep(FAULT_SECONDS)  # one that stays shall not take the processor as well
            row.leave(count)

    def _leave_all(self, count: int) -> None:
        """Leave what was not answered to the supervisor."""
        cells = self._cells
        begun = 0 if self._peek else cells[AT]
        for number in self.row.numbers.tolist()[begun:count]:
            if number == self._work_number:
                if passed := cells[PASSED]:
                    self._handover.report(UNREAD, passed)
                    cells[PASSED] = 0
                self._ready.arm(number)
            elif number:
                self._handover.report(LEFT, number)

    def _take_one(self) -> None:
        """Answer what was given, where that is one request."""
        cells, number = self._cells, self.row.numbers[0]
        self._taken_ns = perf_counter_ns()
        if number == self._work_number:
            self._take_passed()
            return
        answered = self._answer(number, self.row.flags[0])
        if answered is not None:
            connection, code, data, size = answered
            cells[OUTCOMES + code] += 1
            if self._peek:
                cells[PHASE] = ANSWERING
            self._send(number, connection, data, size)

    def _take(self, count: int) -> None:
        """Answer what was given. The answers leave together: each wakes a client, which takes the processor from us."""
        cells, numbers, flags = self._cells, self.row.numbers, self.row.flags
        beat, held = cells[BEAT], self._held
        self._taken_ns = held_since = perf_counter_ns()
        for place in range(count):
            cells[AT] = place
            number = numbers[place]
            if number == self._work_number:
                self._take_passed()
                answered = None
            else:
                answered = self._answer(number, flags[place])
            if answered is None:
                numbers[place] = 0
            else:
                held.append((place, number, *answered))
                cells[OUTCOMES + answered[1]] += 1
            if cells[REVOKED] == beat:  # it took so long that the supervisor gives all others to other workers
                cells[KEPT] = place
                cells[GIVEN_BACK] = beat
                if self._peek:
                    while held and held[0][0] != place:
                        cells[OUTCOMES + held.popleft()[3]] -= 1  # another worker answers it
                break
            if not self._peek and perf_counter_ns() - held_since > HOLD_NS:
                self.release_held()
                held_since = perf_counter_ns()
        self.release_held()

    def release_held(self) -> None:
        """Have the answers leave that are held back. Within a process the supervisor may call this as well."""
        cells, numbers, held = self._cells, self.row.numbers, self._held
        while held:
            try:
                place, number, connection, _, data, size = held.popleft()
            except IndexError:  # the other one took the last
                return
            if self._peek:
                cells[AT], cells[SIZE] = place, size
                cells[PHASE] = ANSWERING
            self._send(number, connection, data, size)
            if self._peek:  # else this may be the supervisor, and the place another one's by now
                numbers[place] = 0

    def _answer(self, number: int, flags: int) -> tuple[socket.socket, int, Any, int] | None:
        """Return the answer to the request on a connection, and its code and size, or leave it to the supervisor."""
        stamps: Any = ()
        try:
            connection = self._connection_of(number)
            if self._pace.is_brief and not self._stamped:
                data = connection.recv(CHUNK, self._peek)
            else:
                data, stamps, _, _ = connection.recvmsg(CHUNK, STAMP_SPACE, self._peek)
        except OSError:  # it has failed, or this process could not get it
            data = b""
        try:
            question = self._carrier.read(data)
            if question is None and not self._peek and 0 < self._carrier.missing(data) <= MOST_REST:
                data = self._with_rest(connection, data)
                question = self._carrier.read(data)
        except Exception:  # a fault of ours: what was read goes to the supervisor, and is not lost
            log.exception("a request cannot be read")
            question = None
        if question is None or flags & PEER_LEFT or self._common[HAND_OVER]:
            self._handover.report(LEFT, number, 0, b"" if self._peek else data)
            return None
        received_ns, seen = self._taken_ns, number * CONNECTION_CELLS + SEEN
        if seen_ns := self._connections[seen]:
            self._connections[seen] = 0
            received_ns = seen_ns
        if stamps:
            received_ns = self._arrival_ns(stamps[0][2])
        code, answer = self._work(received_ns, question)
        if code and log.isEnabledFor(logging.INFO):
            generation = self._connections[number * CONNECTION_CELLS + GENERATION]
            log_failure(question.request_id, f"connection-{generation}", code, received_ns)
        cells = self._cells
        if cells[EXPIRED] == cells[TURN]:
            cells[GIVEN_WAY] = cells[TURN]  # the supervisor has answered, or will
            return None
        return connection, code, answer, question.size

    def _arrival_ns(self, stamp: bytes) -> int:
        """Return when something arrived, by `perf_counter_ns`, from the kernel's stamp, which is of the wall clock."""
        if self._taken_ns > self._clocks_until:
            self._ahead_ns, self._clocks_until = wall_clock_ahead_ns(), self._taken_ns + CLOCKS_NS
        seconds, nanoseconds = _stamp(stamp)
        arrived: int = seconds * 1_000_000_000 + nanoseconds - self._ahead_ns
        return min(self._taken_ns, arrived)  # nothing arrives in the future

    def _with_rest(self, connection: socket.socket, data: bytes) -> bytes:
        """Return a request with what has arrived of its rest; nobody waits for more."""
        whole, missing = bytearray(data), self._carrier.missing(data)
        with suppress(OSError):
            while missing > 0 and (part := connection.recv(missing)):
                whole += part
                missing -= len(part)
        return bytes(whole)

    def _work(self, received_ns: int, question: Question, deadline_ns: int = 0) -> tuple[int, Any]:
        """Return the code and the bytes of the answer to a request."""
        cells, common = self._cells, self._common
        deadline_ns = deadline_ns or received_ns + question.allowed_ns
        cells[DEADLINE], cells[REQUEST], cells[SIZE] = deadline_ns, question.request_id, question.size
        turn = cells[TURN] + 1
        cells[TURN] = turn
        cells[PHASE] = WORKING
        if (shed_ns := common[SHED_NS]) and deadline_ns - perf_counter_ns() < shed_ns:
            cells[SHED] += 1
            outcome = self._carrier.shed(question.content)
        elif turn % LOOK_AT_EVERY:
            outcome = self._carrier.answer(received_ns, question.content)
        else:
            begun_ns = perf_counter_ns()
            step_timer.start()
            outcome = self._carrier.answer(received_ns, question.content)
            self._pace.learn(perf_counter_ns() - begun_ns)
            cells[BRIEF] = self._pace.is_brief
        cells[PHASE] = TAKEN
        code, answer, stages = outcome
        if common[OBSERVE] and not code:
            common[OBSERVE] -= 1  # not exact between processes, and need not be
            self._handover.report(OBSERVED, 0, 0, encode_stages(stages))
        return code, answer

    def _send(self, number: int, connection: socket.socket, data: Any, size: int) -> None:
        """Send an answer, and only then take its request off the connection."""
        connections, at = self._connections, number * CONNECTION_CELLS
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the client has gone: the supervisor closes the connection
            self._handover.report(LEFT, number)
            return
        if self._peek:
            connection.recv_into(self._scratch, size)
            connections[at + SENT] += sent
            connections[at + CONSUMED] += size
            self._cells[PHASE] = LEAVING
        else:
            connections[at + SENT] += sent
        if sent == len(data) and not self._common[HAND_OVER]:
            self._ready.arm(number)
        elif sent == len(data):
            self._handover.report(LEFT, number)
        else:
            self._handover.report(UNSENT, number, 0, bytes(data[sent:]))

    def _take_passed(self) -> None:
        """Answer a request that the supervisor has read; the next one is another worker's meanwhile."""
        passed = self._handover.take(self.row, self._view)
        self._ready.arm(self._work_number)
        if passed is None:
            return
        question = self._carrier.open(passed.message)
        if question is None:  # a fault of ours, which must not hold up those behind it
            self._handover.report(UNREAD, passed.number)
        else:
            code, answer = self._work(passed.received_ns, question, passed.deadline_ns)
            self._cells[OUTCOMES + code] += 1  # who has the answer finds it counted
            self._handover.report(RESULT, passed.number, code, answer)
        self._cells[PASSED] = 0


def wall_clock_ahead_ns() -> int:
    """Return how far the wall clock, of which the kernel's stamps are, is ahead of `perf_counter_ns`.

    Both clocks are read together: read again if this thread was interrupted in between.
    """
    for _ in range(CLOCK_TRIES):
        before, wall, after = perf_counter_ns(), time_ns(), perf_counter_ns()
        if after - before < APART_NS:
            break
    return wall - after


def log_failure(request_id: int, client: str, code: int | str, received_ns: int) -> None:
    """Log that a request has failed, without its content."""
    name = CODES[code] if isinstance(code, int) else code
    waited_ms = round((perf_counter_ns() - received_ns) / 1e6, 3)
    fields = {"event": "request_failed", "request_id": request_id, "client": client, "code": name, "ms": waited_ms}
    log.info("request failed", extra=fields)
