"""What a sweep is to measure: the shuffled grid runs of its rounds, and the file that says which cells they are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from imdb_serving.cell import AA_REPEAT, ECHO_MODES, GRID, LOCAL_MODES, Cell, Row
from imdb_serving.config import whole_file
from imdb_serving.engines.registry import ENGINES
from imdb_serving.errors import DataError
from imdb_serving.measurement.parameters import GridParams, SweepParams

FILE = "plan.json"
COUNTS = ("server_threads", "client_threads")
NOT_SERVED = (*LOCAL_MODES, *ECHO_MODES)
PAIR_CLIENTS = 2
"""Of the A/A pair's second in a round of a search, at most."""


class Plan(msgspec.Struct, frozen=True):
    """What a sweep is to measure: the run's name, the rounds, the key of every cell, and the file that says so.

    `spent_s` are the seconds that its grid runs have taken so far, `select` is what a cell is chosen by. A search has
    `looks` rounds at most, and `searched` are the keys of the cells of each so far.
    """

    run: str
    rounds: int
    keys: dict[str, Cell]
    file: str = "FILE"
    spent_s: float = 0.0
    select: str = "throughput"
    looks: int = 0
    searched: list[list[str]] = []

    def measuring(self, rows: Sequence[Row]) -> float | None:
        """Return the share of `spent_s` in which cells of this run's rows were measured; None where it is not known."""
        windows = sum(row.figures.wall_s for row in rows if row.cell.series in (GRID, AA_REPEAT))
        return windows / self.spent_s if self.spent_s else None


def plan(params: SweepParams, sweep: str, run: str, outputs: Path) -> list[GridParams]:
    """Return the grid runs of a sweep's rounds, in order."""
    rounds = planned_rounds(params, sweep, run, outputs)
    return [one for _, runs in zip(range(params.rounds), rounds, strict=False) for one in runs]


def planned_rounds(params: SweepParams, sweep: str, run: str, outputs: Path) -> Iterator[list[GridParams]]:
    """Yield the grid runs of each round without end: one pass over all modes and server-thread counts, shuffled."""
    generator = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    grids = params.every_grid()
    for number in itertools.count(1):
        one_round = [part.grid(axes, number, sweep, run, outputs) for part, axes in grids]
        if params.twin and (repeat := aa_repeat_of(one_round)):
            one_round.append(repeat)
        yield generator.sample(one_round, len(one_round))


def aa_repeat_of(runs: Sequence[GridParams]) -> GridParams | None:
    """Return the second of the A/A pair: the grid run of the first mode and its middle server count, once more.

    None when nothing is served.
    """
    served = [run for run in runs if run.mode not in NOT_SERVED]
    if not served:
        return None
    alike = [run for run in served if run.cells()[0].without(*COUNTS) == served[0].cells()[0].without(*COUNTS)]
    middle = sorted(alike, key=lambda run: run.server_threads)[(len(alike) - 1) // 2]
    return msgspec.structs.replace(middle, series=AA_REPEAT)


def searched_round(runs: Sequence[GridParams], counts: Callable[[GridParams], Collection[int]]) -> list[GridParams]:
    """Return the runs of a round of a search: of each some client counts, and an A/A pair where there was one.

    The pair's second is of two client counts at most.
    """
    whole = [run for run in runs if run.series != AA_REPEAT]
    wanted = [(run, [count for count in run.client_threads if count in counts(run)]) for run in whole]
    some = [msgspec.structs.replace(run, client_threads=those) for run, those in wanted if those]
    if len(whole) < len(runs) and (repeat := aa_repeat_of(some)):
        repeat = msgspec.structs.replace(repeat, client_threads=repeat.client_threads[-PAIR_CLIENTS:])
        place = random.Random(f"{repeat.seed}/{repeat.round}").randrange(len(some) + 1)  # noqa: S311 - an order
        some.insert(place, repeat)
    return some


def may_be_chosen(cells: Sequence[Cell]) -> list[bool]:
    """Tell of each cell whether it can be recommended: served, by an engine that computes where any of them does."""
    served = [cell.mode not in NOT_SERVED for cell in cells]
    computes = [cell.engine not in ENGINES or ENGINES[cell.engine].needs_model for cell in cells]
    both = [one and other for one, other in zip(served, computes, strict=True)]
    return both if any(both) else served


def write_plan(folder: Path, made: Plan) -> None:
    """Write down what the sweep is to measure, for reports and the next run."""
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")


def read_plan(folder: Path) -> Plan | None:
    """Return a sweep's plan, or None where a single notebook has measured."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}; run the sweep again") from error


def run_name(params: GridParams) -> str:
    """Return the name of a grid run, for files and messages."""
    return f"grid-r{params.round}-{params.cells()[0].without('client_threads', 'samples').slug}"
