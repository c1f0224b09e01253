"""From a sweep's folder to the tables that everything shown is made of. Reads the ledger; draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imdb_serving.analysis import cells as analysis
from imdb_serving.analysis.cells import frame
from imdb_serving.analysis.noise import Noise, noise_of
from imdb_serving.cell import CLOSED, GRID, LOCAL_MODES, Cell, Row, common, listed, plural, varying
from imdb_serving.engines.registry import ENGINES
from imdb_serving.errors import DataError
from imdb_serving.experiment.plan import NOT_SERVED, read_plan
from imdb_serving.measurement.environment import Card, cores_of, most_cores, read_card
from imdb_serving.measurement.ledger import Ledger, newest
from imdb_serving.measurement.parameters.checks import GRID_MODES

PANEL = ("engine", "net", "model", "math_threads", "service", "pipeline", "batch", "samples")
LINE = (
    *("mode", "server", "client_kind", "prepro", "arrivals", "rate", "worker_kind", "server_processes", "endpoint"),
    *("placement", "server_nodes", "client_nodes"),
)
"""What a panel of a figure stands for, and what a line in it; colours are server threads, across are clients."""

FOLLOWS = {"worker_kind", "prepro", "endpoint", "net", "model", "service"}
"""What mostly follows from mode and engine: it is told only where it does not."""


INTERVAL = ["throughput", "throughput_low", "throughput_high"]


def rows_of(folder: Path) -> list[Row]:
    """Return the rows of a sweep's newest run, each cell and round once, without cells that its plan no longer has.

    Raises `DataError` when there is none.
    """
    ledger, plan = Ledger(folder), read_plan(folder)
    if plan is None:
        return ledger.latest_run()
    rows = [row for row in newest(ledger.read().rows) if row.run == plan.run]
    kept = [row for row in rows if row.cell.series != GRID or (row.key in plan.keys and row.round <= plan.rounds)]
    if not kept:
        raise DataError(f"{ledger.path} holds no row of run {plan.run}; run the sweep again")
    return kept


def skipped_lines(folder: Path) -> list[str]:
    """Return in words every line of the ledger that could not be used."""
    ledger = Ledger(folder)
    return ledger.read().skipped if ledger.path.is_file() else []


def load(folder: Path) -> pd.DataFrame:
    """Return the rows of a sweep's newest run, all series, failed cells included, in order, with names for figures."""
    return named(frame(rows_of(folder)))


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in order, with the names of their line, panel, and setup: the panel's less its math threads.

    Line and panel say all in which the cells of the grid differ beside server threads and clients, so that no two of
    them are averaged together or drawn as one. `threads` is 0 for what has no server: there each client runs the engine
    itself.
    """
    told = _told([cell for cell in rows["cell"] if cell.series == GRID])
    rows = rows.assign(
        line=[cell.label({"mode", "server", *told} & set(LINE)) for cell in rows["cell"]],
        panel=[cell.label(told & set(PANEL)) for cell in rows["cell"]],
        setup=[cell.label((told & set(PANEL)) - {"math_threads"}) for cell in rows["cell"]],
        threads=[0 if cell.mode in LOCAL_MODES else cell.server_threads for cell in rows["cell"]],
    )
    places = sorted(range(len(rows)), key=lambda place: (_rank(rows["cell"].iloc[place]), rows["round"].iloc[place]))
    return rows.iloc[places].reset_index(drop=True)


def _told(cells: Sequence[Cell]) -> set[str]:
    """Return the fields that cells differ in, thread counts aside, and that do not follow from mode and engine."""
    told = set(varying(cells)) - {"series", "server_threads", "client_threads"}
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.mode, cell.engine), []).append(cell)
    within = {name for group in groups.values() for name in varying(group)}
    return {name for name in told if name not in FOLLOWS or name in within}


def _rank(cell: Cell) -> tuple[Any, ...]:
    """Return where a cell stands among the others: modes as `GRID_MODES` has them, engines as their table."""
    modes, engines = list(GRID_MODES), list(ENGINES)
    return (
        modes.index(cell.mode) if cell.mode in modes else len(modes),
        *(str(getattr(cell, name)) for name in ("server", "client_kind", "arrivals")),
        engines.index(cell.engine) if cell.engine in engines else len(engines),
        *(str(getattr(cell, name)) for name in ("net", "model", "pipeline", "service", "worker_kind", "endpoint")),
        *(cell.math_threads, cell.batch, cell.samples, cell.rate, cell.placement, cell.server_nodes, cell.client_nodes),
        cell.server_processes,
        *(cell.server_threads, cell.client_threads),
    )


def grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the grid's rows of closed loops; of all series where there is no grid, as in the pair's own notebook."""
    chosen = analysis.of_series(rows)
    chosen = chosen if len(chosen) else rows
    return chosen[chosen["arrivals"] == CLOSED]


def of_one_sort(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the grid's rows of closed loops; where there are none, those of open loops."""
    closed = grid(rows)
    return closed if len(closed) else open_loops(rows)


def open_loops(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the grid's rows of open loops, which answer another question and stand in no plot with closed ones."""
    chosen = analysis.of_series(rows)
    return chosen[chosen["arrivals"] != CLOSED]


def cells(rows: pd.DataFrame, noise: Noise | None = None) -> pd.DataFrame:
    """Return one row a closed-loop cell of the grid that was measured, in order; the table may be empty.

    `throughput` of a steady cell is without the effects of its rounds, its interval from the noise of all cells.
    """
    chosen = grid(rows)
    table = analysis.cells(chosen)
    noise = noise_of(chosen) if noise is None else noise
    steady = {key: noise.interval(place) for place, key in enumerate(noise.keys) if key not in noise.unstable}
    found = [steady.get(key, old) for key, *old in table[["key", *INTERVAL]].itertuples(index=False)]
    table[INTERVAL] = np.array(found, dtype=float).reshape(-1, len(INTERVAL))
    pairs = zip(table["key"], table["why"], strict=True)
    reasons = ["; ".join(filter(None, [why, noise.unstable.get(key, "")])) for key, why in pairs]
    table["why"] = pd.Series(reasons, table.index, dtype=object)
    table["valid"] &= ~table["key"].isin(list(noise.unstable))
    names = ["line", "panel", "setup", "threads"]
    return table.drop(columns=names, errors="ignore").merge(chosen.drop_duplicates("key")[["key", *names]], on="key")


MOST_CURVES = 24
"""More curves than these cannot be told apart in charts."""


def charted(cells: pd.DataFrame, beside: int = 1) -> pd.DataFrame:
    """Return the cells of the curves that charts draw: all, or those of the best server counts and some `beside` them.

    The best of a line and panel is that of the highest throughput; so many fewer and more are drawn with it.
    """
    curves = cells.drop_duplicates(["line", "panel", "threads"])
    if len(curves) <= MOST_CURVES:
        return cells
    kept = []
    for _, own in cells.groupby(["line", "panel"], sort=False):
        counts = sorted(own["threads"].unique())
        place = counts.index(own.sort_values("throughput")["threads"].iloc[-1])
        kept.append(own[own["threads"].isin(counts[max(place - beside, 0) : place + beside + 1])])
    return cells[cells["key"].isin(pd.concat(kept)["key"])]


def left_out(cells: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Say that not all curves are shown; empty where they are."""
    if len(shown) == len(cells):
        return ""
    count = len(shown.drop_duplicates(["line", "panel", "threads"]))
    total = len(cells.drop_duplicates(["line", "panel", "threads"]))
    return (
        f"{count} of {total} curves: of each mode and engine the server threads that gave most, with the next fewer "
        "and the next more. The heat maps and `cells.csv` have all."
    )


def lines(rows: pd.DataFrame) -> list[str]:
    """Return the names of the lines, in order."""
    return list(dict.fromkeys(grid(rows)["line"]))


def panels(rows: pd.DataFrame) -> list[str]:
    """Return the names of the panels, in order; engines in the order of their table."""
    first = rows.drop_duplicates("panel")
    order = sorted(zip(first["cell"], first["panel"], strict=True), key=lambda pair: _rank(pair[0])[3:-2])
    return list(dict.fromkeys(panel for _, panel in order))


def setting(rows: pd.DataFrame) -> str:
    """Return in words what varies between the cells, and what all have in common."""
    return ", ".join(settings(rows))


def settings(rows: pd.DataFrame) -> tuple[str, str]:
    """Return in words what varies between the cells, and what all have in common, apart."""
    chosen = of_one_sort(rows)
    some = list(chosen["cell"])
    modes = listed(dict.fromkeys(cell.mode for cell in some))
    names = list(dict.fromkeys(chosen.set_index("panel").loc[panels(chosen), "setup"]))
    varied = f"; {listed(names)}" if len(names) > 1 else ""
    if len(math := sorted({cell.math_threads for cell in some})) > 1:
        varied += f"; {listed(map(str, math))} math threads"
    alike = common(some, without=("mode", "series", "server_threads", "client_threads", *FOLLOWS - {"net", "service"}))
    rounds = plural(int(chosen["round"].nunique()), "round")
    return f"{modes}{varied}", f"{alike}{', ' if alike else ''}{rounds}"


def of_series(folder: Path, series: str) -> pd.DataFrame:
    """Return the rows of a series in the newest run of a ledger; raise `DataError` when there is none."""
    rows = [row for row in Ledger(folder).latest_run() if row.cell.series == series]
    if not rows:
        raise DataError(f"{folder} has no rows of the series {series}; measure again")
    return frame(rows)


def cards(rows: pd.DataFrame, folder: Path) -> list[Card]:
    """Return the environment cards under which these rows were measured; those that are gone are left out."""
    return [card for name in card_names(rows) if (card := read_card(folder, name))]


def card_names(rows: pd.DataFrame) -> list[str]:
    """Return the ids of the cards that these rows name, each once."""
    return [str(name) for name in dict.fromkeys([*rows["card"], *rows.get("client_card", [])]) if name]


def cores(rows: pd.DataFrame, folder: Path) -> float:
    """Return how many cores the machine that measured allowed, quota of CPU time counted; 1 without a card."""
    return most_cores(folder, card_names(rows))


def wake_up_us(rows: pd.DataFrame, folder: Path) -> float:
    """Return what waking an idle core costs on the machine that measured, in microseconds; 0 where unknown."""
    return max((float(card.get("wake_up_us") or 0.0) for card in cards(rows, folder)), default=0.0)


def machine_note(rows: pd.DataFrame, folder: Path) -> str:
    """Return the words a title needs when clients and server shared the cores of a machine, or where else they were."""
    counts = [cores_of(card) for card in cards(rows, folder)]
    places = {cell.client_nodes > 0 for cell in of_one_sort(rows)["cell"]}
    apart = f"clients and servers on different nodes of {_any_of(counts)} cores" if counts else ""
    together = f"{sharing(counts)}{clients_took(of_one_sort(rows))}" if counts else ""
    return "; ".join([*([together] if False in places else []), *([apart] if True in places else [])])


def clients_took(rows: pd.DataFrame) -> str:
    """Return in words which share of the CPU time that cells took was the clients'; empty where it is not known."""
    served = rows[~rows["mode"].isin(NOT_SERVED) & rows["server_cpu_us"].gt(0)]
    shares = (served["client_cpu_us"] / (served["client_cpu_us"] + served["server_cpu_us"])).groupby(served["key"])
    found = shares.median().dropna()
    if found.empty:
        return ""
    low, high = f"{found.min():.0%}", f"{found.max():.0%}"
    return f", of whose time clients took {low if low == high else f'{low} to {high}'}"


def sharing(cores: Iterable[float]) -> str:
    """Return in words how many cores clients and server shared."""
    counts = list(cores)
    return f"clients and server share {_any_of(counts)} cores" if counts else ""


def _any_of(counts: Iterable[float]) -> str:
    return " or ".join(f"{count:g}" for count in sorted(set(counts)))
