"""When a page counts as closed, by a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient

from imdb_serving.lab.controls import AWAY_SECONDS, Heartbeat, Soon, soon_in_kernel


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched(NamedTuple):
    clock: Clock
    heartbeat: Heartbeat

    def answer(self) -> None:
        """Do what the page's link does."""
        self.heartbeat.echo.value = self.heartbeat.asked.value

    def beats(self, seconds: float) -> bool:
        """Let a second pass after each beat; tell whether the last one missed the page."""
        missed = False
        for _ in range(round(seconds)):
            missed = self.heartbeat.beat()
            self.clock.now += 1
        return missed


@pytest.fixture
def watched() -> Watched:
    clock = Clock()
    return Watched(clock, Heartbeat(None, clock))


def test_a_page_that_answers_no_longer_is_missed(watched: Watched) -> None:
    for _ in range(100):
        assert not watched.heartbeat.beat()
        watched.answer()
        watched.clock.now += 1
    assert not watched.beats(AWAY_SECONDS)
    assert watched.beats(2)


def test_who_never_had_a_page_misses_none(watched: Watched) -> None:
    assert not watched.beats(10 * AWAY_SECONDS)


def test_the_time_in_which_nothing_was_asked_does_not_count(watched: Watched) -> None:
    watched.heartbeat.beat()
    watched.answer()
    watched.clock.now += 10 * AWAY_SECONDS  # stopped by hand
    assert not watched.heartbeat.beat()
    assert not watched.beats(AWAY_SECONDS - 1)
    assert watched.beats(3)


def test_an_answer_that_comes_before_the_beat_has_ended_is_one(watched: Watched) -> None:
    def at_once(_change: object) -> None:
        watched.answer()

    watched.heartbeat.asked.observe(at_once, "value")
    assert not watched.heartbeat.beat()
    watched.heartbeat.asked.unobserve(at_once, "value")
    watched.clock.now += 10 * AWAY_SECONDS  # stopped by hand
    assert not watched.heartbeat.beat()


def test_an_answer_in_the_middle_of_a_beat_breaks_nothing() -> None:
    def soon(listened: Callable[[], None]) -> None:
        watched.answer()
        listened()

    clock = Clock()
    watched = Watched(clock, Heartbeat(soon, clock))
    assert not watched.heartbeat.beat()
    assert not watched.heartbeat.beat()


def test_a_question_from_before_a_rest_is_no_longer_waited_for(watched: Watched) -> None:
    watched.heartbeat.beat()
    watched.answer()
    watched.heartbeat.beat()  # the page is reloaded
    watched.clock.now += 10 * AWAY_SECONDS
    watched.heartbeat.rest()
    assert not watched.beats(AWAY_SECONDS)
    assert watched.beats(2)


def test_a_page_that_is_forgotten_is_missed_again_only_when_it_has_come_back(watched: Watched) -> None:
    watched.heartbeat.beat()
    watched.answer()
    assert watched.beats(AWAY_SECONDS + 2)
    watched.heartbeat.forget()
    assert not watched.beats(10 * AWAY_SECONDS)
    watched.answer()
    assert watched.beats(AWAY_SECONDS + 2)


def test_the_time_in_which_a_cell_keeps_the_kernel_does_not_count() -> None:
    clock, waiting = Clock(), list[Callable[[], None]]()
    watched = Watched(clock, Heartbeat(waiting.append, clock))

    def listen() -> None:
        while waiting:
            waiting.pop()()

    watched.heartbeat.beat()
    watched.answer()
    listen()
    assert not watched.beats(10 * AWAY_SECONDS)  # the kernel never came to listen
    for _ in range(round(AWAY_SECONDS)):
        listen()
        assert not watched.heartbeat.beat()
        clock.now += 1
    listen()
    clock.now += 2
    assert watched.heartbeat.beat()


def test_a_script_has_no_kernel_whatever_loop_it_runs() -> None:
    async def script() -> Soon | None:
        return soon_in_kernel()

    with ThreadPoolExecutor(1) as apart:  # this thread may have a loop of the browser's
        assert apart.submit(asyncio.run, script()).result() is None


def test_a_cell_has_a_kernel_that_listens_when_it_is_done() -> None:
    cells = [
        "from imdb_serving.lab import controls\nheard = []\ncontrols.soon_in_kernel()(lambda: heard.append(1))\nheard",
        "heard",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert [cell.outputs[-1].data["text/plain"] for cell in notebook.cells] == ["[]", "[1]"]
