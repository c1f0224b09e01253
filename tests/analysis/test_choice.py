"""The choice among cells, and the most that a cell could give which cannot be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from noisy_rows import rows_of

from imdb_serving.analysis.choice import Choice, choose
from imdb_serving.analysis.noise import Noise, noise_of
from imdb_serving.analysis.upper_bounds import most_of

COUNT = 24


def choice(factors: dict[int, float], seed: int = 1, *, bounds: Sequence[float] = (), **noise: float) -> Choice:
    """Choose among 24 cells of which some give so many times as much; the cheapest is the first."""
    rows = rows_of(seed, **noise)  # type: ignore[arg-type]
    keys = list(dict.fromkeys(rows["key"]))
    for place, factor in factors.items():
        rows.loc[rows["key"] == keys[place], "throughput"] *= factor
    made = choose(noise_of(rows), range(COUNT), [(float(place),) for place in range(COUNT)], bounds)
    assert made is not None
    return made


QUIET = {"server": 0.002, "cell": 0.002}


def test_the_cheapest_cell_that_is_near_enough_is_chosen() -> None:
    made = choice({20: 1.03}, **QUIET)
    assert (made.chosen, made.best, made.shown) == (0, 20, True)
    assert made.shortfall.low < 0.03 < made.shortfall.high <= 0.05
    assert made.contenders == [20]
    assert made.rounds == 0


def test_a_cell_beyond_the_zone_is_not_chosen_however_cheap() -> None:
    made = choice({20: 1.08}, **QUIET)
    assert (made.chosen, made.best, made.shown) == (20, 20, True)


def test_where_noise_hides_the_zone_the_best_measured_is_chosen_and_rounds_are_told() -> None:
    made = choice({20: 1.03}, server=0.03, cell=0.03)
    assert made.chosen == made.best
    assert not made.shown
    assert made.rounds is None or made.rounds > 3
    assert len(made.contenders) > 1
    assert made.shortfall.high > 0.05


def test_the_rounds_that_it_names_show_it() -> None:
    noise = {"server": 0.04, "cell": 0.04}
    named = [made.rounds for seed in range(12) if not (made := choice({20: 1.1}, seed, **noise)).shown]
    rounds = [count for count in named if count is not None]
    assert len(rounds) >= 4
    assert min(rounds) > 3
    shown = [choice({20: 1.1}, 50 + seed, rounds=2 * count, **noise).shown for seed, count in enumerate(rounds)]
    assert np.mean(shown) >= 0.7


def test_more_noise_permits_no_worse_choice() -> None:
    """What is shown is right, at any noise: in nineteen of twenty the shortfall lies in its interval."""
    held = []
    for seed in range(60):
        for spread in (0.005, 0.02, 0.06):
            made = choice({20: 1.1, 7: 1.06}, seed, server=spread, cell=spread)
            truth = {20: 0.0, 7: 1 - 1.06 / 1.1}.get(made.chosen, 1 - 1 / 1.1)
            held.append(made.shortfall.low <= truth + 1e-9 and truth <= made.shortfall.high + 1e-9)
            assert not made.shown or truth <= 0.05
    assert np.mean(held) >= 0.95


def test_a_doubtful_cell_decides_only_where_it_could_be_better_by_more_than_the_zone() -> None:
    near, far = math.log(1040.0), math.log(1200.0)
    assert choice({}, bounds=[near, far], **QUIET).deciding == [1]


def test_of_no_cell_there_is_no_choice() -> None:
    assert choose(noise_of(rows_of(1)), [], []) is None


def cells_of(rates: dict[tuple[int, int], float]) -> tuple[pd.DataFrame, Noise]:
    """A table of valid cells by server threads and clients, whose requests take a millisecond of CPU time."""
    table: list[dict[str, Any]] = [
        {
            "key": f"{servers} x {clients}", "server_threads": servers, "client_threads": clients, "throughput": rate,
            "request_rate": rate, "server_cpu_us": 900.0, "client_cpu_us": 100.0, "client_nodes": 0,
        }
        for (servers, clients), rate in rates.items()
    ]  # fmt: skip
    return pd.DataFrame(table), noise_of(rows_of(1, **QUIET))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rates", "cell", "cores", "most"),
    [
        pytest.param({(1, 1): 500}, (1, 3), 16, 1500, id="three clients give three times what one gives at most"),
        pytest.param({(1, 4): 900}, (2, 4), 16, 1800, id="two workers give twice what one gives"),
        pytest.param({(1, 1): 900}, (1, 4), 2, 2000, id="two cores have time for 2,000 requests"),
        pytest.param({(1, 2): 900, (1, 3): 950}, (1, 4), 16, 1000, id="concave: it grows by no more than before"),
        pytest.param({(1, 6): 900, (1, 8): 800}, (1, 4), 16, 1000, id="concave: from the other side"),
        pytest.param({(1, 8): 900}, (1, 4), 16, 16_000, id="more clients do not bound fewer: the cores do"),
    ],
)
def test_neighbours_and_cores_bound_a_cell(
    rates: dict[tuple[int, int], float], cell: tuple[int, int], cores: float, most: float
) -> None:
    table, noise = cells_of(rates)
    found = most_of({"key": "?", "server_threads": cell[0], "client_threads": cell[1]}, table, noise, cores)
    assert math.exp(found) == pytest.approx(most, rel=0.001)


def test_nothing_bounds_a_cell_without_neighbours() -> None:
    table, noise = cells_of({(1, 1): 500})
    assert most_of({"key": "?", "server_threads": 1, "client_threads": 1}, table.iloc[:0], noise, 2) == math.inf


def test_a_bound_that_measured_cells_break_is_not_used() -> None:
    table, noise = cells_of({(1, 1): 5000})
    found = most_of({"key": "?", "server_threads": 1, "client_threads": 2}, table, noise, 2)
    assert math.exp(found) == pytest.approx(10_000, rel=0.001)


def test_a_cell_that_was_slowed_may_be_as_fast_as_in_the_best_of_its_rounds() -> None:
    rows = rows_of(3, server=0.01, cell=0.01)
    key = rows["key"].iloc[4]
    rows.loc[(rows["round"] == 2) & (rows["key"] == key), "throughput"] /= 2
    noise = noise_of(rows)
    found = most_of({"key": key, "server_threads": 1, "client_threads": 6}, rows.iloc[:0], noise, 2)
    assert 1000 < math.exp(found) < 1100
