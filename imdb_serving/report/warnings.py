"""Warnings about a sweep, a line each with its cause. Works on rows and cells."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from imdb_serving.analysis.aa_pair import NOISIER, Pair
from imdb_serving.analysis.noise import Noise
from imdb_serving.cell import FAILED, INVALID, listed, plural
from imdb_serving.experiment.plan import NOT_SERVED
from imdb_serving.report import frames

NAMED = 3
CLIENTS_CPU = 0.5
DRIFTED = 0.02
LOADED = 0.5


def warnings_of(
    rows: pd.DataFrame, cells: pd.DataFrame, noise: Noise, pair: Pair, cores: float, folder: Path
) -> list[str]:
    """Return all warnings, the gravest first."""
    return [
        *_gates(rows),
        *_unstable(cells, noise),
        *_set_aside(cells, noise),
        *_noise(noise),
        *_pair(pair),
        *_drift(noise),
        *_clients(cells),
        *_load(rows, cores),
        *frames.skipped_lines(folder),
    ]


def _gates(rows: pd.DataFrame) -> list[str]:
    """Count the rounds of cells that failed, or did not pass a gate, by its name, with the first of each."""
    lines = []
    if failed := int((rows["status"] == FAILED).sum()):
        first = rows.loc[rows["status"] == FAILED, "why"].iloc[0]
        lines.append(f"{plural(failed, 'measurement')} failed, the first: {first}")
    bad: Any = rows[rows["status"] == INVALID]
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in bad.itertuples():
        for finding in row.findings:
            counts[finding.gate] += 1
            examples.setdefault(finding.gate, str(finding))
    return lines + [
        f"{plural(count, 'measurement')} cannot be believed; {examples[gate]}" for gate, count in counts.most_common()
    ]


def _unstable(cells: pd.DataFrame, noise: Noise) -> list[str]:
    found: Any = cells[cells["key"].isin(list(noise.unstable))]
    lines = [f"unstable: {_name(one)}: {noise.unstable[one.key]}" for one in found[:NAMED].itertuples()]
    if len(found) > NAMED:
        lines.append(f"{plural(len(found) - NAMED, 'more cell')} unstable")
    return [*lines, "measure another round of all cells (--rounds)"] if lines else []


def _set_aside(cells: pd.DataFrame, noise: Noise) -> list[str]:
    """Name the rounds that lie off their cell's others, which are not used."""
    found: Any = cells[cells["key"].isin(list(noise.set_aside))]
    names = [f"{_name(one)} (round {listed(map(str, noise.set_aside[one.key]))})" for one in found[:NAMED].itertuples()]
    more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return [f"outliers, rounds far off their cells' others, are set aside: {listed([*names, *more])}"] if names else []


def _name(cell: Any) -> str:
    counts = f"{cell.server_threads} x {cell.client_threads}"
    return ", ".join(filter(None, [cell.line, cell.panel or cell.engine, counts]))


def _noise(noise: Noise) -> list[str]:
    if not noise.known and len(noise.keys):
        return ["the noise is not known: no cell has two valid rounds"]
    return []


def _pair(pair: Pair) -> list[str]:
    if not pair.check:
        return []
    why = "its servers may have been disturbed" if pair.check == NOISIER else "the cells' rounds differ by more"
    return [f"the A/A pair is {pair.check} than the cells' own noise: {why}; the cells' noise is what is used"]


def _drift(noise: Noise) -> list[str]:
    """Warn when rounds lay off each other as a whole: rates are of these rounds, differences within them are not."""
    effects = list(noise.effects.values())
    if not noise.known or not noise.drift.value or not effects or max(effects) - min(effects) < DRIFTED:
        return []
    off = math.expm1(max(effects) - min(effects))
    return [
        f"rounds differ by {off:.0%} as a whole: the machine drifted. What a cell gives at another time may lie "
        "outside its interval; comparisons of cells are within a round, and hold"
    ]


def _clients(cells: pd.DataFrame) -> list[str]:
    """Warn when the clients took most of the CPU: then the load generator was measured as much as the server."""
    served = cells[~cells["mode"].isin(NOT_SERVED)]
    share = served["client_cpu_us"] / (served["client_cpu_us"] + served["server_cpu_us"])
    if share.empty or not share.max() > CLIENTS_CPU:
        return []
    worst: Any = served.iloc[int(share.to_numpy().argmax())]
    return [f"clients used {share.max():.0%} of the CPU ({_name(worst)}): you measured the client as well"]


def _load(rows: pd.DataFrame, cores: float) -> list[str]:
    """Warn when the machine was busy before the first cell."""
    first = rows.sort_values("began")["load_before"].dropna()
    if first.empty or first.iloc[0] <= LOADED * cores:
        return []
    return [f"the load was {first.iloc[0]:.1f} before the first cell: something else was at work"]
