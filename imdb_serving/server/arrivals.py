"""What waits on connections that are lent to workers, while the workers are busy.

A request that waits stays in the kernel, where the next idle worker finds it. It is only looked at, so that it is known
how many wait and how long: one that could not be answered in time, or is one too many, is refused at once; one past its
deadline gets `timeout`; `hello` is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import suppress
from time import monotonic, perf_counter_ns

from imdb_serving.errors import RequestTimeout, ServingError
from imdb_serving.server.connection import StreamConnection
from imdb_serving.server.dispatcher import WAITED, Dispatcher
from imdb_serving.server.listener import Listener
from imdb_serving.server.request_queue import Task
from imdb_serving.server.workers.carrier import Question
from imdb_serving.server.workers.live import LiveUnits
from imdb_serving.server.workers.ready_set import ReadySet
from imdb_serving.server.workers.scoreboard import CONNECTION_CELLS, SEEN, SENT, Scoreboard

BUSY_SECONDS, NOTED_SECONDS = 0.005, 0.01
"""After how long a request that waits is looked at while all workers are busy, and while they are not."""


class Arrivals:
    """Used by the supervisor's thread alone."""

    def __init__(
        self,
        listener: Listener,
        ready: ReadySet,
        board: Scoreboard,
        dispatcher: Dispatcher,
        read: Callable[[bytes], Question | None],
        live: LiveUnits,
    ) -> None:
        """Take what it works with; `read` reads one whole request, `live` has all workers' rows."""
        self._listener, self._ready, self._cells = listener, ready, board.connections
        self._dispatcher, self._read, self._live = dispatcher, read, live
        self.waiting: dict[int, tuple[Task, int]] = {}
        """Requests on lent connections, by number, and what was SENT on it before."""

        self.noted: dict[int, tuple[int, float]] = {}
        """Connections to look at, with what was SENT on them, and since when."""

    def look(self, *, all_busy: bool) -> None:
        """Look at what nobody takes for a while: a short one if all workers are busy."""
        now, noted, lent, cells = monotonic(), self.noted, self._listener.lent, self._cells
        held: set[int] | None = None
        for connection in self._listener.arrivals():
            noted.setdefault(connection.descriptor, (-1, now))
        for number, (sent, since) in list(noted.items()):
            if number not in lent:
                del noted[number]
            elif cells[number * CONNECTION_CELLS + SENT] != sent:  # it was answered; but another may wait
                noted[number] = cells[number * CONNECTION_CELLS + SENT], now
            elif now - since > (BUSY_SECONDS if all_busy else NOTED_SECONDS):
                held = self._held() if held is None else held
                if self._still_waits(number, sent, held):
                    del noted[number]
                    self._look_at(self._listener.connections[number])
                else:
                    noted[number] = sent, now

    def _held(self) -> set[int]:
        """Return what all workers have to themselves at this moment."""
        return {number for row in self._live.rows for number in row.held()}

    def _still_waits(self, number: int, sent: int, held: Set[int] | None = None) -> bool:
        """Tell whether what lay on a lent connection has not been taken by a worker yet.

        `held` is what workers had to themselves a moment ago, where that is exact enough.
        """
        if number not in self._listener.lent:
            return False
        if number in held if held is not None else any(row.is_at(number) for row in self._live.rows):
            return False
        return bool(self._cells[number * CONNECTION_CELLS + SENT] == sent)

    def _look_at(self, connection: StreamConnection) -> None:
        """See what lies on a lent connection; what is one whole prediction stays there, if it may."""
        number = connection.descriptor
        if number in self.waiting:
            self.forget_taken()
        sent = self._cells[number * CONNECTION_CELLS + SENT]
        data = None if number in self.waiting else self._listener.peek(connection)
        if data is None:
            return
        question = self._read(data)
        if question is None or self._dispatcher.queue.distrusts(connection):
            if self._listener.take(number):
                self._listener.reclaim(number)
        else:
            self._let_wait(connection, question, sent)

    def _let_wait(self, connection: StreamConnection, question: Question, sent: int) -> None:
        """Count a request among those that wait, or refuse it."""
        number, now_ns = connection.descriptor, perf_counter_ns()
        seen = number * CONNECTION_CELLS + SEEN
        known_ns = self._cells[seen]  # a worker that has died may have had it before
        seen_ns = known_ns or now_ns
        if not known_ns:
            self._cells[seen] = seen_ns
        if not self._still_waits(number, sent):  # a worker took it meanwhile
            if not known_ns:  # else it is the worker's, who may not have read it yet
                self._cells[seen] = 0
            return
        deadline = monotonic() + (question.allowed_ns - now_ns + seen_ns) / 1e9
        task = Task(connection, question.request_id, seen_ns, deadline, None, question.size)
        try:
            self._dispatcher.queue.admit(task)
        except ServingError as error:
            self._answer_waiting(task, sent, error)
        else:
            self.waiting[number] = task, sent

    def _answer_waiting(self, task: Task, sent: int, error: ServingError) -> None:
        """Answer a request that lies on a lent connection, unless a worker has taken it."""
        number = task.route.descriptor
        if self._still_waits(number, sent) and self._listener.take(number):
            if self._still_waits(number, sent):
                self._dispatcher.fail(task, error)
            else:
                self._ready.arm(number)

    def forget_taken(self) -> None:
        """Forget requests that lay on lent connections until a worker took them."""
        held = self._held()
        for number, (task, sent) in list(self.waiting.items()):
            if not self._still_waits(number, sent, held) or task.open.locked():
                del self.waiting[number]
                for tasks in (self._dispatcher.queue.tasks, self._dispatcher.queue.behind):
                    with suppress(ValueError):
                        tasks.remove(task)

    def end_late(self, tasks: list[Task]) -> None:
        """Answer requests that have waited past their deadline."""
        for task in tasks:
            _, sent = self.waiting.pop(task.route.descriptor, (task, -1))
            self._answer_waiting(task, sent, RequestTimeout(WAITED))
