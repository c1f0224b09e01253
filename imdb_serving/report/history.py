"""The same cells over many sweeps: where they changed, by the test that compares two sweeps, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from imdb_serving.analysis.compare import SAME, WORSE, compare_rows, machine_differences, software_differences
from imdb_serving.analysis.intervals import Estimate
from imdb_serving.cell import Cell, varying
from imdb_serving.errors import DataError
from imdb_serving.report import frames
from imdb_serving.report.chart import Chart, Charts, Legend, Sheet
from imdb_serving.report.style import COLOURS, GREY

ALL = "all cells together"
MOST_NAMED = len(COLOURS)
"""So many cells have a colour and a name of their own; others that changed are in the table alone."""


class Sweep(NamedTuple):
    """A sweep in the order of time: its folder, rows and machine."""

    folder: Path
    rows: pd.DataFrame
    card: dict[str, Any]

    @property
    def began(self) -> str:
        """When its first cell was measured, to the minute."""
        return str(self.rows["began"].min())[:16].replace("T", " ")


class Change(NamedTuple):
    """What changed at a sweep against the one since which nothing had: a cell's name, by how much, and what differs."""

    sweep: int
    since: int
    name: str
    change: Estimate
    called: str
    software: tuple[str, ...]


class History(NamedTuple):
    """Sweeps in order, each cell's throughput in each, what changed, and why sweeps cannot be compared."""

    sweeps: list[Sweep]
    throughput: dict[str, list[float]]
    changes: list[Change]
    apart: dict[int, str]


def history(folders: Sequence[Path]) -> History:
    """Read sweeps and find where cells changed; raise `DataError` for fewer than two, or one without a ledger.

    Each sweep is compared with the one since which nothing changed, so that a slow drift is seen as well. What was
    measured on another machine begins anew.
    """
    sweeps = sorted((_sweep(folder) for folder in dict.fromkeys(one.resolve() for one in folders)), key=_time)
    if len(sweeps) < 2:
        raise DataError("a history needs two sweeps or more; name their folders")
    cells = list(dict.fromkeys(cell for sweep in sweeps for cell in sweep.rows["cell"] if cell.series == "grid"))
    fields = {"mode", "server", "engine", "server_threads", "client_threads", *varying(cells)} - {"series"}
    changes, apart, base = list[Change](), dict[int, str](), 0
    for place in range(1, len(sweeps)):
        machines = machine_differences(sweeps[base].card, sweeps[place].card)
        found = [] if machines else list(_changes(sweeps, base, place, fields))
        if machines:
            apart[place] = "; ".join(machines)
        if machines or found:
            base = place
        changes += found
    levels = {cell.label(fields): [_throughput(sweep, cell) for sweep in sweeps] for cell in cells}
    return History(sweeps, levels, changes, apart)


def _sweep(folder: Path) -> Sweep:
    rows = frames.load(folder)
    cards = frames.cards(rows, folder)
    return Sweep(folder, rows, cards[-1] if cards else {})


def _time(sweep: Sweep) -> str:
    return str(sweep.rows["began"].min())


def _changes(sweeps: Sequence[Sweep], base: int, place: int, fields: set[str]) -> list[Change]:
    compared = compare_rows(sweeps[base].rows, sweeps[place].rows)
    software = tuple(software_differences(sweeps[base].card, sweeps[place].card))
    told = [(ALL, compared.shift, compared.called)] if compared.cells else []
    told += [(one.cell.label(fields), one.change, one.called) for one in compared.cells]
    return [Change(place, base, name, change, called, software) for name, change, called in told if called != SAME]


def _throughput(sweep: Sweep, cell: Cell) -> float:
    own = sweep.rows[(sweep.rows["cell"] == cell) & (sweep.rows["status"] == "ok")]
    return float(np.exp(np.log(own["throughput"]).mean())) if len(own) else float("nan")


def text(made: History) -> str:
    """Return the history for a terminal: the sweeps, and a line for each change."""
    lines = [f"{place + 1:>3}  {sweep.began}  {sweep.folder}" for place, sweep in enumerate(made.sweeps)]
    for place, why in made.apart.items():
        lines.append(f"sweep {place + 1} is from another machine ({why}), and compared with none before")
    for place in sorted({change.sweep for change in made.changes}):
        own = [change for change in made.changes if change.sweep == place]
        different = "; ".join(own[0].software) or "nothing that is known"
        lines.append(f"changed at sweep {place + 1}, against sweep {own[0].since + 1} (different: {different}):")
        lines += [f"  {one.name:<58}{_words(one.change):>26}  {one.called}" for one in own]
    if not made.changes:
        lines.append("nothing changed that can be told from noise (95 %)")
    return "\n".join(lines)


def _words(change: Estimate) -> str:
    return f"{change.mean:+.1%} ({change.low:+.1%} to {change.high:+.1%})"


def table(made: History) -> pd.DataFrame:
    """Return the throughput of each cell (samples/s) in each sweep, a row a cell, and at which sweeps it changed."""
    found = pd.DataFrame(made.throughput, index=[sweep.folder.name for sweep in made.sweeps]).T
    found.insert(0, "cell", found.index)
    at = {name: ", ".join(str(one.sweep + 1) for one in made.changes if one.name == name) for name in found["cell"]}
    return found.assign(changed_at=[at[name] for name in found["cell"]]).reset_index(drop=True)


def charts(made: History) -> Charts:
    """Return each cell's throughput over the sweeps, as a share of its first; what changed has a colour and a mark."""
    changed = list(dict.fromkeys(change.name for change in made.changes if change.name != ALL))[:MOST_NAMED]
    handles = [Line2D([], [], color=COLOURS[place], label=name) for place, name in enumerate(changed)]
    handles.append(Line2D([], [], color=GREY, label="every other cell"))
    marks = {"^": "shown to be better", "v": "shown to be worse"}
    handles += [Line2D([], [], color="#444444", ls="", marker=mark, label=words) for mark, words in marks.items()]
    width = max(6.4, 1.2 + 1.1 * len(made.sweeps))
    return Charts([Chart("", partial(_draw, made, changed), (width, 4.2))], Legend(handles))


def _draw(made: History, changed: Sequence[str], sheet: Sheet) -> None:
    axes, places = sheet.axes, np.arange(len(made.sweeps))
    for name, levels in sorted(made.throughput.items(), key=lambda item: item[0] in changed):
        known = [level for level in levels if np.isfinite(level)]
        shares = np.array(levels) / known[0] - 1 if known else np.full(len(levels), np.nan)
        is_named = name in changed
        colour = COLOURS[changed.index(name)] if is_named else GREY
        axes.plot(places, shares, color=colour, lw=1.8 if is_named else 0.8, alpha=1.0 if is_named else 0.5)
        for one in made.changes:
            if one.name == name and is_named:
                axes.plot(one.sweep, shares[one.sweep], "v" if one.called == WORSE else "^", color=colour, ms=8)
    for place in sorted({one.sweep for one in made.changes} | set(made.apart)):
        axes.axvline(place, color="#666666", lw=0.8, ls=":")
    axes.axhline(0, color="#666666", lw=0.9)
    names = [f"{place + 1}\n{sweep.folder.name[:16]}\n{sweep.began[:10]}" for place, sweep in enumerate(made.sweeps)]
    axes.set_xticks(places, names)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("change of throughput since the first sweep")
