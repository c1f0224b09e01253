"""The verdict: at most eight lines that say what to run, what that gives, why, what it costs, and how sure this is.

Puts numbers (`findings`) and words (`sentences`, `refusal`) together, and writes both down. It recommends nothing where
cells that could change the answer cannot be believed, and says which, why, and what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pandas as pd

from imdb_serving.analysis.choice import ZONE, Choice
from imdb_serving.analysis.selection import EFFICIENCY, THROUGHPUT, read_selection
from imdb_serving.experiment.plan import read_plan
from imdb_serving.report import answer, sentences, serving_cost, ways
from imdb_serving.report.answer import Answer, Range, place_of
from imdb_serving.report.edges import edges_of
from imdb_serving.report.findings import LEAST_ROUNDS, Findings
from imdb_serving.report.markup import inline_markup
from imdb_serving.report.page import VERDICT
from imdb_serving.report.refusal import MOST_LINES, refusal
from imdb_serving.report.standing import standing
from imdb_serving.report.warnings import warnings_of

OF_EDGES = 0.999
"""The confidence with which the best is among the cells whose edges are told."""


class Verdict(NamedTuple):
    """The lines of the verdict, the warnings below it, the key of the recommended cell, and all of it as numbers.

    The key is empty where nothing is recommended.
    """

    lines: list[str]
    warnings: list[str]
    key: str
    answer: Answer = Answer()

    @property
    def text(self) -> str:
        """Verdict and warnings for a terminal."""
        return "\n".join(self.lines + [f"  warning: {line}" for line in self.warnings])

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{inline_markup(line)}</p>" for line in self.lines)
        warned = "".join(f"<li>{inline_markup(line)}</li>" for line in self.warnings)
        kind = "verdict" if self.key else "verdict refused"
        below = f'<ul class="warnings" aria-label="Warnings">{warned}</ul>' if warned else ""
        return f'<div class="{kind}">{lines}</div>{below}'


def verdict(rows: pd.DataFrame, folder: Path, zone: float = ZONE, select: str = "") -> Verdict:
    """Return the verdict on a sweep's rows, as `frames.load` gives them; its folder has raw samples and cards.

    `zone` is the shortfall from the best that is indifferent, as a share of the best. `select` is what a cell is chosen
    by, by default what the sweep's plan says; raises `ConfigError` for an unknown one.
    """
    plan = read_plan(folder)
    selection = read_selection(select or (plan.select if plan else THROUGHPUT))
    found = Findings(rows, folder, zone, selection)
    warned = warnings_of(rows, found.cells, found.noise, found.pair, found.cores, folder)
    if refused := refusal(found):
        made = Answer(zone=zone, select=str(selection), lines=refused, warnings=warned, doubtful=found.doubtful)
        if found.rounds >= LEAST_ROUNDS and len(found.cells):
            made = msgspec.structs.replace(made, ways=found.ways(""), certainty=found.certainty())
        return Verdict(refused, warned, "", _of_run(found, made))
    choice = found.choice
    assert choice is not None  # noqa: S101 - or it would have been refused
    made = _answer(found, choice)
    chosen = found.cell(choice.chosen)
    way = next(way for way in made.ways if way.recommended)
    lines = [
        sentences.what(found, way),
        standing(found, choice, made),
        sentences.why(found, chosen),
        serving_cost.in_words(way.cost, way.place.engine),
        sentences.engines(found, made, chosen),
        sentences.edges(made.edges),
        sentences.sure(made.certainty),
        sentences.mind(found, chosen),
    ]
    lines = [line for line in lines if line][:MOST_LINES]
    made = msgspec.structs.replace(made, lines=lines, warnings=warned)
    return Verdict(lines, warned, str(chosen["key"]), _of_run(found, made))


def save(made: Verdict, folder: Path) -> None:
    """Write a verdict beside the report: in words for the command that asked for it, and as numbers for programs."""
    table = ways.text(made.answer.ways, by_cpu=made.answer.select == EFFICIENCY)
    below = [f"{ways.caption(made.answer.zone)}\n{table}"] if table else []
    (folder / VERDICT).write_text("\n\n".join([made.text, *below]) + "\n", encoding="utf-8")
    (folder / answer.FILE).write_bytes(msgspec.json.format(msgspec.json.encode(made.answer), indent=1) + b"\n")


def _of_run(found: Findings, made: Answer) -> Answer:
    return msgspec.structs.replace(made, run=str(found.rows["run"].iloc[0]) if len(found.rows) else "")


def _answer(found: Findings, choice: Choice) -> Answer:
    """Return the answer where a cell is recommended."""
    chosen, best = found.cell(choice.chosen), found.cell(choice.best)
    unbounded = [one for one in found.doubtful if one.most is None]
    contenders = [place_of(found.cell(place)) for place in choice.contenders]
    fastest = found.contenders(OF_EDGES) if found.selection.by == THROUGHPUT else []
    possible = [place_of(found.cell(place)) for place in fastest]
    places = list(dict.fromkeys([place_of(chosen), place_of(best), *possible]))
    return Answer(
        status="recommended",
        select=str(found.selection),
        shown=choice.shown and not unbounded,
        zone=found.zone,
        recommended=place_of(chosen),
        best=place_of(best),
        best_throughput=float(best["throughput"]),
        shortfall=Range.of(choice.shortfall),
        contenders=contenders,
        rounds_needed=choice.rounds,
        ways=found.ways(str(chosen["key"])),
        engines=found.gains,
        edges=edges_of(found.considered, places, f"{found.command} --fresh"),
        doubtful=found.doubtful,
        certainty=found.certainty(),
    )
