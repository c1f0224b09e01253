"""A server, as its supervisor: it serves nobody whom a worker can serve.

It accepts connections and lends them to the workers, by arming them in the ready set. It has a connection to itself
while something about it is not ordinary: a message that comes in pieces, several at once, a client that does not read,
`hello`, and all of them while the server starts, drains, or is careful because a request has killed workers. What it
has read it passes on. While all workers are busy it looks at what waits, without taking it: refuses what could not be
answered in time, or is too much, and answers what needs no worker.
"""

from __future__ import annotations

import logging
import select
from collections import Counter, deque
from collections.abc import Callable, Hashable, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

from imdb_serving import processes
from imdb_serving.errors import ServerStartError, ServerUnavailable
from imdb_serving.messages import ServerInfo
from imdb_serving.processes import HeapTrimmer
from imdb_serving.server.arrivals import Arrivals
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.direct import DirectQueue, DirectWorker
from imdb_serving.server.dispatcher import Dispatcher
from imdb_serving.server.listener import Listener, Service
from imdb_serving.server.look_timer import TICK_SECONDS, LookTimer
from imdb_serving.server.readiness import Waker
from imdb_serving.server.request_queue import RequestQueue, Task
from imdb_serving.server.startup import Starter
from imdb_serving.server.work_watch import MAX_HUNG, WorkWatch
from imdb_serving.server.workers.handover import LEFT, OBSERVED, RESULT, UNREAD, UNSENT, Handover
from imdb_serving.server.workers.live import LiveUnits
from imdb_serving.server.workers.pace import Pace
from imdb_serving.server.workers.ready_set import make_ready_set
from imdb_serving.server.workers.scoreboard import (
    ASLEEP,
    HAND_OVER,
    OBSERVE,
    SHED_NS,
    Row,
    Scoreboard,
)
from imdb_serving.server.workers.unit import ProcessUnit, Unit
from imdb_serving.server.workers.units import START_SECONDS, Units
from imdb_serving.server.workers.worker import Worker

log = logging.getLogger(__name__)

KEEP_SECONDS = 0.5
DRAIN_SECONDS = 10.0
LEAVE_SECONDS = 0.01
FAULT_SECONDS = 0.1
OBSERVED_A_TURN = 512
LOWEST_NUMBER = 1024


class Server:
    """Serves an endpoint with the workers of some units. Make it, `run` it in one thread; `stop` it from anywhere."""

    def __init__(
        self,
        service: Service,
        units: Units,
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
        self._service, self.units = service, units
        self.info = info
        self._describe = describe
        self._starter = Starter(self._start)
        self._prepare, self._start_timeout, self._drain_timeout = prepare, start_timeout, drain_timeout
        self._stopping = self._roused = False
        self._broken: list[ServerStartError] = []
        self.queue = RequestQueue(self._owner, self._idle, max_passed=units.workers + 1, **limits)
        self.set_back: Callable[[Hashable], None] = self.queue.set_back
        self.observed: deque[bytes] | None = None
        self.live = LiveUnits()
        self._is_work_unsettled = self._has_more = False
        self._looks = LookTimer()
        self._waker = Waker()

    def _start(self) -> None:
        self._prepare()
        self.units.start(self._start_timeout)

    def _owner(self, task: Task) -> Hashable:
        return self.listener.owner(task)

    def _idle(self) -> int:
        return self.dispatcher.idle()

    def set_handler(self, make: Callable[[], Any]) -> None:
        """Take what makes a worker's handler; before the workers are started."""
        self.units.make_carrier = self._service.answering(make)

    def introduce(self) -> ServerInfo:
        """Return what the server says of itself; raise a `ServingError` while it cannot answer."""
        if (refusal := self.dispatcher.refusal()) is not None:
            raise refusal
        if self._describe is not None:
            return self._describe()
        units = self.units
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

    def wake(self) -> None:
        """Have what arrives be taken in soon; from any thread."""
        self._waker.wake()

    def give_up(self, error: ServerStartError) -> None:
        """Have `run` end, and raise this error."""
        self._broken.append(error)
        self.stop()

    def run(self, on_ready: Callable[[str], None], metrics: AbstractContextManager[str] | None = None) -> None:
        """Serve until `stop`; `on_ready` is called once with the bound endpoint.

        `metrics` is entered meanwhile, as soon as the server listens, and gives the address at which they are told.

        Raises `ServerStartError` when the endpoint cannot be bound, workers cannot start, or none is left.
        """
        self._open()
        try:
            with metrics or nullcontext("") as url:
                self.info = replace(self.info, metrics=url)
                self._allow_observed()
                if self._starter.run(self.keep, lambda: self._stopping):
                    self.dispatcher.refusing = None
                    if self.listener.is_direct:
                        self._poll.unregister(self.listener.descriptor)
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
        local = self.units.kind == "thread"
        descriptors = processes.raise_descriptor_limit()
        self.lowest = 0 if local else min(LOWEST_NUMBER, descriptors // 2)
        self.ready = make_ready_set()
        self.board = Scoreboard(2 * self.units.workers + MAX_HUNG, descriptors)
        self._pace = Pace(self.units.workers)
        try:
            listener = self._service.listen(self)
        except BaseException:
            self._close_shared()
            raise
        self.listener: Listener = listener
        self.handover = Handover(local=local, lowest=self.lowest)
        self.units.share((self.board, self.ready, self.handover), self._worker, self._waker.wake)
        carrier = self._service.carrier
        self.read = carrier.read
        self.dispatcher = Dispatcher(listener, self.handover, self.units, self.live, self.queue, carrier)
        self.dispatcher.refusing = self._starter.refusal
        self.submit: Callable[[Task], None] = self.dispatcher.submit
        self.abandon: Callable[[Hashable], None] = self.dispatcher.abandon
        self.direct = DirectQueue(listener, self.dispatcher, self._pace) if listener.is_direct else None
        own = (self.handover.requests.fileno(),)
        self.dispatcher.work_numbers = own if self.direct is None else self.direct.numbers
        for number in self.dispatcher.work_numbers:
            self.ready.arm(number)
        self.arrivals = Arrivals(listener, self.ready, self.board, self.dispatcher, carrier.read, self.live)
        self._at_work = WorkWatch(self)
        self._heap = HeapTrimmer(monotonic())
        self._poll = select.poll()
        self._reports = self.handover.reports.fileno()
        self._sources = {self._waker.descriptor, self._reports}
        if listener.readiness_descriptor >= 0:
            self._sources.add(listener.readiness_descriptor)
        for descriptor in self._sources:
            self._poll.register(descriptor, select.POLLIN)
        self._wakes_on_arrivals = listener.is_direct or listener.readiness_descriptor >= 0
        self._wake_on_arrivals()

    def _wake_on_arrivals(self) -> None:
        """Have arrivals end a wait, also where workers take them in while the server is ready."""
        if self.listener.is_direct:
            self._sources.add(self.listener.descriptor)
            self._poll.register(self.listener.descriptor, select.POLLIN)

    def _worker(self, row: Row, carrier: Any, number: int) -> Worker:
        """Make a worker that is a thread of this process."""
        shared = self.board, self.ready, self.handover, self.listener.socket_of
        if self.direct is not None:
            return DirectWorker(self.direct, row, *shared, carrier, self._pace, number)
        return Worker(row, *shared, carrier, self._pace, number)

    def may_lend(self, connection: StreamConnection) -> bool:
        """Tell whether workers may have a connection now."""
        is_open = self.dispatcher.refusing is None
        return is_open and not self.board.common[HAND_OVER] and not self.queue.distrusts(connection)

    def read_reports(self) -> None:
        """Read what the workers have reported, and act on it."""
        while (report := self.handover.next_report()) is not None:
            if report.kind == LEFT:
                self.listener.reclaim(report.number, report.data)
            elif report.kind == UNSENT:
                self.listener.unsent(report.number, report.data)
            elif report.kind == RESULT and report.data is None:
                self.dispatcher.uncount(report.code)
                self.dispatcher.not_read(report.number, "no descriptor was left for the answer to a request")
            elif report.kind == RESULT:
                if not self.dispatcher.finish(report):
                    self.dispatcher.uncount(report.code)
            elif report.kind == UNREAD:
                self.dispatcher.not_read(report.number)
            elif report.kind == OBSERVED and self.observed is not None:
                self.observed.append(report.data)

    def keep(self, seconds: float) -> None:
        """Look after everything for some seconds, or until `stop`."""
        until = monotonic() + seconds
        self._roused = False
        while (left := until - monotonic()) > 0 and not self._roused:
            self.board.common[ASLEEP] = self._looks.is_asleep
            pause = 0.0 if self._has_more else min(left, self._looks.pause)
            found = {event[0] for event in self._poll.poll(1000 * pause)}
            try:
                if found or self._has_more or not self._wakes_on_arrivals:
                    self._take_in(found)
                now = monotonic()
                if self._looks.is_due(now) or not found <= self._sources:
                    self._look_after(now, found)
            except Exception:  # a fault of ours must not end the server
                log.exception("the server goes on behind a fault")
                sleep(FAULT_SECONDS)

    def _take_in(self, found: Set[int]) -> None:
        """Take in what has arrived, and what workers report; `found` has the descriptors that can be read from."""
        if self._waker.descriptor in found:
            self._waker.clear()
            self._adopt()
            if self.units.are_lost and not self._broken:
                self.give_up(ServerStartError("no worker is left, and none can be started; giving up"))
        if self._reports in found:
            self.read_reports()
        self._has_more = self.listener.receive()
        if self.direct is None and len(self.queue):
            self.dispatcher.pass_on()

    def _look_after(self, now: float, found: Set[int]) -> None:
        """See to deadlines, limits, and workers that hang or have ended."""
        if self._is_work_unsettled:
            self._settle_work()
        busy = {row for row in self.live.rows if row.is_busy}
        at_work, turns = len(busy), self.board.turns()
        idle = not (at_work or self.arrivals.noted or len(self.queue))
        is_for_arrivals = self._looks.begin(turns, idle=idle)
        self._at_work.look(now, found, busy)
        if self.listener.unsettled:
            self.listener.settle_taken()
        if self.arrivals.waiting:
            self.arrivals.forget_taken()
        all_busy = at_work >= len(self.live.rows)
        if all_busy and self.direct is not None:
            self.listener.receive()
        if all_busy or is_for_arrivals:
            self.arrivals.look(all_busy=all_busy)
        waits = all_busy or len(self.queue) > 0 or len(self.dispatcher.in_flight) > at_work
        pressing = waits or any(row.may_hold_up for row in busy)
        self.queue.look(now, turns, at_work)
        common = self.board.common
        common[SHED_NS] = int(self.queue.shed_seconds * 1e9)
        self._allow_observed()
        common[HAND_OVER] = self._stopping or self.dispatcher.quarantine.is_active()
        if len(self.queue) or self.dispatcher.in_flight:
            self.arrivals.end_late(self.dispatcher.end_late(now))
            if self.direct is None:
                self.dispatcher.pass_on()
            elif len(self.queue):
                self.direct.wake_one()
        self.listener.look_after()
        self._heap.tidy(now)
        self._looks.end(now, pressing=pressing)

    def _allow_observed(self) -> None:
        """Let workers tell of some requests more for the metrics; from the first on, before any look."""
        self.board.common[OBSERVE] = OBSERVED_A_TURN if self.observed is not None else 0

    def _receive(self) -> None:
        while self.listener.receive():
            pass

    def _settle_work(self) -> None:
        """Have workers take passed requests again, after one has died that was about to say so."""
        number = self.dispatcher.work_numbers[0]
        self.ready.disarm(number)
        if not any(row.is_at(number) and row.is_taking for row in self.live.rows):
            self._is_work_unsettled = False
            self.ready.arm(number)

    def _adopt(self) -> None:
        """Have units take requests that have become ready."""
        while not self.units.newcomers.empty():
            unit = self.units.newcomers.get()
            self.live.add(unit)
            if isinstance(unit, ProcessUnit):
                self._poll.register(unit.sentinel, select.POLLIN)
                for number, generation in self.listener.generations():
                    unit.opened(number, generation)
            unit.begin()

    def unsettle_work(self) -> None:
        """Take note that a worker has died that may have been about to have others take passed requests."""
        self._is_work_unsettled = True

    def release(self) -> None:
        """Have all threads of this process take requests: the one that takes brief ones is at a long one."""
        self._pace.release()
        if self.direct is not None:
            for number in self.dispatcher.work_numbers:
                self.ready.arm(number)

    def replace_unit(self, unit: Unit, *, hung: bool, at_work: bool) -> None:
        """Have a unit replaced that has ended, or hangs."""
        self.live.remove(unit)
        if isinstance(unit, ProcessUnit):
            self._poll.unregister(unit.sentinel)
        self.units.replace(unit, hung=hung, at_work=at_work)

    # The end

    def _drain(self) -> None:
        """Answer all that had arrived, refuse what arrives from now on; what cannot be answered in time is refused."""
        self.board.common[HAND_OVER] = 1
        self._wake_on_arrivals()
        self.read_reports()
        self._receive()
        for number in list(self.listener.lent):
            if self.listener.take(number):
                self.listener.reclaim(number)
        self.dispatcher.refusing = lambda: ServerUnavailable("this server is shutting down; use another one")
        until = monotonic() + (0.0 if self._broken else self._drain_timeout)  # without workers nobody will answer
        while (len(self.queue) or self.dispatcher.in_flight or self.listener.lent) and monotonic() < until:
            self.keep(TICK_SECONDS)
        late = ServerUnavailable("this server is shutting down and did not come to this request; use another one")
        self.dispatcher.refuse_all(late)
        self._at_work.refuse_all(late)
        while not self.listener.is_quiet() and monotonic() < until:
            self.keep(LEAVE_SECONDS)

    def _close(self) -> None:
        self._stopping = True
        if self.dispatcher.refusing is not None:
            self.listener.receive()  # what came meanwhile is refused, as all that came since the stop
        for unit in self.live.units:
            unit.retire()
        if self.units.kind == "thread":
            self.ready.wake_all()
        self._pace.release()
        self.units.stop()
        self._starter.join()
        self.listener.close()
        self.handover.close()
        if self.direct is not None:
            self.direct.close()
        self._close_shared()

    def _close_shared(self) -> None:
        self.ready.close()
        self.board.close()
        self._waker.close()

    # What the metrics tell

    def dropped(self) -> Counter[str]:
        """Return how many requests no worker worked on, by why; see `RequestQueue.counts`."""
        return self.queue.counts + Counter(shed=self.board.shed())

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended how, since the start: `answered`, or a failure's code."""
        total = Counter(self.board.outcomes())
        for counts in (self.dispatcher.counts, self.listener.counts):
            total.update(dict(counts))
        return {name: count for name, count in total.items() if count or name == "answered"}
