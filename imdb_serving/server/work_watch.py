"""Looks after requests at work: those past their deadline, workers that hang, and what a worker was at that died."""

from __future__ import annotations

import logging
from collections.abc import Set
from time import monotonic, perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

from imdb_serving.errors import RequestTimeout, ServingError
from imdb_serving.server.request_queue import Task
from imdb_serving.server.workers.scoreboard import (
    ANSWERING,
    AT,
    BEAT,
    CONSUMED,
    DEADLINE,
    EXPIRED,
    GIVEN_BACK,
    GIVEN_WAY,
    KEPT,
    LEAVING,
    PASSED,
    PHASE,
    REQUEST,
    REVOKED,
    SEEN,
    SENT,
    SIZE,
    TAKEN,
    TURN,
    WORKING,
    Row,
)
from imdb_serving.server.workers.unit import ProcessUnit, ThreadUnit

if TYPE_CHECKING:
    from imdb_serving.server.server import Server
    from imdb_serving.server.workers.unit import Unit

log = logging.getLogger(__name__)

AT_WORK = "the deadline passed while a worker was at the request"
LATE_SECONDS = 2.0
"""How long a worker may be at a request whose deadline has passed, until it is taken to hang."""

MAX_HUNG = 64
"""How many threads may hang in requests before no more are replaced: each keeps its memory until its request ends."""

STOPPED_SECONDS = 0.1
"""For how long a process may be given a request and not begin, without a look at the request."""

YIELD_SECONDS = 0.0005
"""How long a word in shared memory may take to be seen by another processor, with much to spare."""

YIELD_TRIES = 100
RELEASE_SECONDS = 0.05
SILENT_SECONDS = 3.0
"""After how long a worker that should take requests, and says nothing, hangs. It looks up every second."""


class WorkWatch:
    """Part of a `Server`, told of by its loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._seen: dict[Row, tuple[tuple[int, int, bool], float]] = {}
        """What each row's worker is at (beat, turn, and whether it is leaving), and since when."""

        self._released: dict[Unit, float] = {}  # when each process was told last
        self._silent: dict[Row, tuple[int, float]] = {}  # how often each idle row's worker has looked, and since when
        self._waits_since = 0.0
        self._late: dict[Row, bytes] = {}  # of each row: the request that it was at when that was answered in its place
        self._ending: set[Unit] = set()  # processes that were killed, and threads that hang

    def look(self, now: float, found: Set[int], busy: Set[Row]) -> None:
        """See to all units, whose `busy` workers are at work; `found` has the descriptors that can be read from."""
        now_ns = perf_counter_ns()
        for unit in list(self._server.live.units):
            if isinstance(unit, ProcessUnit):
                unit.flush()
                if unit.sentinel in found:
                    self.clean_up_after(unit)
                    continue
            for at, row in enumerate(unit.rows):
                if row in busy:
                    self._look_at(unit, at, row, now, now_ns)
        self._look_for_silent(now)

    def _look_for_silent(self, now: float) -> None:
        """Replace processes that take no request though some wait: they may be stopped."""
        if not (self._server.arrivals.waiting or self._server.dispatcher.waits()):
            self._waits_since = now
            self._silent.clear()
            return
        for unit in self._server.live.units:
            for row in unit.rows if isinstance(unit, ProcessUnit) else ():
                known = self._silent.get(row)
                if known is None or known[0] != row.cells[BEAT] or row.is_busy:
                    self._silent[row] = row.cells[BEAT], now
                elif now - max(known[1], self._waits_since) > SILENT_SECONDS:
                    self._replace(unit)

    def _look_at(self, unit: Unit, at: int, row: Row, now: float, now_ns: int) -> None:
        cells = row.cells
        turn, beat, since = cells[TURN], cells[BEAT], now
        at_now = beat, turn, cells[PHASE] == LEAVING
        known = self._seen.get(row)
        if known is None or known[0] != at_now:
            self._seen[row] = at_now, now
            self._late.pop(row, None)
        else:
            since = known[1]
            if at == 0:
                self._release(unit, now)
            self._revoke(unit, row)
        phase = cells[PHASE]
        if phase == TAKEN:
            if now - since > STOPPED_SECONDS and isinstance(unit, ProcessUnit):
                self._look_at_stopped(unit, row, now, since)
            return
        if phase == LEAVING:
            if at_now[2] and now - since > LATE_SECONDS and isinstance(unit, ProcessUnit):
                self._replace(unit)
            return
        late_ns = now_ns - cells[DEADLINE]
        if late_ns < 0:
            return
        if cells[EXPIRED] != turn and cells[GIVEN_WAY] != turn:
            self.expire(row, RequestTimeout(AT_WORK))
        if late_ns > LATE_SECONDS * 1e9:
            self._replace(unit)

    def _look_at_stopped(self, unit: ProcessUnit, row: Row, now: float, since: float) -> None:
        """Have no request wait past its deadline for a process that was given it and does not begin: it may be stopped.

        It is replaced then, and whoever is given the request next knows how long it has waited. What others have been
        passed does not wait for it at all.
        """
        server, late = self._server, now - since > LATE_SECONDS
        for number in filter(None, row.numbers.tolist()[row.cells[AT] :]):
            if number in server.dispatcher.work_numbers:
                server.ready.arm(number)
                request = server.dispatcher.in_flight.get(row.cells[PASSED])
                if request is not None and request.deadline < now:
                    self.expire(row, RequestTimeout(AT_WORK))
            elif number in server.listener.lent:
                data = server.listener.peek(server.listener.connections[number])
                question = server.read(data) if data else None
                late |= question is not None and now - since > question.allowed_ns / 1e9
        if late:
            self._replace(unit)

    def _release(self, unit: Unit, now: float) -> None:
        """Have the other threads take requests: the first is at one that is not brief."""
        if not isinstance(unit, ProcessUnit):
            self._server.release()
        elif len(unit.rows) > 1 and now - self._released.get(unit, 0.0) > RELEASE_SECONDS:
            self._released[unit] = now
            unit.release()

    def _revoke(self, unit: Unit, row: Row) -> None:
        """Give what a worker was given to others, but for what it is at, which turned out to be long.

        What a thread has answered already leaves instead.
        """
        if isinstance(unit, ThreadUnit):
            unit.release_held()
        cells, server = row.cells, self._server
        beat, numbers, place, turn = cells[BEAT], row.numbers.tolist(), cells[AT], cells[TURN]
        if cells[REVOKED] == beat or sum(map(bool, numbers)) < 2 or not server.dispatcher.idle():
            return
        if cells[BEAT] != beat:  # then these are not the numbers of that beat
            return
        cells[REVOKED] = beat
        for _ in range(YIELD_TRIES):
            sleep(YIELD_SECONDS)
            if cells[GIVEN_BACK] == beat:
                place = cells[KEPT]
                break
            if cells[BEAT] != beat:
                return  # it has finished them all
            if (cells[PHASE], cells[AT], cells[TURN]) == (WORKING, place, turn):
                break
        else:
            cells[REVOKED] = -1
            return
        for at, number in enumerate(numbers):
            if number and (at > place or (at < place and isinstance(unit, ProcessUnit))):
                server.ready.arm(number)

    def expire(self, row: Row, error: ServingError) -> bool:
        """Answer the request that a worker is at, in its place; return whether it had not answered by then."""
        server, cells = self._server, row.cells
        if row.number in server.dispatcher.work_numbers:
            request = server.dispatcher.in_flight.get(cells[PASSED])
            if request is None or (isinstance(error, RequestTimeout) and monotonic() < request.deadline):
                return False  # it has just gone on to the next one
            self._late[row] = request.message
            server.dispatcher.fail(request, error)
            return True
        number, turn = row.number, cells[TURN]
        cells[EXPIRED] = turn
        sleep(YIELD_SECONDS)
        for _ in range(YIELD_TRIES):
            if cells[GIVEN_WAY] == turn:
                break
            if row.number != number or cells[TURN] != turn or cells[PHASE] == LEAVING:
                cells[EXPIRED] = -1
                return False
            if cells[PHASE] == WORKING:
                break
            sleep(YIELD_SECONDS)
        else:
            return False  # it hangs just there
        self._answer(row, number, error)
        return True

    def _answer(self, row: Row, number: int, error: ServingError) -> None:
        server, request_id, size = self._server, row.cells[REQUEST], row.cells[SIZE]
        connection = server.listener.connections.get(number)
        if connection is None or number not in server.listener.lent:
            return
        if server.handover.local:
            size = 0  # a thread has taken it off
        else:
            self._late[row] = (server.listener.peek(connection) or b"")[:size]
        server.dispatcher.fail(Task(connection, request_id, perf_counter_ns(), monotonic(), None, size), error)

    def refuse_all(self, error: ServingError) -> None:
        """Answer all requests at work in their workers' place."""
        for row in self._server.live.rows:
            if row.number and row.cells[PHASE] == WORKING:
                self.expire(row, error)

    def _replace(self, unit: Unit) -> None:
        """Replace a unit in which a worker hangs; a thread cannot be ended."""
        server = self._server
        self._ending = {each for each in self._ending if isinstance(each, ProcessUnit) or each.is_running}
        hung = sum(isinstance(each, ThreadUnit) for each in self._ending)
        if unit in self._ending or (isinstance(unit, ThreadUnit) and hung >= MAX_HUNG):
            return
        self._ending.add(unit)
        log.warning("worker %d hangs and is replaced", unit.number)
        server.dispatcher.quarantine.note_death()
        if isinstance(unit, ProcessUnit):
            for row in unit.rows:
                if message := self._late.pop(row, None):
                    server.dispatcher.note_hang(message)
            unit.kill()
        else:
            unit.retire()
            server.replace_unit(unit, hung=True, at_work=True)

    def clean_up_after(self, unit: ProcessUnit) -> None:
        """Give what a process was at that has ended to others, and have it replaced."""
        server, at_work = self._server, False
        server.read_reports()
        for row in unit.rows:
            cells, numbers = row.cells, row.numbers.tolist()
            place, phase, passed, size = cells[AT], cells[PHASE], cells[PASSED], cells[SIZE]
            given_back, expired = cells[REVOKED] == cells[BEAT], cells[EXPIRED] == cells[TURN]
            known, since = self._seen.get(row, ((-1, -1, False), 0.0))
            since_ns = int(since * 1e9) if known[:2] == (cells[BEAT], cells[TURN]) else 0
            row.clear()
            at_work |= numbers[place] != 0 and phase in {WORKING, ANSWERING}
            if passed:
                server.dispatcher.died_at(passed)
            for at, number in enumerate(numbers):
                if not number or (given_back and at != place) or (expired and at == place):
                    continue
                self._give_back(number, phase if at == place else TAKEN, size, since_ns)
        self._released.pop(unit, None)
        self._ending.discard(unit)
        server.replace_unit(unit, hung=False, at_work=at_work)

    def _give_back(self, number: int, phase: int, size: int, since_ns: int) -> None:
        listener = self._server.listener
        if number in self._server.dispatcher.work_numbers:
            self._server.unsettle_work()
            return
        connection: Any = listener.connections.get(number)
        if connection is None or number not in listener.lent:
            return  # it had been left to us
        if phase in {TAKEN, LEAVING}:
            if phase == TAKEN and not listener.cells(number)[SEEN]:
                listener.cells(number)[SEEN] = since_ns
            listener.unsettle(number)
            return
        if phase == ANSWERING:
            cells = listener.cells(number)
            written, read = listener.written_and_read(connection)
            if not written and not read:  # a Unix socket, of which this cannot be told
                listener.close_lent(connection)
                return
            if written > cells[SENT]:
                if read == cells[CONSUMED]:
                    connection.socket.recv(size)
                listener.reclaim(number)
                return
        self._server.dispatcher.blame(connection)
