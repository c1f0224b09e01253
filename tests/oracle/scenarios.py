"""Scenarios of the oracle: a truth, the noise, and what is spoiled; and what a verdict on each must not get wrong."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from oracle import CLIENTS, LAYOUT, OP_US, Change, Noise, Spot, Truth, failing, slowed, spot_of, truth_of, write_sweep

from imdb_serving.report import frames
from imdb_serving.report.answer import Answer, Range
from imdb_serving.report.verdict import verdict

ZONE = 0.05


class Case(NamedTuple):
    """One sweep to write: its truth, its noise, and what happens to its rows."""

    truth: Truth
    noise: Noise
    change: Change = lambda row: row


Scenario = Callable[[Noise, np.random.Generator], Case]


def _best(truth: Truth) -> Spot:
    return max(truth.rates, key=lambda spot: truth.rates[spot])


def _second(share: float) -> Scenario:
    """The best cell is ahead of every other by at least so much."""

    def scenario(noise: Noise, generator: np.random.Generator) -> Case:
        truth = truth_of()
        best = list(truth.rates)[generator.integers(len(truth.rates))]
        factors = {spot: min(1.0, (1 - share) * truth.best / rate) for spot, rate in truth.rates.items()}
        return Case(truth.scaled(factors | {best: truth.best / truth.rates[best]}), noise)

    return scenario


def plain(noise: Noise, _generator: np.random.Generator) -> Case:
    """The default sweep."""
    return Case(truth_of(), noise)


def ties(noise: Noise, generator: np.random.Generator) -> Case:
    """Eight cells give the same."""
    truth = truth_of()
    level = sorted(truth.rates.values())[-8]
    return Case(truth.scaled({spot: min(1.0, level / rate) for spot, rate in truth.rates.items()}), noise)


def equal_engines(noise: Noise, _generator: np.random.Generator) -> Case:
    """Another engine gives the same, over a faster mode as well."""
    return Case(truth_of(op_us=OP_US | {"folded": OP_US["paddle"]}), noise)


def slower_engine_over_faster_mode(noise: Noise, _generator: np.random.Generator) -> Case:
    """The slower engine was measured over the faster mode alone, beside one mode that both have."""
    layout = [spot for spot in LAYOUT if spot[1] == "paddle"]
    layout += [(mode, "onnxruntime", 1, clients) for mode in ("rpc", "socket") for clients in CLIENTS]
    return Case(truth_of(layout, op_us=OP_US | {"onnxruntime": 1.1 * OP_US["paddle"]}), noise)


def edge(noise: Noise, _generator: np.random.Generator) -> Case:
    """On a machine of many cores the most threads and clients give the most."""
    return Case(truth_of(cores=16), noise)


def failed_best(noise: Noise, _generator: np.random.Generator) -> Case:
    """The best cell failed in every round."""
    truth = truth_of()
    return Case(truth, noise, failing(_best(truth)))


def slowed_best(noise: Noise, generator: np.random.Generator) -> Case:
    """An intruder had one round of the best cell, and no gate saw it."""
    case = _second(0.1)(noise, generator)
    return case._replace(change=slowed(_best(case.truth), int(generator.integers(1, noise.rounds + 1)), 0.6))


def noisy_pair(noise: Noise, _generator: np.random.Generator) -> Case:
    """The A/A pair is three times as noisy as the cells."""
    return Case(truth_of(), replace(noise, pair=3.0))


def quiet_pair(noise: Noise, _generator: np.random.Generator) -> Case:
    """The A/A pair is a third as noisy as the cells."""
    return Case(truth_of(), replace(noise, pair=1 / 3))


def drifting(noise: Noise, _generator: np.random.Generator) -> Case:
    """Rounds drift as a random walk."""
    return Case(truth_of(), replace(noise, drift="walk"))


def heavy_tails(noise: Noise, _generator: np.random.Generator) -> Case:
    """Some rounds of cells lie far off."""
    return Case(truth_of(), replace(noise, heavy=True))


def quota(noise: Noise, _generator: np.random.Generator) -> Case:
    """A quota allows one core of many."""
    return Case(truth_of(cores=1.0), noise)


SCENARIOS: dict[str, Scenario] = {
    "plain": plain, "ties": ties, "second 3 % lower": _second(0.03), "second 10 % lower": _second(0.1),
    "equal engines": equal_engines, "slower engine, faster mode": slower_engine_over_faster_mode, "edge": edge,
    "failed best": failed_best, "slowed best": slowed_best, "noisy pair": noisy_pair, "quiet pair": quiet_pair,
    "random walk": drifting, "heavy tails": heavy_tails, "quota": quota,
}  # fmt: skip


class Judged:
    """Outcomes by name: each a list of true and false, or of numbers."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        """Note an outcome."""
        self.outcomes[name].append(float(value))

    def share(self, name: str) -> float:
        """Return the mean of an outcome; NaN where there was none."""
        return float(np.mean(self.outcomes[name])) if self.outcomes[name] else math.nan

    def join(self, other: Judged) -> None:
        """Take the outcomes of another as well."""
        for name, values in other.outcomes.items():
            self.outcomes[name] += values


def judge(case: Case, answer: Answer) -> Judged:
    """Return what a verdict got right: `right` is within the zone of the best, or told that this cannot be shown."""
    judged, truth = Judged(), case.truth
    shortfall = 0.0
    if answer.recommended is not None:
        shortfall = 1 - truth.rates[spot_of(answer.recommended)] / truth.best
        judged.add("shortfall", shortfall)
        judged.add("shown", answer.shown)
    judged.add("right", shortfall <= ZONE or not answer.shown)
    judged.add("refused", answer.recommended is None)
    for way in answer.ways:
        judged.add("rate holds", _holds(way.throughput, truth.rates[spot_of(way.place)]))
        if way.p99 is not None:
            judged.add("p99 holds", _holds(way.p99, truth.p99_us[spot_of(way.place)] / 1000))
    for gain in answer.engines:
        mode, _, servers, clients = spot_of(gain.at)
        ratio = truth.rates[mode, gain.engine, servers, clients] / truth.rates[mode, gain.other, servers, clients]
        told = {"more": ratio > 1.0001, "less": ratio < 0.9999}.get(gain.told, True)
        judged.add("wrong engine", not told)
    others = sorted([0.0, *truth.rates.values()])[-2]
    if answer.recommended is not None and others < 0.995 * truth.best and _at_edge(truth, _best(truth)):
        mode, engine, *_ = _best(truth)
        judged.add("edge said", any((e.place.mode, e.place.engine) == (mode, engine) for e in answer.edges))
    return judged


def _holds(found: Range, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def _at_edge(truth: Truth, spot: Spot) -> bool:
    alike = [other for other in truth.rates if other[:2] == spot[:2]]
    return any(spot[axis] == max(other[axis] for other in alike) for axis in (2, 3))


def run(name: str, noise: Noise, seed: int, folder: Path) -> Judged:
    """Write a sweep of a scenario, ask for a verdict on it, and judge that."""
    case = SCENARIOS[name](noise, np.random.default_rng([seed, 1]))
    write_sweep(folder, case.truth, case.noise, seed, case.change)
    return judge(case, verdict(frames.load(folder), folder).answer)
