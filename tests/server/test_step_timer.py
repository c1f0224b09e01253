"""The longest step is told to the one who asked, in the same thread, once."""

from __future__ import annotations

import threading

from imdb_serving.server.workers.pace import step_timer
from imdb_serving.timing import Stage

STEPS = [Stage("op0", 0, 10), Stage("op1", 10, 510), Stage("op2", 510, 520)]


def test_the_longest_step_is_told_to_who_asked() -> None:
    step_timer.start()
    assert step_timer.longest_ns is None
    step_timer.record(STEPS)
    assert step_timer.longest_ns == 500
    step_timer.record([])  # nobody asked again
    assert step_timer.longest_ns == 500
    step_timer.start()
    step_timer.record([])
    assert step_timer.longest_ns == 0


def test_what_another_thread_tells_is_not_heard() -> None:
    step_timer.start()
    other = threading.Thread(target=step_timer.record, args=(STEPS,))
    other.start()
    other.join()
    assert step_timer.longest_ns is None
