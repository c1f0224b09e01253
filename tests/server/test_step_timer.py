"""The longest step is told to the one who asked, in the same thread, once."""

from __future__ import annotations

import threading

from imdb_serving.server import worker
from imdb_serving.timing import Stage

STEPS = [Stage("op0", 0, 10), Stage("op1", 10, 510), Stage("op2", 510, 520)]


def test_the_longest_step_is_told_to_who_asked() -> None:
    worker.ask()
    assert worker.observed() is None
    worker.tell(STEPS)
    assert worker.observed() == 500
    worker.tell([])  # nobody asked again
    assert worker.observed() == 500
    worker.ask()
    worker.tell([])
    assert worker.observed() == 0


def test_what_another_thread_tells_is_not_heard() -> None:
    worker.ask()
    other = threading.Thread(target=worker.tell, args=(STEPS,))
    other.start()
    other.join()
    assert worker.observed() is None
