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

from imdb_serving.analysis.compare import (
    BETTER,
    LEAST_ROUNDS,
    SAME,
    WORSE,
    Compared,
    Difference,
    compare_rows,
    machine_differences,
    software_differences,
)
from imdb_serving.analysis.intervals import Estimate
from imdb_serving.cell import plural, varying
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import COLOURS, GREY

SAME_OR_BETTER, IS_WORSE, NOT_COMPARABLE, UNSEEN = 0, 1, 2, 3
"""Exit codes of the command; with `UNSEEN` nothing was worse, but a loss that matters could not have been seen."""

LOSS = 0.1
"""The loss of throughput that must be seen, as a share."""

FLOOR = "#e9e9e9"
COLOUR = {SAME: GREY, BETTER: COLOURS[0], WORSE: COLOURS[1]}


class Comparison(NamedTuple):
    """Two sweeps' folders, what they share, why they cannot be compared, if so, and the loss that must be seen."""

    folders: tuple[Path, Path]
    compared: Compared
    machines: list[str]
    software: list[str]
    loss: float

    @property
    def code(self) -> int:
        """The exit code."""
        if self.machines or not self.compared.cells:
            return NOT_COMPARABLE
        if self.compared.worse:
            return IS_WORSE
        return UNSEEN if self.compared.unseen(self.loss) or not self.compared.least <= self.loss else SAME_OR_BETTER


def compare(first: Path, second: Path, loss: float = LOSS) -> Comparison:
    """Read two sweeps and compare what they share; raise `DataError` when a ledger is missing."""
    rows = frames.load(first), frames.load(second)
    cards: list[dict[str, Any]] = []
    for table, folder in zip(rows, (first, second), strict=True):
        own = frames.cards(table, folder)
        cards.append(own[-1] if own else {})
    return Comparison(
        (first, second), compare_rows(*rows), machine_differences(*cards), software_differences(*cards), loss
    )


def text(made: Comparison) -> str:
    """Return the comparison for a terminal: how the sweeps differ, what all cells share, a line a cell, the counts."""
    lines, compared = [f"A {made.folders[0]}", f"B {made.folders[1]}"], made.compared
    if made.machines:
        return "\n".join([*lines, "not comparable: " + "; ".join(made.machines), "measure both on one machine"])
    if not compared.cells:
        return "\n".join([*lines, f"not comparable: no cell that both have with {LEAST_ROUNDS} valid rounds"])
    lines.append(f"different: {'; '.join(made.software) or 'nothing that is known'}")
    lines.append(f"all cells together: {_change(compared.shift)}, {compared.called}")
    lines += [f"  {name:<58}{_change(one.change):>26}  {one.called}" for name, one in _named(compared.cells)]
    counts = {called: sum(one.called == called for one in compared.cells) for called in (WORSE, BETTER, SAME)}
    lines.append(", ".join(f"{plural(count, 'cell')} {called}" for called, count in counts.items() if count))
    if compared.unstable:
        lines.append(f"not compared: {plural(len(compared.unstable), 'cell')} unstable in A or B (see their reports)")
    return "\n".join([*lines, *_least(made)])


def _least(made: Comparison) -> list[str]:
    """Say what loss could have been seen, and what to do where that is more than must be."""
    compared, loss = made.compared, f"{made.loss:.0%}"
    leasts = sorted(one.least for one in compared.cells)
    of_one = f"{leasts[0]:.1%}" if f"{leasts[0]:.1%}" == f"{leasts[-1]:.1%}" else f"{leasts[0]:.1%} to {leasts[-1]:.1%}"
    lines = [
        f"a loss of {compared.least:.1%} of all cells together could have been seen, of a single cell {of_one} "
        f"(in four of five cases; noise floor {compared.floor:.1%})"
    ]
    unseen = compared.unseen(made.loss)
    if unseen:
        lines.append(f"a loss of {loss} could not have been seen in {plural(unseen, 'cell')} of {len(compared.cells)}")
    if not compared.least <= made.loss:
        lines.append(f"a loss of {loss} of all cells together could not have been seen")
    return [*lines, "measure more rounds of both (--rounds), or on a quieter machine"] if len(lines) > 1 else lines


def _change(change: Estimate) -> str:
    return f"{change.mean:+.1%} ({change.low:+.1%} to {change.high:+.1%})"


def _named(found: Sequence[Difference]) -> list[tuple[str, Difference]]:
    """Return the differences with their cells' names: the fields in which cells differ."""
    fields = {"mode", "server", "engine", "server_threads", "client_threads", *varying([one.cell for one in found])}
    return [(one.cell.label(fields), one) for one in found]


def changes(made: Comparison) -> Charts:
    """Return each cell's change with its interval, the noise floor as a band: what lies within is no difference."""
    compared, floor = made.compared, made.compared.floor
    named = [(name, one.change, one.called) for name, one in _named(compared.cells)]
    named = [("all cells together", compared.shift, compared.called), *named]
    title = f"A {made.folders[0].name} · B {made.folders[1].name}"
    handles = [Line2D([], [], color=colour, marker="o", label=called) for called, colour in COLOUR.items()]
    key = Legend(handles, [(f"noise floor of a cell, {floor:.1%}", FLOOR)])
    return Charts([Chart(title, partial(_changes, named, floor), (9.6, 1.0 + 0.26 * len(named)))], key)


def _changes(named: list[tuple[str, Estimate, str]], floor: float, sheet: Sheet) -> None:
    axes = sheet.axes
    axes.axvspan(1 / (1 + floor) - 1, floor, color=FLOOR, lw=0)
    axes.axvline(0, color="#666666", lw=0.9)
    for place, (_, change, called) in enumerate(named):
        axes.plot([change.low, change.high], [place, place], color=COLOUR[called], lw=1.8)
        axes.plot(change.mean, place, "o", color=COLOUR[called], ms=6)
    axes.set_yticks(np.arange(len(named)), [name for name, _, _ in named])
    axes.axhline(0.5, color="#666666", lw=0.5)
    axes.set_ylim(len(named) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("change of throughput from A to B")
    axes.grid(visible=False, axis="y")


def table(made: Comparison) -> pd.DataFrame:
    """Return the comparison as a table, a row a cell."""
    return pd.DataFrame(
        [(name, *one.change, one.rounds, one.called) for name, one in _named(made.compared.cells)],
        columns=["cell", "change", "low", "high", "rounds", "called"],
    )
