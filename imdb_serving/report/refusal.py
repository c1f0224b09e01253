"""Why nothing is recommended, and what to do. Owns wording alone."""

from __future__ import annotations

from typing import Any

from imdb_serving.cell import FAILED, plural
from imdb_serving.report import open_loop
from imdb_serving.report.answer import Doubtful, Place, place_of
from imdb_serving.report.findings import LEAST_ROUNDS, Findings
from imdb_serving.report.naming import NAMED, name, way

MOST_LINES = 8


def refusal(found: Findings) -> list[str]:
    """Return why nothing is recommended and what to do; empty when there is no reason."""
    if found.served.empty:
        return _without_served(found)
    if found.rounds < LEAST_ROUNDS:
        return [
            "No verdict: one round has no interval, and nothing tells chance from difference.",
            f"Do: `{found.command}{'' if found.looks else ' --rounds 3'}`; what is measured already stays.",
        ]
    if found.choice is None and len(found.sound):
        return _none_holds(found)
    deciding = [one for one in found.doubtful if one.decides or found.choice is None]
    if not deciding:
        return []
    total = len(found.considered)
    lines = [
        f"No verdict: {len(found.doubtful)} of {plural(total, 'cell')} cannot be believed, and "
        f"{_or_all(deciding, total)} could be the best:"
    ]
    for one in sorted(deciding, key=lambda one: -(one.most or 0))[:NAMED]:
        most = f", at most {one.most:,.0f} samples/s" if one.most else ""
        lines.append(f"  {name(one.place)}{most}: {_first(one.why)}")
    if found.choice is not None:
        best = found.cell(found.choice.best)
        lines.append(f"The best that can be believed: {name(place_of(best))}, {best['throughput']:,.0f} samples/s.")
    lines.append(f"Do what is said there, then measure another round: `{found.command} --rounds {found.rounds + 1}`.")
    return lines


def _none_holds(found: Findings) -> list[str]:
    """Return what is known of the p99 where no cell is shown to hold its limit."""
    tails, count = found.chooser.tails, plural(len(found.sound), "cell")
    placed = [(tails.place(cell["key"]), cell) for _, cell in found.sound.iterrows()]
    places = [(tails.interval(place), cell) for place, cell in placed if place is not None]
    limit = f"{found.selection.most_ms:g} ms"
    lines = [f"No verdict: none of {count} is shown to hold a p99 of {limit} (95%, {found.together})."]
    for tail, cell in sorted(places, key=lambda one: one[0].mean)[:NAMED]:
        low, value, high = (f"{number / 1000:.3g}" for number in (tail.low, tail.mean, tail.high))
        lines.append(f"  {name(place_of(cell))}: p99 {value} ms ({low} to {high}), {cell['throughput']:,.0f} samples/s")
    if not places:
        lines.append("Rounds had too few requests for a p99: raise `samples` to 700 or more.")
    elif found.chooser.holders.unsure:
        lines.append(f"More rounds may show it: `{found.command} --rounds {2 * found.rounds}`.")
    else:
        lines.append("Measure fewer clients, or a faster engine; or allow more (`--select`).")
    return lines


def _or_all(deciding: list[Doubtful], total: int) -> str:
    return "any of them" if len(deciding) == total else f"{len(deciding)} of these"


def _without_served(found: Findings) -> list[str]:
    """Return what can be said when no closed loop with a server was measured."""
    failed = found.rows.loc[found.rows["status"] == FAILED, "why"]
    if open_loop.any_measured(found.rows):
        return [
            "No verdict on threads: it needs closed loops (`arrivals: closed`). What was measured of open loops:",
            *open_loop.in_words(found.rows)[: MOST_LINES - 2],
            _rounds(found),
        ]
    if len(failed) and found.cells.empty:
        return [
            f"No verdict: {plural(len(failed), 'measurement')} failed, and none succeeded. The first: {failed.iloc[0]}",
            f"Do what is said there, then: `{found.command}`.",
        ]
    return [
        "No verdict: no cell with a server was measured; add a mode such as rpc to the parameter file.",
        *(_alone(place_of(cell), cell) for _, cell in found.cells[: MOST_LINES - 2].iterrows()),
        _rounds(found),
    ]


def _alone(place: Place, cell: Any) -> str:
    return f"{way(place)}, {plural(place.client_threads, 'client')}: {cell['throughput']:,.0f} reviews/s."


def _rounds(found: Findings) -> str:
    if found.rounds < LEAST_ROUNDS:
        return f"One round alone does not tell chance from difference: `{found.command} --rounds 3`."
    return f"Sure: medians of {plural(found.rounds, 'round')}."


def _first(why: str) -> str:
    return why.split("; ", maxsplit=1)[0] + (f" ({why.split('; ')[1]})" if "; " in why else "")
