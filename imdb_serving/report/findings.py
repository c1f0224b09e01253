"""From a sweep's rows to its answer in numbers: the choice, what is doubtful, engines, edges, the way for each mode.

Knows the analysis and the types of the answer; the wording is `sentences`' and `refusal`'s.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from imdb_serving.analysis.aa_pair import Pair, aa_pair
from imdb_serving.analysis.bounds import utilisation
from imdb_serving.analysis.cells import valid
from imdb_serving.analysis.choice import ZONE, Choice, contenders
from imdb_serving.analysis.choosing import Chooser
from imdb_serving.analysis.intervals import CONFIDENCE, Estimate, certified, estimate_positive, needed
from imdb_serving.analysis.noise import Noise, noise_of
from imdb_serving.analysis.selection import BY_THROUGHPUT, Selection
from imdb_serving.analysis.sequential import confidence_at
from imdb_serving.analysis.upper_bounds import most_of_each
from imdb_serving.cell import GRID
from imdb_serving.errors import DataError
from imdb_serving.experiment.plan import Plan, may_be_chosen, read_plan
from imdb_serving.measurement.ledger import read_samples
from imdb_serving.report import frames
from imdb_serving.report.answer import Certainty, Doubtful, EngineGain, Range, Way, place_of
from imdb_serving.report.engine_gains import engine_gains
from imdb_serving.report.serving_cost import cost_of

LEAST_ROUNDS = 2


@dataclass(frozen=True)
class Findings:
    """A sweep's rows and cells, the noise of its throughput, and what follows.

    `zone` is the indifference zone, `selection` what a cell is chosen by.
    """

    rows: pd.DataFrame
    folder: Path
    zone: float = ZONE
    selection: Selection = BY_THROUGHPUT

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The rows of the grid's closed loops, failed ones included."""
        return frames.grid(self.rows)

    @cached_property
    def noise(self) -> Noise:
        """The noise of the throughput."""
        return noise_of(self.grid)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells that were measured at all."""
        return frames.cells(self.rows, self.noise)

    @cached_property
    def cores(self) -> float:
        """The cores that the machine allows."""
        return frames.cores(self.rows, self.folder)

    @cached_property
    def plan(self) -> Plan | None:
        """What was to be measured."""
        return read_plan(self.folder)

    @property
    def looks(self) -> int:
        """The most rounds of a search; 0 where all cells were measured."""
        return self.plan.looks if self.plan else 0

    @property
    def command(self) -> str:
        """What measured the sweep."""
        search = " --search" if self.looks else ""
        return f"imdb-serving sweep {shlex.quote(self.plan.file) if self.plan else 'FILE'}{search}"

    @cached_property
    def rounds(self) -> int:
        """How many rounds of the grid there are."""
        return int(frames.of_one_sort(self.rows)["round"].max())

    @cached_property
    def pair(self) -> Pair:
        """What the A/A pair says."""
        return aa_pair(self.rows, self.noise)

    @cached_property
    def considered(self) -> pd.DataFrame:
        """A row each cell that has a server, measured or not; stand-in engines only where no other was measured."""
        first = self.grid.drop_duplicates("key")
        return first[np.array(may_be_chosen(list(first["cell"])), dtype=bool)]

    @cached_property
    def served(self) -> pd.DataFrame:
        """The considered cells that were measured."""
        return self.cells[self.cells["key"].isin(self.considered["key"])]

    @cached_property
    def sound(self) -> pd.DataFrame:
        """The served cells that can be believed, and recommended."""
        return self.served[self.served["valid"].astype(bool)]

    @cached_property
    def _bounded(self) -> list[Doubtful]:
        """The considered cells that cannot be believed, or were not measured, with the most that they could give."""
        others = self.considered[~self.considered["key"].isin(self.sound["key"])]
        most = most_of_each(others, self.sound, self.noise, self.cores)
        return [self._doubtful(row, bound) for (_, row), bound in zip(others.iterrows(), most, strict=True)]

    def _doubtful(self, row: Any, most: float) -> Doubtful:
        reasons = self.cells.loc[self.cells["key"] == row["key"], "why"]
        why = reasons.iloc[0] if len(reasons) else self.grid.loc[self.grid["key"] == row["key"], "why"].iloc[0]
        return Doubtful(
            place=place_of(row),
            why=str(why),
            most=math.exp(most) if math.isfinite(most) else None,
            decides=False,
        )

    def cell(self, place: int) -> Any:
        """Return the row of a cell, by its place in the noise's arrays."""
        return self.cells[self.cells["key"] == self.noise.keys[place]].iloc[0]

    @cached_property
    def chooser(self) -> Chooser:
        """What chooses among the sound cells, as the selection says."""
        return Chooser(self.grid, self.noise, list(self.sound["key"]), self.zone, self.selection, self.confidence)

    @cached_property
    def confidence(self) -> float:
        """That of a choice: 95 %, or what a look of a search needs, so that all of them together have that."""
        return confidence_at(self.plan.rounds, self.looks) if self.plan and self.looks else CONFIDENCE

    @cached_property
    def choice(self) -> Choice | None:
        """The choice among all sound cells; None where there is none."""
        bounds = [math.log(one.most) for one in self._bounded if one.most]
        return self.chooser.choose(self.sound, bounds) if len(self.sound) else None

    @cached_property
    def doubtful(self) -> list[Doubtful]:
        """The cells that cannot be believed, and of each whether it could change the answer."""
        deciding = set(self.choice.deciding) if self.choice else set()
        bounded = [one for one in self._bounded if one.most]
        decides = {one.place.key for number, one in enumerate(bounded) if number in deciding}
        return [msgspec.structs.replace(one, decides=one.place.key in decides) for one in self._bounded]

    @cached_property
    def _engines(self) -> tuple[list[EngineGain], list[str]]:
        if self.choice is None:
            return [], []
        return engine_gains(self.sound, self.noise, self.cell(self.choice.chosen))

    @property
    def gains(self) -> list[EngineGain]:
        """What the chosen cell's engine gives over each other one."""
        return self._engines[0]

    @property
    def engines_apart(self) -> list[str]:
        """The engines that share no mode, threads and clients with the chosen cell's."""
        return self._engines[1]

    def contenders(self, confidence: float) -> list[int]:
        """Return the places of the sound cells that may be the best."""
        return contenders(self.noise, self._places(self.sound), confidence)

    def _places(self, cells: pd.DataFrame) -> list[int]:
        return [place for key in cells["key"] if (place := self.noise.place(key)) is not None]

    @cached_property
    def medians(self) -> Noise:
        """The noise of the rounds' median latency."""
        return noise_of(self.grid, "p50_us", self.noise)

    def ways(self, recommended: str) -> list[Way]:
        """Return what to run in each mode and with each engine, in the order of the sweep."""
        found = []
        for _, own in self.served.groupby(["line", "setup"], sort=False):
            sound = own[own["valid"].astype(bool)]
            if (choice := self.chooser.choose(sound) if len(sound) else None) is None:
                continue
            mine = sound[sound["key"] == recommended]
            cell = mine.iloc[0] if len(mine) else self.cell(choice.chosen)
            found.append(self._way(cell, choice.shown, recommended))
        return found

    def _way(self, cell: Any, shown: bool, recommended: str) -> Way:
        p99, note = _tail(self, cell)
        return Way(
            place=place_of(cell),
            throughput=Range.of(Estimate(*(cell[name] for name in frames.INTERVAL))),
            p99=p99,
            p99_note=note,
            cost=cost_of(self.rows, self.cells, self.medians, cell),
            server_cpu_us=self._cpu_of(cell),
            limit=utilisation(cell, self.cores).limit,
            shown=shown,
            recommended=cell["key"] == recommended,
        )

    def _cpu_of(self, cell: Any) -> Range | None:
        place = self.chooser.cpu.place(cell["key"])
        return None if place is None else Range.of(self.chooser.cpu.interval(place))

    @property
    def together(self) -> str:
        """For which comparisons together the confidence of a choice holds, in words."""
        return "all cells and rounds together" if self.looks else "all cells together"

    def certainty(self) -> Certainty:
        """Return how sure the sweep is."""
        effects = list(self.noise.effects.values())
        planned = self.plan.keys.values() if self.plan else ()
        shaky = self.cells[self.cells["key"].isin(list(self.noise.unstable))]
        return Certainty(
            rounds=self.rounds,
            cells=int(self.grid["key"].nunique()),
            searched=sum(cell.series == GRID for cell in planned) if self.looks else None,
            valid=int(self.cells["valid"].sum()),
            unstable=[place_of(cell) for _, cell in shaky.iterrows()],
            noise=math.expm1(self.noise.spread) if self.noise.known else None,
            aa_pairs=self.pair.pairs,
            aa_difference=math.expm1(self.pair.difference) if self.pair.pairs else None,
            aa_check=self.pair.check,
            drift=math.expm1(max(effects) - min(effects)) if effects else 0.0,
        )


def _tail(found: Findings, cell: Any, quantile: float = 0.99) -> tuple[Range | None, str]:
    """Return a cell's p99 in ms, or why there is none.

    The value is that of all its rounds' requests together, the interval is across the rounds: those that are valid and
    no outliers.
    """
    own = valid(found.rows[found.rows["key"] == cell["key"]])
    own = own[~own["round"].isin(found.noise.set_aside.get(cell["key"], ()))]
    of_rounds = own["p99_us"].dropna().to_numpy(dtype=float) / 1000
    try:
        times = [read_samples(found.folder, raw, ["client_infer_ns"])["client_infer_ns"] / 1e6 for raw in own["raw"]]
    except (DataError, ValueError, KeyError):
        times = []
    pooled = np.concatenate(times) if times else np.empty(0)
    value = certified(pooled, quantile)
    if value is None and not len(of_rounds):
        if not times:
            return None, "single requests' times are gone"
        return None, f"p99 not certifiable with n {len(pooled):,} (needs {needed(quantile):,})"
    if len(of_rounds) < len(own):
        each = [certified(one, quantile) for one in times]
        of_rounds = np.array([one for one in each if one is not None])
    ends = _across_rounds(found, cell, of_rounds, len(own))
    if value is None:
        value = ends.mean
    ends = Estimate(value, min(ends.low, value), max(ends.high, value))
    return Range.of(ends), "" if math.isfinite(ends.low) else "each round has too few requests for an interval"


def _across_rounds(found: Findings, cell: Any, of_rounds: Any, rounds: int) -> Estimate:
    """Return the p99 of a round with its interval, its noise taken from all cells where they have one."""
    place = found.chooser.tails.place(cell["key"])
    if place is not None and found.chooser.tails.known and found.chooser.tails.counts[place] == rounds:
        return Estimate(*(value / 1000 for value in found.chooser.tails.interval(place)))
    if len(of_rounds) < max(rounds, 1):
        return Estimate(math.nan, math.nan, math.nan)
    return estimate_positive(of_rounds)
