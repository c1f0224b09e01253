"""For workers that are threads and a carrier without connections to lend: each receives, takes what waits, and answers.

A worker that has nothing to do waits until something arrives or another worker wakes it. It takes in what has arrived,
for all; the request that has waited longest is its own, and while more wait it wakes another worker, unless requests
are so brief that to wake one would take longer. Answers are held until nothing waits: each wakes a client, which takes
the processor from the requests that remain.
"""

from __future__ import annotations

import itertools
import logging
from time import sleep
from typing import Any

from imdb_serving.server.dispatcher import Dispatcher
from imdb_serving.server.listener import Listener
from imdb_serving.server.readiness import Waker
from imdb_serving.server.request_queue import Task
from imdb_serving.server.workers.handover import BUSY
from imdb_serving.server.workers.pace import Pace
from imdb_serving.server.workers.scoreboard import ASLEEP, BEAT, OUTCOMES, PASSED
from imdb_serving.server.workers.worker import FAULT_SECONDS, Worker, log_failure

log = logging.getLogger(__name__)


class DirectQueue:
    """What workers take requests from, and answer them through."""

    def __init__(self, listener: Listener, dispatcher: Dispatcher, pace: Pace) -> None:
        """Take where requests arrive, who knows what becomes of them, and how workers share them."""
        self._listener, self._dispatcher, self._pace = listener, dispatcher, pace
        self._queue, self._in_flight = dispatcher.queue, dispatcher.in_flight
        self.waker = Waker()
        """Wakes an idle worker."""

        self.numbers = (self.waker.descriptor, listener.descriptor)
        """The descriptors at which idle workers wait."""

        self.keys = itertools.count(1)
        self.idle: set[int] = set()
        """The keys of the workers that wait, or are about to."""

    def wake_one(self) -> None:
        """Have an idle worker take what waits."""
        self.waker.wake()

    def begin_to_wait(self, key: int) -> None:
        """Take note that a worker will wait. It is woken at once if a request came when nobody did."""
        self.idle.add(key)
        if self._queue.tasks:
            self.wake_one()

    def take(self, key: int) -> Task | None:
        """Return the next request, after taking in what has arrived, if none waits; None if there is none then.

        It is in flight under the worker's `key`.
        """
        tasks = self._queue.tasks
        if not tasks or not self._pace.is_brief:  # answers leave before work that is not brief
            self._listener.glance()
        behind = self._queue.behind
        if not (tasks or behind):  # an exception would cost more
            return None
        try:
            task = tasks.popleft() if tasks else behind.popleft()
        except IndexError:  # another worker was faster
            return None
        self._in_flight[key] = task
        if tasks and self.idle and not self._pace.is_brief:
            self.wake_one()
        return task

    def finish(self, key: int, task: Task, code: int, data: Any) -> bool:
        """Answer a request; return False if it had ended, and been counted, before."""
        del self._in_flight[key]
        if not task.open.acquire(False):  # see `try_finish`
            return False
        if code and log.isEnabledFor(logging.INFO):
            log_failure(task.request_id, self._listener.client(task), code, task.received_ns)
        self._listener.answer(task, data)
        return True

    def give_up(self, key: int) -> None:
        """End the request that a worker failed at through a fault of ours."""
        self._dispatcher.not_read(key)

    def close(self) -> None:
        """Give back the waker."""
        self.waker.close()


class DirectWorker(Worker):
    """A thread that takes requests from a `DirectQueue`."""

    def __init__(self, direct: DirectQueue, *arguments: Any) -> None:
        """Take it, and what every worker takes."""
        super().__init__(*arguments)
        self._direct, self._key = direct, next(direct.keys)

    def run(self) -> None:
        cells, numbers, pace, next_ready = self._cells, self.row.numbers, self._pace, self._ready.next
        direct, key = self._direct, self._key
        cells[PASSED] = key
        while not self.is_over:
            if self._number and pace.is_brief:
                pace.wait()
            direct.begin_to_wait(key)
            number = next_ready()
            direct.idle.discard(key)
            if number:
                try:
                    if self._common[ASLEEP]:
                        self._handover.report(BUSY, 0)
                    self._answer_what_waits(number)
                except Exception:  # a fault of ours must not cost the worker
                    log.exception("a worker goes on behind a fault")
                    sleep(FAULT_SECONDS)  # one that stays shall not take the processor as well
                numbers[0] = 0
            cells[BEAT] += 1

    def _answer_what_waits(self, number: int) -> None:
        """Answer one request after another; in between, what is taken in may count on this worker."""
        direct, key, cells, numbers = self._direct, self._key, self._cells, self.row.numbers
        if number == direct.waker.descriptor:
            direct.waker.clear()
        task = direct.take(key)
        alone = self._pace.is_brief  # nobody else is to be woken for what comes meanwhile
        if not alone:
            self._ready.arm(number)
        try:
            while task is not None:
                numbers[0] = number
                code, answer = self._work(task.received_ns, task.message)
                numbers[0] = 0
                if direct.finish(key, task, code, answer):
                    cells[OUTCOMES + code] += 1
                task = None if self.is_over else direct.take(key)
        except Exception:
            direct.give_up(key)
            raise
        finally:
            if alone:
                self._ready.arm(number)
