"""The order of a sweep's runs, and that a failed one does not end it."""

from __future__ import annotations

from pathlib import Path

from imdb_serving.experiment.plan import plan
from imdb_serving.experiment.sweep import run_plan
from imdb_serving.measurement.parameters import GridParams, SweepParams

COUNTS = [1, 2, 4, 8, 16, 32]
OUTPUTS = Path("/outputs")


def order(seed: int = 2020, rounds: int = 4) -> list[int]:
    params = SweepParams(server_threads=COUNTS, rounds=rounds, seed=seed, twin=False)
    return [run.server_threads for run in plan(params, "name", "run", OUTPUTS)]


def test_every_round_has_every_server_count_once() -> None:
    runs = plan(SweepParams(server_threads=COUNTS, rounds=3, twin=False), "name", "run", OUTPUTS)
    for round_ in (1, 2, 3):
        assert sorted(run.server_threads for run in runs if run.round == round_) == COUNTS
    assert [run.round for run in runs] == sorted(run.round for run in runs)
    assert {(run.sweep, run.run, run.outputs) for run in runs} == {("name", "run", "/outputs")}


def test_the_order_is_shuffled_by_the_seed_anew_in_each_round() -> None:
    rounds = [tuple(order()[start : start + 6]) for start in range(0, 24, 6)]
    assert len(set(rounds)) > 1
    assert tuple(COUNTS) not in rounds
    assert order() == order()
    assert order(seed=1) != order(seed=2)


def test_engines_that_compute_in_threads_have_every_count_of_math_threads_and_others_the_first() -> None:
    params = SweepParams(engine="onnxruntime", server_threads=[1, 2], math_threads=[1, 2], also=[{"engine": "folded"}])
    runs = plan(params, "name", "run", OUTPUTS)
    measured = [
        (run.engine, run.server_threads, run.math_threads) for run in runs if (run.round, run.series) == (1, "grid")
    ]
    both = [("onnxruntime", servers, math) for servers in (1, 2) for math in (1, 2)]
    assert sorted(measured) == sorted([*both, ("folded", 1, 1), ("folded", 2, 1)])


def test_a_run_that_fails_is_reported_and_the_others_go_on() -> None:
    runs = plan(SweepParams(server_threads=[1, 2, 4], rounds=1, twin=False), "name", "run", OUTPUTS)
    bad = {runs[0].server_threads: ValueError("a"), runs[1].server_threads: OSError("b")}
    done: list[int] = []
    reported: list[tuple[int, str]] = []

    def execute(run: GridParams) -> None:
        if run.server_threads in bad:
            raise bad[run.server_threads]
        done.append(run.server_threads)

    run_plan(runs, execute, lambda run, error: reported.append((run.server_threads, str(error))))
    assert reported == [(runs[0].server_threads, "a"), (runs[1].server_threads, "b")]
    assert done == [runs[2].server_threads]
