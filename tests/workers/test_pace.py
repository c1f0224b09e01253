"""The longest step is told to the one who asked, in the same thread, once."""

from __future__ import annotations

import threading

from imdb_serving.timing import Stage
from imdb_serving.workers import pace

STEPS = [Stage("op0", 0, 10), Stage("op1", 10, 510), Stage("op2", 510, 520)]


def test_the_longest_step_is_told_to_who_asked() -> None:
    pace.ask()
    assert pace.told() is None
    pace.tell(STEPS)
    assert pace.told() == 500
    pace.tell([])  # nobody asked again
    assert pace.told() == 500
    pace.ask()
    pace.tell([])
    assert pace.told() == 0


def test_what_another_thread_tells_is_not_heard() -> None:
    pace.ask()
    other = threading.Thread(target=pace.tell, args=(STEPS,))
    other.start()
    other.join()
    assert pace.told() is None
