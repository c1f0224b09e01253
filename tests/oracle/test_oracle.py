"""What is said of sweeps whose truth is known: how often it is right. The long form writes its table into the docs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracle import Noise, truth_of, write_sweep
from scenarios import SCENARIOS, Judged, run

from imdb_serving.report.compare import IS_WORSE, SAME_OR_BETTER, UNSEEN, compare

DOCUMENT = Path(__file__).parents[2] / "docs" / "method.md"
TABLE = re.compile(r"(?<=<!-- oracle -->\n).*?(?=<!-- /oracle -->)", re.DOTALL)
SIGMAS = (0.01, 0.05, 0.15)
ROUNDS = (3, 4, 3, 5, 3, 6)
"""Of a scenario's sweeps, in turn; three are what the default sweep measures."""


def verdicts(sigma: float, each: int, folder: Path) -> dict[str, Judged]:
    """Judge so many sweeps of every scenario."""
    found = {}
    for number, name in enumerate(SCENARIOS):
        found[name] = Judged()
        for count in range(each):
            noise = Noise(sigma, ROUNDS[count % len(ROUNDS)])
            found[name].join(run(name, noise, 1000 * number + count, folder))
    return found


def comparisons(sigma: float, pairs: int, rounds: int, folder: Path, factor: float = 1.0) -> Judged:
    """Compare pairs of sweeps, in the second of which every cell gives so many times as much."""
    judged, truth = Judged(), truth_of()
    for seed in range(pairs):
        noise = Noise(sigma, rounds)
        write_sweep(folder / "a", truth, noise, 2 * seed)
        write_sweep(folder / "b", truth.scaled(dict.fromkeys(truth.rates, factor)), noise, 2 * seed + 1)
        made = compare(folder / "a", folder / "b")
        called = [made.compared.called, *(one.called for one in made.compared.cells)]
        judged.add("called", any(one != "no difference" for one in called))
        judged.add("told or unseen", made.code in {IS_WORSE, UNSEEN})
        judged.add("worse", made.code == IS_WORSE)
        judged.add("same", made.code == SAME_OR_BETTER)
    return judged


def together(found: dict[str, Judged], leave: tuple[str, ...] = ()) -> Judged:
    """Return the outcomes of all scenarios but some."""
    whole = Judged()
    for name, judged in found.items():
        if name not in leave:
            whole.join(judged)
    return whole


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_recommendation_is_near_the_best_or_told_not_to_be_shown(sigma: float, tmp_path: Path) -> None:
    found = verdicts(sigma, 3, tmp_path)
    whole = together(found)
    assert whole.share("right") >= 0.98
    assert whole.share("shortfall") <= 0.04
    assert whole.share("edge said") == 1.0
    assert whole.share("wrong engine") <= 0.02
    assert together(found, leave=("random walk",)).share("p99 holds") >= 0.9
    if sigma == min(SIGMAS):
        assert whole.share("shown") >= 0.9, "what can be shown is shown"
    if sigma == max(SIGMAS):
        assert whole.share("shown") <= 0.1


@pytest.mark.parametrize("sigma", SIGMAS)
def test_equal_sweeps_are_seldom_told_apart_and_a_loss_is_told_or_said_to_be_unseen(
    sigma: float, tmp_path: Path
) -> None:
    assert comparisons(sigma, 12, 3, tmp_path).share("called") <= 0.1
    slower = comparisons(sigma, 12, 3, tmp_path, factor=0.9)
    assert slower.share("told or unseen") == 1.0
    if sigma < max(SIGMAS):
        assert slower.share("worse") >= 0.4


@pytest.mark.slow
def test_the_rates_over_a_thousand_sweeps(tmp_path: Path) -> None:
    """Prints the table, and writes it into docs/method.md."""
    lines = list(_table(tmp_path))
    print("\n".join(lines))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(TABLE.sub(lambda _: "\n".join(lines) + "\n", text), encoding="utf-8")


def _table(folder: Path) -> Iterator[str]:
    found = {sigma: verdicts(sigma, 24, folder) for sigma in SIGMAS}
    walk = ("random walk",)
    whole = {sigma: together(judged) for sigma, judged in found.items()}
    steady = {sigma: together(judged, walk) for sigma, judged in found.items()}
    compared = {sigma: (comparisons(sigma, 60, 3, folder), comparisons(sigma, 40, 3, folder, 0.9)) for sigma in SIGMAS}
    rows = {
        "recommendation within 5 % of the true best, or told that this cannot be shown": [
            whole[sigma].share("right") for sigma in SIGMAS
        ],
        "shown to be within 5 %": [whole[sigma].share("shown") for sigma in SIGMAS],
        "mean shortfall of the recommendation": [whole[sigma].share("shortfall") for sigma in SIGMAS],
        "refused": [whole[sigma].share("refused") for sigma in SIGMAS],
        "p99's 95 % interval holds": [steady[sigma].share("p99 holds") for sigma in SIGMAS],
        "throughput's 95 % interval holds": [steady[sigma].share("rate holds") for sigma in SIGMAS],
        "the same where rounds drift as a random walk": [
            found[sigma]["random walk"].share("rate holds") for sigma in SIGMAS
        ],
        "wrong word about engines": [whole[sigma].share("wrong engine") for sigma in SIGMAS],
        "best at the edge, said": [whole[sigma].share("edge said") for sigma in SIGMAS],
        "`compare` of equal sweeps: any false call": [compared[sigma][0].share("called") for sigma in SIGMAS],
        "`compare`, all cells 10 % slower, 3 rounds: told": [compared[sigma][1].share("worse") for sigma in SIGMAS],
        "the same: told, or exit code 3": [compared[sigma][1].share("told or unseen") for sigma in SIGMAS],
    }
    yield f"| rate | {' | '.join(f'{sigma:.0%} noise' for sigma in SIGMAS)} |"
    yield f"|---|{'---:|' * len(SIGMAS)}"
    for name, values in rows.items():
        yield f"| {name} | {' | '.join(_percent(value) for value in values)} |"
    for sigma in SIGMAS:
        assert whole[sigma].share("right") >= 0.98
        assert whole[sigma].share("shortfall") <= 0.04
        assert whole[sigma].share("wrong engine") <= 0.02
        assert whole[sigma].share("edge said") == 1.0
        assert 0.93 <= steady[sigma].share("p99 holds") <= 0.98
        assert compared[sigma][0].share("called") <= 0.05 + 2 * math.sqrt(0.05 / 60)
        assert compared[sigma][1].share("told or unseen") == 1.0


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f} %"


def test_the_noise_of_the_pair_does_not_decide(tmp_path: Path) -> None:
    noise = Noise(0.03)
    found = [run("plain", replace(noise, pair=pair), 5, tmp_path).share("shown") for pair in (0.2, 1.0, 5.0)]
    assert len(set(found)) == 1
