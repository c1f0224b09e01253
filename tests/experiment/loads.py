"""Workloads for the load generator; a module of its own, because client processes import it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from imdb_serving.load.closed_loop import Share
from imdb_serving.load.workload import ReviewWorkload, split_lines
from imdb_serving.messages import Reply, Request
from imdb_serving.protocol.requests import make_request
from imdb_serving.text.formats import Line


def lines_of(count: int) -> list[Line]:
    """Numbered lines of word ids whose first id is their number."""
    return [Line("made", number, f"3 {number} 8 233 {number % 2}") for number in range(1, count + 1)]


def shares_of(lines: Sequence[Line], clients: int, batch: int = 1) -> list[Share]:
    """The lines as the clients' shares."""
    parts = split_lines(lines, clients, batch)
    return [Share.whole(ReviewWorkload(part, "ids", None, batch=batch)) for part in parts]


@dataclass(frozen=True)
class Positions:
    """Requests of one word whose outcome is their position; a signal is sent to `victim` before request `at`."""

    count: int
    at: int = -1
    victim: int = 0

    def __len__(self) -> int:
        return self.count

    def prepare(self, position: int) -> Request:
        if position == self.at:
            os.kill(self.victim or os.getpid(), signal.SIGKILL)
        return make_request([{"words": [position + 1]}], ["prediction"])

    def finish(self, position: int, reply: Reply) -> int:
        return position


def positions(count: int, at: int = -1, victim: int = 0) -> Share:
    """The share of a client that sends all of `Positions`."""
    return Share.whole(Positions(count, at, victim))
