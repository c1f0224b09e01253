"""From rows, one per cell and round, to cells: medians over rounds, validity, the noise floor; two sweeps compared.

Works on the table that `frame` makes of rows. Statistics only: sentences and figures belong to the report.

Two sweeps are compared cell by cell. Rounds are paired by number, and the logarithm of their ratio has Student's
interval, widened for the number of cells (Bonferroni), because some of many would differ by chance. No difference below
the noise floor of the noisier sweep counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import expm1, isnan
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from imdb_serving.analysis.intervals import CONFIDENCE, Estimate, estimate, estimate_positive, half_width
from imdb_serving.cell import AA_REPEAT, FAILED, FIELDS, GRID, OK, Cell, Row

ENOUGH = 3
"""Valid rounds that a cell needs, or all, where fewer were planned."""

UNSTABLE = 4.5
"""Times the A/A pair's spread that a round may lie off its cell's median before the cell is unstable."""

LEAST_SPREAD = 0.01
"""A pair of few rounds may agree by luck; nobody's rounds agree better than this."""


_OWN = [name for name in Row.__struct_fields__ if name not in {"cell", "figures", "sums_s", "means_us"}]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table: the cell's fields, the row's own, the figures, `<stage>_s` and `<stage>_us`.

    `cell` holds the cells themselves, `why` what is wrong. A stage that a row has not is NaN there.
    """
    return pd.DataFrame([_flat(row) for row in rows])


def _flat(row: Row) -> dict[str, Any]:
    return {
        **{name: getattr(row.cell, name) for name in FIELDS},
        **{name: getattr(row, name) for name in _OWN},
        "cell": row.cell,
        "why": row.why,
        **{name: _number(value) for name, value in msgspec.structs.asdict(row.figures).items()},
        **{f"{name}_s": value for name, value in row.sums_s.items()},
        **{f"{name}_us": value for name, value in row.means_us.items()},
    }


def _number(value: float | None) -> float:
    """Return a figure, NaN for none, so that a column of nothing is a column of numbers still."""
    return float("nan") if value is None else value


def of_series(rows: pd.DataFrame, series: str = GRID) -> pd.DataFrame:
    """Return the rows of one series."""
    return rows[rows["series"] == series].reset_index(drop=True)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have figures, valid or not."""
    return rows[rows["status"] != FAILED]


def valid(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that passed every gate."""
    return rows[rows["status"] == OK]


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a cell that was measured at all: medians over its valid rounds, and the throughput's interval.

    `rounds` counts the valid ones, `valid` tells whether they are enough, `why` what was wrong with the others. A cell
    without a valid round has the medians of the invalid ones.
    """
    table: list[dict[str, Any]] = []
    planned = int(rows["round"].max()) if len(rows) else 0
    for _, own in measured(rows).groupby("key", sort=False):
        sound = valid(own)
        shown = sound if len(sound) else own
        numbers: Any = shown.select_dtypes("number").drop(columns=[*FIELDS, "round"], errors="ignore").median()
        mean, low, high = estimate_positive(shown["throughput"].clip(lower=1e-9))
        reasons = dict.fromkeys(own.loc[own["status"] != OK, "why"])
        table.append(
            {
                **{name: own[name].iloc[0] for name in (*FIELDS, "cell", "key")},
                **numbers,
                "rounds": len(sound),
                "valid": len(sound) >= min(ENOUGH, planned),
                "why": "; ".join(reasons),
                "throughput": mean,
                "throughput_low": low,
                "throughput_high": high,
                "stages": own["stages"].iloc[0],
                "answers": shown["answers"].iloc[0],
            }
        )
    if not table:
        kept = rows.iloc[:0].drop(columns=["round", "status"])
        return kept.assign(rounds=0, valid=False, throughput_low=0.0, throughput_high=0.0).astype({"valid": bool})
    return pd.DataFrame(table)


def aa_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the relative differences of the A/A pair: a row a round and client count, empty without a pair.

    `difference` is the logarithm of the ratio of the two throughputs, measured as two cells of one round would be.
    """
    pairs: dict[tuple[Cell, int], dict[str, float]] = {}
    sound: Any = valid(rows)
    for row in sound.itertuples():
        if row.series in {GRID, AA_REPEAT}:
            pairs.setdefault((row.cell.without("series"), row.round), {})[row.series] = row.throughput
    table = [
        (cell.client_threads, number, float(np.log(two[AA_REPEAT] / two[GRID])))
        for (cell, number), two in pairs.items()
        if len(two) == 2
    ]
    return pd.DataFrame(table, columns=["client_threads", "round", "difference"])


def unstable(rows: pd.DataFrame) -> dict[Hashable, str]:
    """Return the cells whose rounds differ by more than noise and drift explain, by key, each with what was seen.

    A round may be slower as a whole, since machines drift; so each round's common part is taken out first. Then a round
    may lie off its cell's median by `UNSTABLE` times the A/A pair's spread. One round in four may lie further off: of
    three none, of four one.
    """
    spread = aa_differences(rows)["difference"]
    if len(spread) < ENOUGH:
        return {}
    logs: Any = valid(of_series(rows)).pivot_table(index="key", columns="round", values="throughput").map(np.log)
    left = logs.sub(logs.median(axis=1), axis=0)
    left = left.sub(left.median(axis=0), axis=1)
    left = left.sub(left.median(axis=1), axis=0).abs()
    allowed = UNSTABLE * max(float(np.sqrt((spread**2).mean() / 2)), LEAST_SPREAD)
    too_many = (left > allowed).sum(axis=1) > left.notna().sum(axis=1) // 4
    return {
        key: f"a round is {np.expm1(off):.0%} off the cell's others, more than the noise of {np.expm1(allowed):.0%}"
        for key, off in left.max(axis=1)[too_many].items()
    }


def unsettled(rows: pd.DataFrame) -> dict[Hashable, str]:
    """Return the cells of the grid that another round of all may settle, by key, each with why.

    Those are the unstable ones, and those with too few valid rounds, if there is one: what makes every round invalid
    does not pass by itself.
    """
    grid = of_series(rows)
    if grid.empty:
        return {}
    table = cells(grid)
    if table.empty:
        return {}
    passing = table[~table["valid"] & (table["rounds"] > 0)]
    return dict(zip(passing["key"], passing["why"], strict=True)) | unstable(rows)


LEAST_PAIRS = 3
UNKNOWN = 0.05
"""Taken where a sweep has no A/A pair, or one of too few rounds: a guess, and said to be one."""


class Noise(NamedTuple):
    """The A/A pair's mean difference (a share), the noise floor, and the number of pairs.

    The floor is for the mean over the rounds of one cell, and `known` is false where it is a guess.
    """

    difference: float
    floor: float
    pairs: int
    known: bool


def noise_of(rows: pd.DataFrame) -> Noise:
    """Return the noise of a sweep from its A/A pair: the pair's difference, or its interval for a cell's rounds."""
    differences = aa_differences(rows)
    pairs = len(differences)
    if pairs < LEAST_PAIRS:
        return Noise(float("nan"), UNKNOWN, pairs, known=False)
    values = differences["difference"].to_numpy()
    rounds = int(differences["round"].nunique())
    # The spread of a single pair, scaled to the mean of as many as a cell has rounds.
    floor = half_width(values) * np.sqrt(pairs / rounds)
    mean = float(np.mean(values))
    return Noise(float(np.expm1(mean)), float(np.expm1(max(floor, abs(mean)))), pairs, known=True)


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
