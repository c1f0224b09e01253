"""How the chosen cell stands to the best, how sure that is, and which may be the best as well. Owns wording alone."""

from __future__ import annotations

import math
from typing import Any

from imdb_serving.analysis.choice import MOST_ROUNDS, Choice
from imdb_serving.analysis.search import LOOKS
from imdb_serving.analysis.selection import EFFICIENCY, P99, RATE_ZONE
from imdb_serving.cell import plural
from imdb_serving.report.answer import Answer, place_of
from imdb_serving.report.findings import Findings
from imdb_serving.report.naming import several, short


def standing(found: Findings, choice: Choice, made: Answer) -> str:
    """Say how the chosen cell stands to the best, how sure that is, and who may be the best as well."""
    if found.selection.by == EFFICIENCY:
        return _least_cpu(found, choice, made)
    of_these = _holding(found) if found.selection.by == P99 else ""
    chosen, best = place_of(found.cell(choice.chosen)), place_of(found.cell(choice.best))
    fall, zone = choice.shortfall, f"{found.zone:.0%}"
    if chosen == best:
        it = f"{of_these}Of these, it" if of_these else "It"
        words = f"{it} is the best measured; it falls short of the best by {_at_most(fall.high)}"
    else:
        start = f"{of_these}Best of these" if of_these else "Best measured"
        less = f"{fall.mean:.1%} less ({max(fall.low, 0):.1%} to {fall.high:.1%})"
        words = f"{start}: {short(best, chosen)}, {made.best_throughput:,.0f}/s; this is {less}"
    if made.shown:
        words += f", within the {zone} that you allow (95%, {found.together})."
    elif choice.shown:
        unknown = [one.place for one in made.doubtful if one.most is None]
        words += f", but nothing is known of {several(unknown, chosen)}, so that {zone} cannot be shown."
    else:
        more = _more_rounds(found, choice)
        words += f": that it lies within the {zone} that you allow cannot be shown (95%). {more}"
    others = [place for place in made.contenders if place not in (chosen, best)]
    words += f" Not told apart from the best: {several(others, chosen)}." if others else ""
    return words + (_unsure(found, choice) if found.selection.by == P99 else "")


def _holding(found: Findings) -> str:
    """Say how many cells hold the limit, of which the best is chosen."""
    count, total, limit = len(found.chooser.holders.sure), len(found.sound), f"{found.selection.most_ms:g} ms"
    are = "cell is" if count == 1 else "cells are"
    return f"{count} of {total} {are} shown to hold a p99 of {limit} (95%, {found.together}). "


def _unsure(found: Findings, choice: Choice) -> str:
    """Name the cells that give more, and of which it is not known whether they hold the limit."""
    chosen = found.cell(choice.chosen)
    open_ = found.sound[found.sound["key"].isin(found.chooser.holders.unsure)]
    open_ = open_[open_["throughput"] > chosen["throughput"]].sort_values("throughput", ascending=False)
    if open_.empty:
        return ""
    places = [place_of(cell) for _, cell in open_.iterrows()]
    return f" May hold it too, and give more: {several(places, place_of(chosen))}."


def _least_cpu(found: Findings, choice: Choice, made: Answer) -> str:
    """Say how the chosen cell stands to the least CPU time a request, and to the best rate."""
    chosen, least = found.cell(choice.chosen), found.cell(choice.best)
    near, best = found.chooser.near_best(found.sound), found.sound.sort_values("throughput").iloc[-1]
    rate = f"the best rate ({short(place_of(best), place_of(chosen))}, {best['throughput']:,.0f}/s)"
    if not near:
        words = f"Which cells are within {RATE_ZONE:.0%} of the best rate cannot be shown; of the best measured"
        return f"{words} the server takes {_micro(found, chosen)} of CPU time a request (95%)."
    words = f"{len(near)} of {plural(len(found.sound), 'cell')} are shown to be within {RATE_ZONE:.0%} of {rate}"
    high, above = choice.shortfall.high, "how much more than the least is not known"
    if high < 1:
        above = f"at most {high / (1 - high):.1%} more than the least"
    if chosen["key"] != least["key"]:
        above += f" ({short(place_of(least), place_of(chosen))}, {_micro(found, least)})"
    if chosen["key"] != best["key"]:
        above += f"; that of the best rate takes {_micro(found, best)}"
    unshown = "" if made.shown else f" That it lies within {found.zone:.0%} of the least cannot be shown."
    return f"{words}; of these, its server takes {_micro(found, chosen)} of CPU time a request, {above} (95%).{unshown}"


def _micro(found: Findings, cell: Any) -> str:
    place = found.chooser.cpu.place(cell["key"])
    if place is None:
        return "an unknown time"
    taken = found.chooser.cpu.interval(place)
    between = f" ({taken.low:,.0f} to {taken.high:,.0f})" if math.isfinite(taken.low) else ""
    return f"{taken.mean:,.0f} µs{between}"


def _at_most(share: float) -> str:
    return f"at most {share:.1%}" if share < 1 else "an unknown share"


def _more_rounds(found: Findings, choice: Choice) -> str:
    if choice.rounds is None:
        return f"More than {MOST_ROUNDS} rounds would be needed: measure on a quieter machine, or allow more (--zone)."
    rounds = max(choice.rounds, found.rounds + 1)
    if found.looks:
        rounds = -(-rounds // LOOKS)  # those of the grid, of which a search has a multiple
    return f"About {rounds} rounds would: `{found.command} --rounds {rounds}`."
