"""Two sweeps beside each other, in words and in one chart. Knows the analysis of pairs; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from imdb_serving.analysis.cells import (
    BETTER,
    SAME,
    WORSE,
    Difference,
    Noise,
    differences,
    machine_differences,
    noise_of,
    software_differences,
)
from imdb_serving.cell import plural, varying
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import COLOURS, GREY

SAME_OR_BETTER, IS_WORSE, NOT_COMPARABLE = 0, 1, 2
"""Exit codes of the command."""

FLOOR = "#e9e9e9"
COLOUR = {SAME: GREY, BETTER: COLOURS[0], WORSE: COLOURS[1]}


class Comparison(NamedTuple):
    """Two sweeps' folders, the cells they share, and why they cannot be compared, if so."""

    folders: tuple[Path, Path]
    found: list[Difference]
    noise: tuple[Noise, Noise]
    machines: list[str]
    software: list[str]

    @property
    def code(self) -> int:
        """The exit code."""
        if self.machines or not self.found:
            return NOT_COMPARABLE
        return IS_WORSE if any(one.called == WORSE for one in self.found) else SAME_OR_BETTER


def compare(first: Path, second: Path) -> Comparison:
    """Read two sweeps and compare what they share; raise `DataError` when a ledger is missing."""
    rows = frames.load(first), frames.load(second)
    cards: list[dict[str, Any]] = []
    for table, folder in zip(rows, (first, second), strict=True):
        own = frames.cards(table, folder)
        cards.append(own[-1] if own else {})
    noise = noise_of(rows[0]), noise_of(rows[1])
    return Comparison(
        (first, second),
        differences(*rows, noise),
        noise,
        machine_differences(*cards),
        software_differences(*cards),
    )


def text(made: Comparison) -> str:
    """Return the comparison for a terminal: how the sweeps differ, a line a cell, and the counts."""
    lines = [f"A {made.folders[0]}", f"B {made.folders[1]}"]
    if made.machines:
        return "\n".join([*lines, "not comparable: " + "; ".join(made.machines), "measure both on one machine"])
    if not made.found:
        return "\n".join([*lines, "not comparable: no cell that both have with two valid rounds"])
    lines.append(f"different: {'; '.join(made.software) or 'nothing that is known'}")
    floor = max(one.floor for one in made.noise)
    lines.append(f"noise floor {floor:.1%}; intervals are wide enough for {plural(len(made.found), 'cell')} together")
    lines += [f"  {name:<58}{_change(one):>26}  {one.called}" for name, one in _named(made.found)]
    counts = {called: sum(one.called == called for one in made.found) for called in (WORSE, BETTER, SAME)}
    lines.append(", ".join(f"{plural(count, 'cell')} {called}" for called, count in counts.items() if count))
    return "\n".join(lines)


def _change(one: Difference) -> str:
    return f"{one.change.mean:+.1%} ({one.change.low:+.1%} to {one.change.high:+.1%})"


def _named(found: Sequence[Difference]) -> list[tuple[str, Difference]]:
    """Return the differences with their cells' names: the fields in which cells differ."""
    fields = {"mode", "engine", "server_threads", "client_threads", *varying([one.cell for one in found])}
    return [(one.cell.label(fields), one) for one in found]


def changes(made: Comparison) -> Charts:
    """Return each cell's change with its interval, the noise floor as a band: what lies within is no difference."""
    named, floor = _named(made.found), max(one.floor for one in made.noise)
    title = f"A {made.folders[0].name} · B {made.folders[1].name}"
    handles = [Line2D([], [], color=colour, marker="o", label=called) for called, colour in COLOUR.items()]
    key = Legend(handles, [(f"noise floor, {floor:.1%}", FLOOR)])
    return Charts([Chart(title, partial(_changes, named, floor), (9.6, 1.2 + 0.3 * len(named)))], key)


def _changes(named: list[tuple[str, Difference]], floor: float, sheet: Sheet) -> None:
    axes = sheet.axes
    axes.axvspan(-floor, floor, color=FLOOR, lw=0)
    axes.axvline(0, color="#666666", lw=0.9)
    for place, (_, one) in enumerate(named):
        axes.plot([one.change.low, one.change.high], [place, place], color=COLOUR[one.called], lw=1.8)
        axes.plot(one.change.mean, place, "o", color=COLOUR[one.called], ms=6)
    axes.set_yticks(np.arange(len(named)), [name for name, _ in named])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("change of throughput from A to B")
    axes.grid(visible=False, axis="y")


def table(made: Comparison) -> pd.DataFrame:
    """Return the comparison as a table, a row a cell."""
    return pd.DataFrame(
        [(name, *one.change, one.rounds, one.called) for name, one in _named(made.found)],
        columns=["cell", "change", "low", "high", "rounds", "called"],
    )
