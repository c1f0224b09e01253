"""What one engine gives over another: at the same mode, threads and clients, paired by round. Numbers, no words."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import pandas as pd

from imdb_serving.analysis.noise import Noise
from imdb_serving.cell import Cell
from imdb_serving.report.answer import EngineGain, Range, place_of

CONFIDENCE = 0.99
"""Of all engines together: a wrong word about an engine is worse than none."""

Told = Literal["more", "less", "cannot be told"]
MORE: Told = "more"
LESS: Told = "less"
UNTOLD: Told = "cannot be told"

FOLLOWS = ("engine", "net", "model", "worker_kind", "service", "samples", "passes")
"""What may differ between the cells of two engines that are compared."""


def engine_gains(cells: pd.DataFrame, noise: Noise, chosen: Any) -> tuple[list[EngineGain], list[str]]:
    """Return the chosen cell's engine against each other one, and the engines that share no place with it."""
    found, apart = [], []
    others = [engine for engine in dict.fromkeys(cells["engine"]) if engine != chosen["engine"]]
    confidence = 1 - (1 - CONFIDENCE) / max(len(others), 1)
    for other in others:
        places = _common_places(cells, chosen, other)
        if not places:
            apart.append(str(other))
            continue
        found.append(_gain(cells, noise, *min(places, key=lambda pair: _distance(pair[0], chosen)), confidence))
    return found, apart


def _common_places(cells: pd.DataFrame, chosen: Any, other: str) -> list[tuple[Any, Any]]:
    """Return the pairs of cells of two engines that are alike but for the engine, and what follows from it."""
    mine, theirs = cells[cells["engine"] == chosen["engine"]], cells[cells["engine"] == other]
    places = {_place(cell["cell"]): cell for _, cell in theirs.iterrows()}
    pairs = [(cell, places[_place(cell["cell"])]) for _, cell in mine.iterrows() if _place(cell["cell"]) in places]
    return [(one, two) for one, two in pairs if _same_model(one["cell"], two["cell"])]


def _place(cell: Cell) -> Cell:
    return cell.without(*FOLLOWS)


def _same_model(one: Cell, two: Cell) -> bool:
    return not (one.net and two.net) or (one.net, one.model) == (two.net, two.model)


def _distance(cell: Any, chosen: Any) -> tuple[Any, ...]:
    """Return how far a cell is from the chosen one: another mode first, then thread counts, whatever they gave."""
    steps = [abs(math.log2(cell[name] / chosen[name])) for name in ("server_threads", "math_threads", "client_threads")]
    return cell["mode"] != chosen["mode"], sum(steps)


def _gain(cells: pd.DataFrame, noise: Noise, one: Any, two: Any, confidence: float) -> EngineGain:
    ratio = _ratio(noise, two, one, confidence)
    told: Told = UNTOLD if ratio.holds(1.0) else MORE if ratio.value > 1 else LESS
    slower = one if ratio.value < 1 else two
    step = _thread_step(cells, slower)
    return EngineGain(
        engine=one["engine"],
        other=two["engine"],
        at=place_of(one),
        ratio=ratio,
        told=told,
        agreement=_agreement(cells, one["engine"], two["engine"]),
        slower=slower["engine"],
        thread_step=(int(step[0]["server_threads"]), int(step[1]["server_threads"])) if step else None,
        thread_gain=_ratio(noise, *step, confidence) if step else None,
    )


def _ratio(noise: Noise, below: Any, above: Any, confidence: float) -> Range:
    places = noise.place(below["key"]), noise.place(above["key"])
    assert places[0] is not None  # noqa: S101 - valid cells have a place
    assert places[1] is not None  # noqa: S101
    return Range.of(noise.ratio(places[0], places[1], confidence), CONFIDENCE)


def _thread_step(cells: pd.DataFrame, cell: Any) -> tuple[Any, Any] | None:
    """Return the cells of the step to the next server threads from this one, else to it; None without one."""
    alike = cells[(cells["line"] == cell["line"]) & (cells["panel"] == cell["panel"])]
    alike = alike[alike["client_threads"] == cell["client_threads"]].sort_values("server_threads")
    steps = list(pairwise(row for _, row in alike.iterrows()))
    after = [step for step in steps if step[0]["key"] == cell["key"]]
    before = [step for step in steps if step[1]["key"] == cell["key"]]
    return next(iter(after or before), None)


SAME_ANSWERS = "same answers, to six decimals"


def _agreement(cells: pd.DataFrame, first: str, second: str) -> str:
    """Say whether two engines gave the same answers, or how often each was right, where that is known."""
    one, other = (cells[cells["engine"] == engine] for engine in (first, second))
    if set(one["answers"]) & set(other["answers"]) - {""}:
        return SAME_ANSWERS
    rights = one["accuracy"].median(), other["accuracy"].median()
    if any(math.isnan(right) for right in rights):
        return "answers not compared"
    if f"{rights[0]:.2%}" == f"{rights[1]:.2%}":
        return f"both right in {rights[0]:.2%}"
    return f"right in {rights[0]:.2%} and {rights[1]:.2%}"
