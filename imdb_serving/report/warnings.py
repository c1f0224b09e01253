"""Warnings about a sweep, a line each with its cause. Works on rows and cells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from imdb_serving.analysis.cells import Noise
from imdb_serving.cell import FAILED, INVALID, LOCAL_MODES, plural
from imdb_serving.report import frames

CLIENTS_CPU = 0.5
LOADED = 0.5


def warnings_of(rows: pd.DataFrame, cells: pd.DataFrame, noise: Noise, cores: int, folder: Path) -> list[str]:
    """Return all warnings, the gravest first."""
    return [
        *_gates(rows),
        *_unstable(cells),
        *_noise(noise),
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


def _unstable(cells: pd.DataFrame) -> list[str]:
    found: Any = cells[cells["why"].str.contains("off the cell's others")]
    if found.empty:
        return []
    first = next(found.itertuples())
    return [
        f"{plural(len(found), 'cell')} unstable ({first.line}, {first.panel or first.engine}, {first.server_threads} x "
        f"{first.client_threads}: {first.why.split('; ')[-1]}): measure another round of all cells (--rounds)"
    ]


def _noise(noise: Noise) -> list[str]:
    if not noise.known:
        return [
            f"the noise is a guess ({noise.floor:.0%}): {plural(noise.pairs, 'A/A pair')} of 3 needed were measured"
        ]
    return []


def _clients(cells: pd.DataFrame) -> list[str]:
    """Warn when the clients took most of the CPU: then the load generator was measured as much as the server."""
    served = cells[~cells["mode"].isin(LOCAL_MODES)]
    share = served["client_cpu_us"] / (served["client_cpu_us"] + served["server_cpu_us"])
    if share.empty or not share.max() > CLIENTS_CPU:
        return []
    worst: Any = served.iloc[int(share.to_numpy().argmax())]
    return [
        f"clients used {share.max():.0%} of the CPU ({worst['line']}, {worst['panel'] or worst['engine']}, "
        f"{worst['server_threads']} x {worst['client_threads']}): you measured the client as well"
    ]


def _load(rows: pd.DataFrame, cores: int) -> list[str]:
    """Warn when the machine was busy before the first cell."""
    first = rows.sort_values("began")["load_before"].dropna()
    if first.empty or first.iloc[0] <= LOADED * cores:
        return []
    return [f"the load was {first.iloc[0]:.1f} before the first cell: something else was at work"]
