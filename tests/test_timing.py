"""Stages are named, ordered and joined without losing time."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter_ns, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.timing import CLIENT_STAGES, CLOCK_ID, ClockFilter, Stage, Timeline, client_stages

SENT, RECEIVED = (100, 110), (190, 200)
SERVER = [Stage("queue", 120, 130), Stage("op0", 130, 140), Stage("op1", 140, 170), Stage("op2", 170, 175)]


def durations(stages: list[Stage]) -> dict[str, int]:
    return {stage.name: stage.end_ns - stage.start_ns for stage in stages}


def test_a_stage_is_as_long_as_its_block() -> None:
    timeline = Timeline()
    before = perf_counter_ns()
    with timeline.stage("nap"):
        sleep(0.01)
    after = perf_counter_ns()
    (stage,) = timeline.stages
    assert stage.name == "nap"
    assert before <= stage.start_ns <= stage.end_ns <= after
    assert stage.end_ns - stage.start_ns >= 10_000_000


def test_stages_keep_their_order_and_stamps_taken_elsewhere() -> None:
    timeline = Timeline()
    timeline.add("queue", 3, 7)
    for name in ("op0", "op1"):
        with timeline.stage(name):
            pass
    assert timeline.stages[0] == Stage("queue", 3, 7)
    assert [stage.name for stage in timeline.stages] == ["queue", "op0", "op1"]
    assert timeline.stages[1].end_ns <= timeline.stages[2].start_ns


def test_a_stage_that_fails_is_timed_and_its_error_goes_on() -> None:
    timeline = Timeline()
    with pytest.raises(KeyError), timeline.stage("op0"):
        raise KeyError
    assert [stage.name for stage in timeline.stages] == ["op0"]


def test_on_one_host_the_journeys_are_told_apart_by_the_stamps() -> None:
    stages = client_stages(SENT, SERVER, RECEIVED, CLOCK_ID, ClockFilter())
    assert [stage.name for stage in stages] == [name for name in CLIENT_STAGES if name not in {"parse", "handover"}]
    assert durations(stages) == {
        "encode": 10, "send": 10, "queue": 10, "op0": 10, "op1": 30, "op2": 5, "reply": 15, "decode": 10,
    }  # fmt: skip


def test_of_the_first_request_between_hosts_the_remainder_is_split_evenly() -> None:
    far = [Stage(name, start - 10**15, end - 10**15) for name, start, end in SERVER]
    stages = durations(client_stages(SENT, far, RECEIVED, "far", ClockFilter()))
    assert (stages["send"], stages["reply"]) == (12, 13)
    assert {name: stages[name] for name, _, _ in SERVER} == durations(SERVER)


@given(
    offset=st.integers(-(10**18), 10**18),
    steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=6),
    spare=st.integers(0, 10**9),
)
def test_between_hosts_durations_are_kept_and_stages_are_seamless(offset: int, steps: list[int], spare: int) -> None:
    server, now = [], offset
    for number, step in enumerate(steps):
        server.append(Stage(f"s{number}", now, now + step))
        now += step
    received = (1_000 + sum(steps) + spare, 2_000 + sum(steps) + spare)
    stages = client_stages((0, 1_000), server, received, "far", ClockFilter())
    assert all(left.end_ns == right.start_ns for left, right in pairwise(stages))
    assert [stage.end_ns - stage.start_ns for stage in stages[2:-2]] == steps
    assert 0 <= durations(stages)["reply"] - durations(stages)["send"] <= 1
    assert sum(durations(stages).values()) == received[1]


def test_between_hosts_the_journeys_of_a_slow_request_are_told_apart_by_a_quick_one() -> None:
    clocks = ClockFilter()
    ahead = 10**15
    client_stages((0, 100), [Stage("op", ahead + 102, ahead + 110)], (112, 120), "far", clocks)
    slow = durations(client_stages((0, 200), [Stage("op", ahead + 900, ahead + 950)], (960, 970), "far", clocks))
    assert (slow["send"], slow["op"], slow["reply"]) == (700, 50, 10)


def test_no_request_arrives_before_it_was_sent_and_no_answer_after_it_has_come() -> None:
    """The offset that an exchange of unlike journeys gave is half of their difference off."""
    clocks = ClockFilter()
    client_stages((0, 100), [Stage("op", 150, 160)], (160, 170), "far", clocks)  # 50 there, nothing back: 25 off
    early = durations(client_stages((0, 200), [Stage("op", 210, 220)], (300, 310), "far", clocks))
    assert (early["send"], early["reply"]) == (0, 90)
    late = durations(client_stages((0, 400), [Stage("op", 480, 490)], (491, 500), "far", clocks))
    assert (late["send"], late["reply"]) == (55, 26)
