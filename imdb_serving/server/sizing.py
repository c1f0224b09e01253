"""In how many processes a server's worker threads are best: more, the more of Python's lock its requests need.

A process runs one thread of Python at a time, and a thread that waits for its turn loses more than the turn takes. What
a request needs of that, its parsing, checks and sending, is measured here on this machine; what the engine needs, and
how long it takes, comes from `imdb-serving tune`.
"""

from __future__ import annotations

import math
import select
import socket
import statistics
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

from imdb_serving.server.workers.carrier import Carrier

REQUESTS, WARM = 200, 20
MOST_BYTES = 1 << 16
FULL = 0.05
"""How much of one interpreter's time is given out. Two threads that asked for 7 % of it together gave 9 % more requests
as two processes, two that asked for 38 % gave 7 to 30 % more (docs/performance.md)."""


class Cost(NamedTuple):
    """What one request takes of a worker thread, in us: all of it, and how much of that holds Python's lock."""

    whole_us: float
    locked_us: float

    @property
    def share(self) -> float:
        """The share of its time in which a worker holds the lock."""
        return min(1.0, self.locked_us / self.whole_us) if self.whole_us else 1.0


def best_processes(workers: int, cores: float, cost: Cost | None) -> int:
    """Return in how many processes so many worker threads are best, on a machine with so many cores.

    Where the `cost` of a request is not known, each thread that can be at work has a process.
    """
    at_work = min(workers, max(1, math.floor(cores)))
    return at_work if cost is None else min(at_work, max(1, math.ceil(at_work * cost.share / FULL)))


def serving_us(carrier: Carrier, request: bytes) -> float:
    """Return how much processor time (us) a worker takes for a request, over a pair of sockets, as it would serve it.

    `carrier` should have an engine that answers at once: then this is what serving takes.
    """
    client, server = socket.socketpair()
    times = []
    with client, server, select.epoll() as ready:
        armed = select.EPOLLIN | select.EPOLLONESHOT
        ready.register(server, armed)
        for _ in range(REQUESTS):
            client.sendall(request)
            begun = thread_time_ns()
            ready.poll()
            data = server.recv(MOST_BYTES)
            question = carrier.read(data)
            assert question is not None  # noqa: S101 - we made it
            _, answer, _ = carrier.answer(perf_counter_ns(), question.content)
            server.sendall(answer)
            ready.modify(server, armed)
            times.append((thread_time_ns() - begun) / 1000)
            client.recv(MOST_BYTES)
    return statistics.median(times[WARM:])
