"""A search beside the full grid, on sweeps whose truth is known and a recorded one. The long form writes a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from oracle import Noise, Spot, Truth, failing, rows_of, spot_of, truth_of
from replays import Replay, recommended, replay, shuffled_rounds
from scenarios import SCENARIOS, Judged

from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.noise import noise_of
from imdb_serving.analysis.selection import BY_THROUGHPUT, EFFICIENCY, P99, RATE_ZONE, Selection
from imdb_serving.cell import Cell
from imdb_serving.measurement.ledger import Ledger

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "method.md"
TABLE = re.compile(r"(?<=<!-- search -->\n).*?(?=<!-- /search -->)", re.DOTALL)
SIGMAS = (0.01, 0.05, 0.15)
ROUNDS = 3
ALONE = ("second 10 % lower", "slowed best")
"""Scenarios in which any cell at all is the best, by a tenth, whatever its neighbours give: no curve is like that."""


Selecting = Callable[[Truth, np.random.Generator], Selection]


def by_throughput(_truth: Truth, _generator: np.random.Generator) -> Selection:
    """The most throughput."""
    return BY_THROUGHPUT


def by_efficiency(_truth: Truth, _generator: np.random.Generator) -> Selection:
    """The least CPU time a request."""
    return Selection("efficiency")


def by_p99(truth: Truth, generator: np.random.Generator) -> Selection:
    """A limit somewhat above the p99 of one of the faster half of the cells."""
    fast = sorted(truth.rates, key=lambda spot: -truth.rates[spot])[: len(truth.rates) // 2]
    return Selection("p99", 1.3 * truth.p99_us[fast[generator.integers(len(fast))]] / 1000)


def merits(truth: Truth, selection: Selection) -> dict[Spot, float]:
    """Return what each cell is worth, the more the better: 0 for one that must not be chosen."""
    if selection.by == P99:
        return {spot: rate * (truth.p99_us[spot] <= selection.most_ms * 1000) for spot, rate in truth.rates.items()}
    if selection.by == EFFICIENCY:
        least = (1 - RATE_ZONE) * truth.best
        return {spot: (rate >= least) / truth.cpu_us[spot] for spot, rate in truth.rates.items()}
    return truth.rates


def judged(sigma: float, each: int, names: tuple[str, ...], selecting: Selecting = by_throughput) -> Judged:
    """Judge searches and full grids on so many sweeps of each of these scenarios."""
    found = Judged()
    for number, name in enumerate(names):
        for count in range(each):
            seed = 1000 * number + count
            case = SCENARIOS[name](Noise(sigma, 2 * ROUNDS), np.random.default_rng(seed))
            selection = selecting(case.truth, np.random.default_rng([seed, 4]))
            rows = rows_of(case.truth, case.noise, seed, case.change)
            made = replay(rows, ROUNDS, selection, case.truth.cores)
            of_full = recommended(frame([row for row in rows if row.round <= ROUNDS]), selection)
            judge(found, merits(case.truth, selection), made, of_full)
    return found


def judge(found: Judged, worth: dict[Spot, float], made: Replay, of_full: Cell | None) -> None:
    """Note what a search and the full grid recommend, if anything: how far from the best, and from each other."""
    best = max(worth.values())
    falls = [1 - worth[spot_of(cell)] / best for cell in (made.cell, of_full) if cell]
    if made.cell:
        found.add("near", falls[0] <= 0.0501)
        found.add("shortfall", falls[0])
        found.add("admissible", worth[spot_of(made.cell)] > 0)
    if of_full:
        found.add("full near", falls[-1] <= 0.0501)
        found.add("full shortfall", falls[-1])
        found.add("full admissible", worth[spot_of(of_full)] > 0)
    same = made.cell == of_full
    found.add("as good", same or bool(made.cell and falls[0] <= 0.0501))
    found.add("as the grid", same or bool(made.cell and falls[0] <= 1 - 0.95 * (1 - falls[-1]) + 1e-4))
    found.add("refuses", made.cell is None)
    found.add("full refuses", of_full is None)
    found.add("wrongly shown", bool(made.shown and falls[0] > 0.0501))
    found.add("shown", made.shown)
    found.add("share", made.share)
    found.add("rounds", made.rounds)


STEADY = tuple(name for name in SCENARIOS if name not in {*ALONE, "failed best"})


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_search_recommends_what_the_grid_does_with_a_third_of_its_measurements(sigma: float) -> None:
    found = judged(sigma, 2, STEADY)
    assert found.share("as good") >= 0.9
    assert found.share("shortfall") <= max(0.02, found.share("full shortfall") + 0.02)
    assert found.share("wrongly shown") <= 0.05
    assert max(found.outcomes["share"]) <= 0.36
    if sigma == min(SIGMAS):
        assert found.share("shown") >= 0.9


@pytest.mark.parametrize("selecting", [by_p99, by_efficiency])
def test_a_search_for_another_figure_recommends_what_the_grid_does(selecting: Selecting) -> None:
    found = judged(0.05, 1, STEADY, selecting)
    assert found.share("admissible") >= 0.9
    assert found.share("as the grid") >= 0.8
    assert found.share("wrongly shown") <= 0.1
    assert max(found.outcomes["share"]) <= 0.36


def test_with_many_rounds_of_few_cells_what_lies_beside_any_contender_is_measured() -> None:
    """The best is beside a cell that is as good as the chosen one, and beside neither that nor the best measured."""
    rates = {
        (4, 4): 3000.0,
        (2, 4): 2990.0,
        (4, 8): 2900.0,
        (2, 8): 2890.0,
        (2, 2): 3400.0,
        (4, 2): 2500.0,
        (1, 4): 2600.0,
    }
    spots: dict[Spot, float] = {
        ("flask", "onnxruntime", servers, clients): rates.get((servers, clients), 2000.0)
        for servers in (1, 2, 4)
        for clients in (1, 2, 4, 8)
    }
    truth = Truth(spots, dict.fromkeys(spots, 3000.0), dict.fromkeys(spots, 500.0))
    made = [replay(rows_of(truth, Noise(0.05, 20), seed), 10) for seed in range(10)]
    found = [one.cell and (one.cell.server_threads, one.cell.client_threads) for one in made]
    assert found.count((2, 2)) >= 9
    assert max(one.share for one in made) <= 0.36


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_shown_while_a_cell_that_failed_could_be_the_best(seed: int) -> None:
    """Eight clients are far ahead of four, and nothing measured says that they cannot be."""
    spots = [(mode, "paddle", 4, clients) for mode in ("rpc", "socket", "flask") for clients in (1, 2, 3, 4, 8)]
    truth, noise, rounds = truth_of(spots, cores=16), Noise(0.003, 12), 6
    spoiled = failing(max(spots, key=lambda spot: truth.rates[spot]))
    assert replay(rows_of(truth, noise, seed), rounds, cores=16).shown
    assert not replay(rows_of(truth, noise, seed, spoiled), rounds, cores=16).shown


def test_a_recorded_sweep_searched_gives_what_all_its_rounds_give() -> None:
    rows = [row for row in Ledger(ROOT / "outputs" / "example").latest_run() if row.cell.series in {"grid", "twin"}]
    noise = noise_of(frame([row for row in rows if row.cell.series == "grid"]))
    rates = dict(zip(noise.keys, np.exp(noise.means), strict=True))
    found = Judged()
    for seed in range(8):
        shuffled = shuffled_rounds(rows, seed)
        made = replay(shuffled, ROUNDS)
        key = next(row.key for row in rows if row.cell == made.cell)
        found.add("near", rates[key] >= 0.95 * max(rates.values()))
        found.add("share", made.share)
    assert found.share("near") >= 0.75, "three of 20 may be off by more, and these are eight"
    assert max(found.outcomes["share"]) <= 0.36


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_rates_of_searches() -> None:
    """Prints the table, and writes it into docs/method.md."""
    lines = list(_table())
    print("\n".join(lines))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(TABLE.sub(lambda _: "\n".join(lines) + "\n", text), encoding="utf-8")


def _table() -> Iterator[str]:
    steady = {sigma: judged(sigma, 20, STEADY) for sigma in SIGMAS}
    alone = {sigma: judged(sigma, 20, ALONE) for sigma in SIGMAS}
    tails = {sigma: judged(sigma, 10, STEADY, by_p99) for sigma in SIGMAS}
    thrift = {sigma: judged(sigma, 10, STEADY, by_efficiency) for sigma in SIGMAS}
    rows = {
        "searches": [f"{len(steady[sigma].outcomes['near'])}" for sigma in SIGMAS],
        "the grid's recommendation, or within 5 % of the true best": [
            _share(steady[sigma], "as good") for sigma in SIGMAS
        ],
        "within 5 % of the true best": [_share(steady[sigma], "near") for sigma in SIGMAS],
        "the full grid within 5 % of it": [_share(steady[sigma], "full near") for sigma in SIGMAS],
        "mean shortfall of the search": [_share(steady[sigma], "shortfall") for sigma in SIGMAS],
        "mean shortfall of the full grid": [_share(steady[sigma], "full shortfall") for sigma in SIGMAS],
        "said to be shown": [_share(steady[sigma], "shown") for sigma in SIGMAS],
        "said to be shown, and more than 5 % off": [_share(steady[sigma], "wrongly shown") for sigma in SIGMAS],
        "cell rounds, as a share of the full grid's": [_share(steady[sigma], "share") for sigma in SIGMAS],
        "the most of them": [f"{max(steady[sigma].outcomes['share']):.1%}" for sigma in SIGMAS],
        "rounds of a search": [f"{steady[sigma].share('rounds'):.1f}" for sigma in SIGMAS],
        "a lone best cell anywhere: found": [_share(alone[sigma], "near") for sigma in SIGMAS],
        "searches for each of what follows": [f"{len(tails[sigma].outcomes['share'])}" for sigma in SIGMAS],
        **_of_another_figure("a p99", tails),
        **_of_another_figure("efficiency", thrift),
    }
    yield f"| rate | {' | '.join(f'{sigma:.0%} noise' for sigma in SIGMAS)} |"
    yield f"|---|{'---:|' * len(SIGMAS)}"
    for name, values in rows.items():
        yield f"| {name} | {' | '.join(values)} |"


def _of_another_figure(name: str, found: dict[float, Judged]) -> dict[str, list[str]]:
    told = {
        "the grid's recommendation, or within 5 % of it": "as the grid",
        "within 5 % of the true best": "near",
        "the full grid within 5 % of it": "full near",
        "the cell holds in truth what it must": "admissible",
        "nothing recommended": "refuses",
        "nothing recommended by the full grid": "full refuses",
        "said to be shown, and more than 5 % off": "wrongly shown",
        "cell rounds, as a share of the full grid's": "share",
    }
    return {f"{name}: {words}": [_share(found[sigma], key) for sigma in SIGMAS] for words, key in told.items()}


def _share(found: Judged, name: str) -> str:
    return f"{found.share(name):.1%}".replace("%", " %")
