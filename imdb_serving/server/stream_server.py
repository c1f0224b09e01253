"""The supervisor of a server over stream sockets: it serves nobody whom a worker can serve.

It accepts connections and lends them to the workers, by arming them in the ready set. It has a connection to itself
while something about it is not ordinary: a message that comes in pieces, several at once, a client that does not read,
`hello`, and all of them while the server starts, drains, or is careful because a request has killed workers. What it
has read it passes on. While all workers are busy it looks at what waits, without taking it: refuses what could not be
answered in time, or is too much, and answers what needs no worker.
"""

from __future__ import annotations

import logging
import select
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import monotonic, sleep
from typing import Any, Protocol

from imdb_serving import processes
from imdb_serving.errors import ServerStartError, ServerUnavailable, ServingError
from imdb_serving.messages import ServerInfo
from imdb_serving.processes import HeapTrimmer
from imdb_serving.server.arrivals import Arrivals
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.dispatcher import Dispatcher
from imdb_serving.server.handover import LEFT, OBSERVED, RESULT, UNREAD, UNSENT, Handover
from imdb_serving.server.lending import LendingListener
from imdb_serving.server.readiness import Waker
from imdb_serving.server.ready_set import ReadySet, make_ready_set
from imdb_serving.server.request_queue import RequestQueue
from imdb_serving.server.scoreboard import (
    ASLEEP,
    HAND_OVER,
    OBSERVE,
    PASSED,
    SHED_NS,
    Row,
    Scoreboard,
)
from imdb_serving.server.serving_process import MakeCarrier
from imdb_serving.server.serving_units import ProcessUnit, ServingUnits, Unit
from imdb_serving.server.startup import Starter
from imdb_serving.server.stream_worker import Carrier, Pace, StreamWorker
from imdb_serving.server.supervisor import START_SECONDS
from imdb_serving.server.watchdog import MAX_HUNG
from imdb_serving.server.work_watch import WorkWatch

log = logging.getLogger(__name__)

KEEP_SECONDS = 0.5
DRAIN_SECONDS = 10.0
LEAVE_SECONDS = 0.01
TICK_SECONDS = 0.002
IDLE_SECONDS = 0.1
QUIET_TICKS = 50
FAULT_SECONDS = 0.1
LOOK_EVERY = 5
OBSERVED_A_TURN = 512
LOWEST_NUMBER = 1024


class Service(Protocol):
    """What a server speaks: how it listens, and what its messages mean."""

    @property
    def carrier(self) -> Carrier:
        """One that reads, and does not answer."""

    def listen(
        self, introduce: Callable[[], ServerInfo], shared: tuple[ReadySet, Scoreboard, int]
    ) -> LendingListener[Any]:
        """Listen; raise `ServerStartError` when the address cannot be had.

        `introduce` returns what the server says of itself, or raises a `ServingError`; `shared` is for the listener.
        """

    def answering(self, make: Callable[[], Any]) -> MakeCarrier:
        """Return what makes a worker's carrier, from what makes its handler."""


class StreamServer:
    """Serves an endpoint with the workers of some units. Make it, `run` it in one thread; `stop` it from anywhere."""

    def __init__(
        self,
        service: Service,
        units: ServingUnits,
        info: ServerInfo,
        *,
        start_timeout: float = START_SECONDS,
        drain_timeout: float = DRAIN_SECONDS,
        prepare: Callable[[], None] = lambda: None,
        describe: Callable[[], ServerInfo] | None = None,
        **limits: int,
    ) -> None:
        """Take everything; nothing is started before `run`.

        `prepare` is called before the workers are started; `describe` returns what is said of a server that speaks for
        another one.
        """
        self._service, self._units = service, units
        self.info = info
        self._describe = describe
        self.watch: Callable[[StreamServer], AbstractContextManager[str]] = lambda _: nullcontext("")
        self._starter = Starter(self._start)
        self._prepare, self._start_timeout, self._drain_timeout = prepare, start_timeout, drain_timeout
        self._stopping = self._roused = False
        self._broken: list[ServerStartError] = []
        units.on_broken = self.give_up
        self._refusing: Callable[[], ServingError | None] | None = self._starter.refusal
        self.queue = RequestQueue(lambda task: task.route, self.idle, **limits)
        self.observed: Any = None
        self.live: list[Unit] = []
        self._quiet = self._ticks = self._workers_live = 0
        self._waker = Waker()

    def _start(self) -> None:
        self._prepare()
        self._units.start(self._start_timeout)

    def set_handler(self, make: Callable[[], Any]) -> None:
        """Take what makes a worker's handler; before the workers are started."""
        self._units.make_answer = self._service.answering(make)

    def _introduce(self) -> ServerInfo:
        if (refusal := self.refusal()) is not None:
            raise refusal
        if self._describe is not None:
            return self._describe()
        units = self._units
        ready = units.ready_workers()
        given_up = tuple(f"worker {number}: {why}" for number, why in sorted(units.given_up.items()))
        warnings = self.dispatcher.quarantine.in_words()
        if not ready:
            why = "; ".join([*(given_up or [f"{units.workers} being replaced"]), *warnings])
            raise ServerUnavailable(f"no worker is ready: {why}")
        names = units.stage_names
        return replace(self.info, ops=names, workers_ready=ready, given_up=given_up, warnings=warnings)

    def stop(self) -> None:
        """Ask `run` to answer what has arrived, then return; may be called from a signal handler."""
        self._stopping = self._roused = True
        self._waker.wake()

    def give_up(self, error: ServerStartError) -> None:
        """Have `run` end, and raise this error."""
        self._broken.append(error)
        self.stop()

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until `stop`; `on_ready` is called once with the bound endpoint.

        Raises `ServerStartError` when the endpoint cannot be bound, workers cannot start, or none is left.
        """
        self._open()
        try:
            with self.watch(self) as metrics:
                self.info = replace(self.info, metrics=metrics)
                if self._starter.run(self.keep, lambda: self._stopping):
                    self._refusing = None
                    self.listener.offer_all()
                    on_ready(self.listener.endpoint)
                    while not self._stopping:
                        self.keep(KEEP_SECONDS)
                    self._drain()
        finally:
            self._close()
        for error in self._broken:
            raise error

    def _open(self) -> None:
        local = self._units.kind == "thread"
        descriptors = processes.raise_descriptor_limit()
        lowest = 0 if local else min(LOWEST_NUMBER, descriptors // 2)
        self.ready = make_ready_set()
        self.board = Scoreboard(2 * self._units.workers + MAX_HUNG, descriptors)
        self.handover = Handover(local=local, lowest=lowest)
        self.work_number = self.handover.requests.fileno()
        self.ready.arm(self.work_number)
        self._units.share((self.board, self.ready, self.handover), self._worker)
        self._units.notify = self._waker.wake
        self.listener = listener = self._service.listen(self._introduce, (self.ready, self.board, lowest))
        carrier = self._service.carrier
        self.read = carrier.read
        self.dispatcher = Dispatcher(listener, self.handover, self._units, self.queue, self.refusal, carrier)
        listener.submit, listener.abandon = self.dispatcher.submit, self.dispatcher.abandon
        listener.set_back = self.queue.set_back
        listener.may_lend, listener.rows = self._may_lend, self.rows
        listener.work_number = self.work_number
        listener.read_reports, listener.notify = self.read_reports, self._waker.wake
        listener.opened, listener.closed = self._tell_opened, self._tell_closed
        self._arrivals = Arrivals(listener, self.ready, self.board, self.dispatcher, carrier.read, self.rows)
        self._at_work = WorkWatch(self)
        self._pace = Pace(self._units.workers)
        self._heap = HeapTrimmer(monotonic())
        self._poll = select.poll()
        for descriptor in (self._waker.descriptor, self.handover.reports.fileno(), listener.readiness_descriptor):
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)

    def _worker(self, row: Row, carrier: Any, number: int) -> StreamWorker:
        """Make a worker that is a thread of this process."""
        return StreamWorker(
            row, self.board, self.ready, self.handover, self.listener.socket_of, carrier, self._pace, number
        )

    def refusal(self) -> ServingError | None:
        """Return what all requests are refused with, while the server starts or drains."""
        return None if self._refusing is None else self._refusing()

    def rows(self) -> list[Row]:
        """Return the rows of all units that are there."""
        return [row for unit in self.live for row in unit.rows]

    def idle(self) -> int:
        """Return how many workers will take a request at once."""
        return sum(not row.is_busy for row in self.rows())

    def at_work(self) -> int:
        """Return how many requests are in progress."""
        return sum(row.is_busy for row in self.rows())

    def _may_lend(self, connection: StreamConnection) -> bool:
        return self._refusing is None and not self.board.common[HAND_OVER] and not self.queue.distrusts(connection)

    def _tell_opened(self, number: int, generation: int) -> None:
        for unit in self.live:
            if isinstance(unit, ProcessUnit):
                unit.opened(number, generation)

    def _tell_closed(self, number: int, generation: int) -> None:
        for unit in self.live:
            if isinstance(unit, ProcessUnit):
                unit.closed(number, generation)

    def read_reports(self) -> None:
        """Read what the workers have reported, and act on it."""
        while (report := self.handover.next_report()) is not None:
            if report.kind == LEFT:
                self.listener.reclaim(report.number, report.data)
            elif report.kind == UNSENT:
                self.listener.unsent(report.number, report.data)
            elif report.kind == RESULT:
                self.dispatcher.finish(report)
            elif report.kind == UNREAD:
                self.dispatcher.not_read(report.number)
            elif report.kind == OBSERVED and self.observed is not None:
                self.observed.append(report.data)

    def keep(self, seconds: float) -> None:
        """Look after everything for some seconds, or until `stop`."""
        until = monotonic() + seconds
        self._roused = False
        while (left := until - monotonic()) > 0 and not self._roused:
            asleep = self._quiet >= QUIET_TICKS
            self.board.common[ASLEEP] = asleep
            found = self._poll.poll(1000 * min(left, IDLE_SECONDS if asleep else TICK_SECONDS))
            try:
                self._tick({descriptor for descriptor, _ in found})
            except Exception:  # a fault of ours must not end the server
                log.exception("the server goes on behind a fault")
                sleep(FAULT_SECONDS)

    def _tick(self, found: set[int]) -> None:
        if found or self.listener.readiness_descriptor < 0:
            self._waker.clear()
            self.read_reports()
            while self.listener.receive():
                pass
            self._adopt()
        now, at_work = monotonic(), self.at_work()
        self._quiet = 0 if at_work or self._arrivals.noted or len(self.queue) else self._quiet + 1
        self._at_work.look(now, found)
        if self.listener.unsettled:
            self.listener.settle_taken()
        if self._arrivals.waiting:
            self._arrivals.forget_taken()
        all_busy = at_work >= self._workers_live
        self._ticks += 1
        if all_busy or not self._ticks % LOOK_EVERY:
            self._arrivals.look(all_busy=all_busy)
        self.queue.look(now, self.board.turns(), at_work)
        common = self.board.common
        common[SHED_NS] = int(self.queue.shed_seconds * 1e9)
        common[OBSERVE] = OBSERVED_A_TURN if self.observed is not None else 0
        common[HAND_OVER] = self._stopping or self.dispatcher.quarantine.is_active()
        if len(self.queue) or self.dispatcher.in_flight:
            self._arrivals.end_late(self.dispatcher.end_late(now, self._taken()))
            self.dispatcher.pass_on()
        self.listener.look_after()
        self._heap.tidy(now)

    def _adopt(self) -> None:
        """Have units take requests that have become ready."""
        while not self._units.newcomers.empty():
            unit = self._units.newcomers.get()
            self.live.append(unit)
            self._workers_live = len(self.rows())
            if isinstance(unit, ProcessUnit):
                self._poll.register(unit.sentinel, select.POLLIN)
                for number, generation in self.listener.generations():
                    unit.opened(number, generation)
            unit.begin()

    def waits(self) -> bool:
        """Tell whether a request waits that a worker could take."""
        waiting, in_flight = self._arrivals.waiting, self.dispatcher.in_flight
        if not (waiting or in_flight):
            return False
        return bool(waiting or in_flight.keys() - self._taken())

    def _taken(self) -> set[int]:
        """Return the numbers of the requests that were passed on and are at work."""
        return {row.cells[PASSED] for row in self.rows()}

    def release(self) -> None:
        """Have all threads of this process take requests."""
        self._pace.release()

    def replace_unit(self, unit: Unit, *, hung: bool, at_work: bool) -> None:
        """Have a unit replaced that has ended, or hangs."""
        self.live.remove(unit)
        self._workers_live = len(self.rows())
        if isinstance(unit, ProcessUnit):
            self._poll.unregister(unit.sentinel)
        self._units.replace(unit, hung=hung, at_work=at_work)  # type: ignore[arg-type]

    # The end

    def _drain(self) -> None:
        """Answer all that had arrived, refuse what arrives from now on; what cannot be answered in time is refused."""
        self.board.common[HAND_OVER] = 1
        self.read_reports()
        while self.listener.receive():
            pass
        for number in list(self.listener.lent):
            if self.listener.take(number):
                self.listener.reclaim(number)
        self._refusing = lambda: ServerUnavailable("this server is shutting down; use another one")
        until = monotonic() + self._drain_timeout
        while (len(self.queue) or self.dispatcher.in_flight or self.listener.lent) and monotonic() < until:
            self.keep(TICK_SECONDS)
        late = ServerUnavailable("this server is shutting down and did not come to this request; use another one")
        self.dispatcher.refuse_all(late)
        self._at_work.refuse_all(late)
        while not self.listener.is_quiet() and monotonic() < until:
            self.keep(LEAVE_SECONDS)

    def _close(self) -> None:
        self._stopping = True
        if self._refusing is not None:
            self.listener.receive()  # what came meanwhile is refused, as all that came since the stop
        for unit in self.live:
            unit.retire()
        if self._units.kind == "thread":
            self.ready.wake_all()
        self._pace.release()
        self._units.stop()
        self._starter.join()
        self.listener.close()
        self.handover.close()
        self.ready.close()
        self._waker.close()

    # What the metrics tell

    @property
    def count(self) -> int:
        """How many workers there should be."""
        return self._units.workers

    @property
    def given_up(self) -> dict[int, str]:
        """The units that were given up, and why."""
        return self._units.given_up

    @property
    def asked_again(self) -> int:
        """How many requests were given to another worker."""
        return self.dispatcher.asked_again

    @property
    def replaced(self) -> int:
        """How many units were replaced."""
        replaced: int = self._units.replaced
        return replaced

    def missing(self) -> int:
        """Return how many workers are not there at the moment."""
        return self._units.workers - self._units.ready_workers()

    def pids(self) -> dict[str, int]:
        """Return the process ids of the units that are processes, by name."""
        return {f"worker-{unit.number}": unit.pid for unit in list(self.live) if isinstance(unit, ProcessUnit)}

    def dropped(self) -> Counter[str]:
        """Return how many requests no worker worked on, by why; see `RequestQueue.counts`."""
        return self.queue.counts + Counter(shed=self.board.shed())

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended how, since the start: `answered`, or a failure's code."""
        total = Counter(self.board.outcomes())
        for counts in (self.dispatcher.counts, self.listener.counts):
            total.update(dict(counts))
        return {name: count for name, count in total.items() if count or name == "answered"}
