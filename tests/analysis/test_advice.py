"""What is wrong with a machine: each fact that matters has its advice, and a sound machine has none."""

from __future__ import annotations

from typing import Any

import pytest

from imdb_serving.cli.preparing import run_doctor
from imdb_serving.measurement.environment import advise
from imdb_serving.measurement.machine import machine_facts, present_state, wake_up_us

CARD: dict[str, Any] = {
    "cores": 8, "cores_allowed": 8, "cpu_quota": None, "smt": "0", "governor": "performance", "boost": "no_turbo 1",
    "hypervisor": False, "wake_up_us": 3.0, "git": "abc", "engines": {"paddle": {}},
}  # fmt: skip
NOW: dict[str, Any] = {"load": 0.1, "busiest": [], "steal": 0.0, "memory_gib": 8.0, "clock": "tsc"}


def test_a_sound_machine_has_no_advice() -> None:
    assert advise(CARD, NOW) == []


@pytest.mark.parametrize(
    ("card", "now", "words"),
    [
        ({}, {"load": 1.5, "busiest": ["python (pid 7) 1.0 cores"]}, "busy, load 1.5: python (pid 7) 1.0 cores"),
        ({}, {"steal": 0.1}, "the hypervisor takes 10% of the cores"),
        ({"cpu_quota": 5.5}, {}, "the control group allows 5.5 of 8 cores"),
        ({"cores_allowed": 6}, {}, "may use 6 of 8 cores"),
        ({"cores": 2, "cores_allowed": 2}, {}, "clients and server share 2 cores"),
        ({"smt": "1"}, {}, "two hardware threads share a core"),
        ({"governor": "powersave"}, {}, "the governor 'powersave'"),
        ({"boost": "no_turbo 0"}, {}, "the cores boost"),
        ({"hypervisor": True}, {}, "a virtual machine"),
        ({"wake_up_us": 41.0}, {}, "waking an idle core costs 41 µs"),
        ({}, {"clock": "hpet"}, "the clock source hpet is slow"),
        ({}, {"memory_gib": 0.5}, "0.5 GiB of memory are free"),
        ({"git": "abc-dirty"}, {}, "the code differs from its commit"),
        ({"engines": {}}, {}, "nothing is known yet of the engines"),
    ],
)
def test_each_thing_that_is_wrong_is_named_with_what_to_do(
    card: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    (advice,) = advise(CARD | card, NOW | now)
    assert words in advice.problem
    assert advice.remedy


def test_this_machine_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    facts, now = machine_facts(), present_state()
    assert facts["cores_allowed"] >= 1
    assert 0 <= now["steal"] <= 1
    assert now["memory_gib"] > 0
    advise({**CARD, **facts}, now)
    run_doctor("cnn")
    said = capsys.readouterr().out
    assert "cores allowed" in said
    assert "make measurements here worse" in said or "Nothing is wrong" in said


def test_a_wake_up_takes_some_time_or_cannot_be_measured() -> None:
    found = wake_up_us()
    assert found is None or 0 < found < 1e6


def test_a_quota_of_few_cores_is_what_clients_and_server_share() -> None:
    quota, share = advise(CARD | {"cpu_quota": 1.5}, NOW)
    assert quota.problem.startswith("the control group allows 1.5 of 8 cores")
    assert share.problem == "clients and server share 1.5 cores"
