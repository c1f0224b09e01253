"""Two sweeps compared: what each cell gained or lost, against noise. Works on rows and environment cards.

A cell's rounds are paired by number, and the logarithm of their ratio has Student's interval. Intervals are widened
for the number of cells (Bonferroni), because some of many would differ by chance. No difference below the noise floor
of the noisier sweep counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import expm1, isnan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from imdb_serving.analysis.cells import Noise, of_series, valid
from imdb_serving.analysis.intervals import CONFIDENCE, Estimate, estimate
from imdb_serving.cell import Cell

SAME, BETTER, WORSE = "no difference", "better", "worse"

MACHINE = ("cpu", "architecture", "cores", "cores_allowed", "cpu_quota", "smt", "governor", "boost")
"""What has to be alike for two sweeps to be compared; software and code may differ, for they are what is compared."""

LEAST_ROUNDS = 2


class Difference(NamedTuple):
    """One cell's change of throughput from the first sweep to the second, as a share, and what that is called."""

    cell: Cell
    change: Estimate
    rounds: int
    called: str


def differences(first: pd.DataFrame, second: pd.DataFrame, noise: tuple[Noise, Noise]) -> list[Difference]:
    """Return the change of every cell that both have with two valid rounds or more, in the first's order."""
    one, other = (_by_cell(rows) for rows in (first, second))
    floor = max(part.floor for part in noise)
    pairs = {cell: _ratios(one[cell], other[cell]) for cell in one if cell in other}
    pairs = {cell: ratios for cell, ratios in pairs.items() if len(ratios) >= LEAST_ROUNDS}
    confidence = 1 - (1 - CONFIDENCE) / max(len(pairs), 1)
    found = []
    for cell, ratios in pairs.items():
        change = Estimate(*(expm1(value) for value in estimate(ratios, confidence)))
        found.append(Difference(cell, change, len(ratios), _called(change, floor)))
    return found


def _called(change: Estimate, floor: float) -> str:
    if isnan(change.low) or change.holds_zero or abs(change.mean) <= floor:
        return SAME
    return BETTER if change.mean > 0 else WORSE


def _by_cell(rows: pd.DataFrame) -> dict[Cell, dict[int, float]]:
    table: dict[Cell, dict[int, float]] = {}
    sound: Any = valid(of_series(rows))
    for row in sound.itertuples():
        table.setdefault(row.cell, {})[row.round] = row.throughput
    return table


def _ratios(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    return [float(np.log(other[number] / one[number])) for number in sorted(one) if number in other]


def machine_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return in which facts two machines differ, each with both values: then their numbers are not comparable."""
    pairs = {name: (first.get(name), second.get(name)) for name in MACHINE}
    return [f"{name}: {one} and {other}" for name, (one, other) in pairs.items() if one != other]


def software_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return in which versions, code and choices of kernel two sweeps differ: what a change may come from."""
    one, other = (_software(card) for card in (first, second))
    names = sorted({*one, *other})
    differ = [name for name in names if one.get(name) != other.get(name)]
    return [f"{name} {one.get(name, 'none')} and {other.get(name, 'none')}" for name in differ]


def _software(card: Mapping[str, Any]) -> dict[str, str]:
    kernels = {
        f"kernel of {name}": what["variant"] for name, what in card.get("engines", {}).items() if what["variant"]
    }
    own = {name: str(card[name]) for name in ("python", "git", "code") if name in card}
    return {**own, **card.get("packages", {}), **kernels}
