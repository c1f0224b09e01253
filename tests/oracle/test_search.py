"""A search beside the full grid, on sweeps whose truth is known and a recorded one. The long form writes a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from oracle import Noise, rows_of, spot_of
from replays import recommended, replay, shuffled_rounds
from scenarios import SCENARIOS, Judged

from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.noise import noise_of
from imdb_serving.measurement.ledger import Ledger

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "method.md"
TABLE = re.compile(r"(?<=<!-- search -->\n).*?(?=<!-- /search -->)", re.DOTALL)
SIGMAS = (0.01, 0.05, 0.15)
ROUNDS = 3
ALONE = ("second 10 % lower", "slowed best")
"""Scenarios in which any cell at all is the best, by a tenth, whatever its neighbours give: no curve is like that."""


def judged(sigma: float, each: int, names: tuple[str, ...]) -> Judged:
    """Judge searches and full grids on so many sweeps of each of these scenarios."""
    found = Judged()
    for number, name in enumerate(names):
        for count in range(each):
            seed = 1000 * number + count
            case = SCENARIOS[name](Noise(sigma, 2 * ROUNDS), np.random.default_rng(seed))
            rows = rows_of(case.truth, case.noise, seed, case.change)
            made, best = replay(rows, ROUNDS), case.truth.best
            full, _ = recommended(frame([row for row in rows if row.round <= ROUNDS]))
            of_full = next(row.cell for row in rows if row.key == full)
            falls = [1 - case.truth.rates[spot_of(cell)] / best for cell in (made.cell, of_full)]
            found.add("near", falls[0] <= 0.0501)
            found.add("as good", falls[0] <= 0.0501 or made.cell == of_full)
            found.add("full near", falls[1] <= 0.0501)
            found.add("shortfall", falls[0])
            found.add("full shortfall", falls[1])
            found.add("wrongly shown", made.shown and falls[0] > 0.0501)
            found.add("shown", made.shown)
            found.add("share", made.share)
            found.add("rounds", made.rounds)
    return found


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
def test_the_rates_of_searches() -> None:
    """Prints the table, and writes it into docs/method.md."""
    lines = list(_table())
    print("\n".join(lines))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(TABLE.sub(lambda _: "\n".join(lines) + "\n", text), encoding="utf-8")


def _table() -> Iterator[str]:
    steady = {sigma: judged(sigma, 20, STEADY) for sigma in SIGMAS}
    alone = {sigma: judged(sigma, 20, ALONE) for sigma in SIGMAS}
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
    }
    yield f"| rate | {' | '.join(f'{sigma:.0%} noise' for sigma in SIGMAS)} |"
    yield f"|---|{'---:|' * len(SIGMAS)}"
    for name, values in rows.items():
        yield f"| {name} | {' | '.join(values)} |"


def _share(found: Judged, name: str) -> str:
    return f"{found.share(name):.1%}".replace("%", " %")
