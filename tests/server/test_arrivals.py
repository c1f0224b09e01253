"""What waits on a connection while workers take it as well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from imdb_serving.server.arrivals import NOTED_SECONDS, Arrivals
from imdb_serving.server.workers.carrier import Question
from imdb_serving.server.workers.scoreboard import CONNECTION_CELLS, SEEN, Scoreboard

NUMBER = 9


class Workers:
    """One that takes the connection after it was looked for so many times; `None` for never."""

    def __init__(self, taken_after: int | None) -> None:
        self.looks, self.taken_after = 0, taken_after

    def held(self) -> list[int]:
        self.looks += 1
        return [NUMBER] if self.taken_after is not None and self.looks > self.taken_after else []

    def is_at(self, number: int) -> bool:
        return number in self.held()


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    with closing(Scoreboard(1, 16)) as board:
        yield board


def look_at_one(board: Scoreboard, workers: Workers) -> Arrivals:
    """Look at a connection on which a request waits."""
    connection = SimpleNamespace(descriptor=NUMBER)
    listener = SimpleNamespace(
        lent={NUMBER: 0}, connections={NUMBER: connection}, arrivals=list, peek=lambda _: b"whole"
    )
    queue = SimpleNamespace(distrusts=lambda _: False, admit=lambda _: None)
    read: Any = lambda _: Question("asked", 5, 10**9, 1)  # noqa: E731
    arrivals: Any = Arrivals(
        listener,  # type: ignore[arg-type]
        SimpleNamespace(arm=None),  # type: ignore[arg-type]
        board,
        SimpleNamespace(queue=queue),  # type: ignore[arg-type]
        read,
        SimpleNamespace(rows=[workers]),  # type: ignore[arg-type]
    )
    arrivals.noted[NUMBER] = 0, time.monotonic() - 2 * NOTED_SECONDS
    arrivals.look(all_busy=False)
    return arrivals


@pytest.mark.parametrize("known", [0, 12_345])
@pytest.mark.parametrize("looks", [1, None], ids=["taken meanwhile", "waits"])
def test_since_when_a_request_waits_is_left_to_who_takes_it(board: Scoreboard, known: int, looks: int | None) -> None:
    """Of one that a worker had that has died, this is told to the next one, who may be reading it just now."""
    cell = NUMBER * CONNECTION_CELLS + SEEN
    board.connections[cell] = known
    arrivals = look_at_one(board, Workers(looks))
    assert bool(arrivals.waiting) == (looks is None)
    if looks is not None or known:
        assert board.connections[cell] == known
    else:
        assert board.connections[cell] > 0
