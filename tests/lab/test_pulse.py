"""When a page counts as closed, by a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from imdb_serving.lab.pulse import AWAY_SECONDS, Pulse


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched(NamedTuple):
    clock: Clock
    pulse: Pulse

    def answer(self) -> None:
        """Do what the page's link does."""
        self.pulse.echo.value = self.pulse.asked.value

    def beats(self, seconds: float) -> bool:
        """Let a second pass after each beat; tell whether the last one missed the page."""
        missed = False
        for _ in range(round(seconds)):
            missed = self.pulse.beat()
            self.clock.now += 1
        return missed


@pytest.fixture
def watched() -> Watched:
    clock = Clock()
    return Watched(clock, Pulse(clock))


def test_a_page_that_answers_no_longer_is_missed(watched: Watched) -> None:
    for _ in range(100):
        assert not watched.pulse.beat()
        watched.answer()
        watched.clock.now += 1
    assert not watched.beats(AWAY_SECONDS)
    assert watched.beats(2)


def test_who_never_had_a_page_misses_none(watched: Watched) -> None:
    assert not watched.beats(10 * AWAY_SECONDS)


def test_the_time_in_which_nothing_was_asked_does_not_count(watched: Watched) -> None:
    watched.pulse.beat()
    watched.answer()
    watched.clock.now += 10 * AWAY_SECONDS  # stopped by hand
    assert not watched.pulse.beat()
    assert not watched.beats(AWAY_SECONDS - 1)
    assert watched.beats(3)


def test_an_answer_that_comes_before_the_beat_has_ended_is_one(watched: Watched) -> None:
    def at_once(_change: object) -> None:
        watched.answer()

    watched.pulse.asked.observe(at_once, "value")
    assert not watched.pulse.beat()
    watched.pulse.asked.unobserve(at_once, "value")
    watched.clock.now += 10 * AWAY_SECONDS  # stopped by hand
    assert not watched.pulse.beat()


def test_an_answer_in_the_middle_of_a_beat_breaks_nothing(watched: Watched) -> None:
    async def kernel() -> None:
        pulse = Pulse(watched.clock)
        loop = asyncio.get_running_loop()
        pulse.beat()
        await asyncio.sleep(0)
        waking = loop.call_soon_threadsafe

        def answered_meanwhile(callback: Callable[[], None]) -> asyncio.Handle:
            pulse.echo.value = pulse.asked.value
            return waking(callback)

        loop.call_soon_threadsafe = answered_meanwhile  # type: ignore[assignment, method-assign]
        assert not pulse.beat()

    asyncio.run(kernel())


def test_a_question_from_before_a_rest_is_no_longer_waited_for(watched: Watched) -> None:
    watched.pulse.beat()
    watched.answer()
    watched.pulse.beat()  # the page is reloaded
    watched.clock.now += 10 * AWAY_SECONDS
    watched.pulse.rest()
    assert not watched.beats(AWAY_SECONDS)
    assert watched.beats(2)


def test_a_page_that_is_forgotten_is_missed_again_only_when_it_has_come_back(watched: Watched) -> None:
    watched.pulse.beat()
    watched.answer()
    assert watched.beats(AWAY_SECONDS + 2)
    watched.pulse.forget()
    assert not watched.beats(10 * AWAY_SECONDS)
    watched.answer()
    assert watched.beats(AWAY_SECONDS + 2)


def test_the_time_in_which_a_cell_keeps_the_kernel_does_not_count() -> None:
    async def kernel() -> None:
        clock = Clock()
        watched = Watched(clock, Pulse(clock))
        watched.pulse.beat()
        watched.answer()
        await asyncio.sleep(0)
        assert not watched.beats(10 * AWAY_SECONDS)  # the loop never came to run
        for _ in range(round(AWAY_SECONDS)):
            await asyncio.sleep(0)
            assert not watched.pulse.beat()
            clock.now += 1
        await asyncio.sleep(0)
        clock.now += 2
        assert watched.pulse.beat()

    asyncio.run(kernel())
