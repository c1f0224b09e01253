"""The verdict: at most eight lines that say what to run, what that gives, why, what it costs, and how sure this is.

Owns the wording; the numbers are `findings`'. It recommends nothing where cells that could change the answer cannot be
believed, and says which, why, and what to do.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pandas as pd

from imdb_serving.analysis.bounds import CLIENTS, CORES, FRONT, ONE_THREAD, WORKERS, utilisation
from imdb_serving.analysis.choice import MOST_ROUNDS, ZONE, Choice
from imdb_serving.cell import FAILED, listed, plural
from imdb_serving.report import answer, costs, frames, open_loop, serving_cost, ways
from imdb_serving.report.answer import Answer, Certainty, Doubtful, Edge, EngineGain, Place, Range
from imdb_serving.report.chart import inline_markup
from imdb_serving.report.edges import edges_of
from imdb_serving.report.engine_gains import LESS, UNTOLD, engine_gains
from imdb_serving.report.findings import LEAST_ROUNDS, Findings, tail
from imdb_serving.report.warnings import warnings_of

MOST_LINES = 8
OF_EDGES = 0.999
"""The confidence with which the best is among the cells whose edges are told."""

NAMED = 3
"""Of a list of cells, so many are named; the others are counted."""


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


def verdict(rows: pd.DataFrame, folder: Path, zone: float = ZONE) -> Verdict:
    """Return the verdict on a sweep's rows, as `frames.load` gives them; its folder has raw samples and cards.

    `zone` is the shortfall from the best that is indifferent, as a share of the best.
    """
    found = Findings(rows, folder, zone)
    warned = warnings_of(rows, found.cells, found.noise, found.pair, found.cores, folder)
    if refused := _refusal(found):
        made = Answer(zone=zone, lines=refused, warnings=warned, doubtful=_told_doubtful(found))
        if found.rounds >= LEAST_ROUNDS and len(found.cells):
            made = msgspec.structs.replace(made, ways=found.ways(""), certainty=found.certainty())
        return Verdict(refused, warned, "", _of_run(found, made))
    choice = found.choice
    assert choice is not None  # noqa: S101 - or it would have been refused
    made = _answer(found, choice)
    chosen = found.cell(choice.chosen)
    lines = [
        _what(found, chosen),
        _best(found, choice, made),
        _why(found, chosen),
        serving_cost.in_words(found.cost(chosen)),
        _engines(found, made, chosen),
        _edges(made.edges),
        _sure(made.certainty),
        _mind(found),
    ]
    lines = [line for line in lines if line][:MOST_LINES]
    made = msgspec.structs.replace(made, lines=lines, warnings=warned)
    return Verdict(lines, warned, str(chosen["key"]), _of_run(found, made))


FILE = "verdict.txt"


def save(made: Verdict, folder: Path) -> None:
    """Write a verdict beside the report: in words for the command that asked for it, and as numbers for programs."""
    below = [f"{ways.caption(made.answer.zone)}\n{table}"] if (table := ways.text(made.answer.ways)) else []
    (folder / FILE).write_text("\n\n".join([made.text, *below]) + "\n", encoding="utf-8")
    (folder / answer.FILE).write_bytes(msgspec.json.format(msgspec.json.encode(made.answer), indent=1) + b"\n")


def _of_run(found: Findings, made: Answer) -> Answer:
    return msgspec.structs.replace(made, run=str(found.rows["run"].iloc[0]) if len(found.rows) else "")


def _answer(found: Findings, choice: Choice) -> Answer:
    """Return the answer where a cell is recommended."""
    chosen, best = found.cell(choice.chosen), found.cell(choice.best)
    unbounded = [one for one in found.doubtful if one.most is None]
    contenders = [found.place(found.cell(place)) for place in choice.contenders]
    gains, _ = engine_gains(found.sound, found.noise, chosen)
    possible = [found.place(found.cell(place)) for place in found.contenders(OF_EDGES)]
    places = list(dict.fromkeys([found.place(chosen), found.place(best), *possible]))
    return Answer(
        status="recommended",
        shown=choice.shown and not unbounded,
        zone=found.zone,
        recommended=found.place(chosen),
        best=found.place(best),
        best_throughput=float(best["throughput"]),
        shortfall=Range.of(choice.shortfall),
        contenders=contenders,
        rounds_needed=choice.rounds,
        ways=found.ways(str(chosen["key"])),
        engines=gains,
        edges=edges_of(found.considered, places, f"{found.command} --fresh"),
        doubtful=_told_doubtful(found),
        certainty=found.certainty(),
    )


def _told_doubtful(found: Findings) -> list[Doubtful]:
    deciding = set(found.choice.deciding) if found.choice else set()
    bounded = [one for one in found.doubtful if one.most]
    decides = {one.place.key for number, one in enumerate(bounded) if number in deciding}
    return [msgspec.structs.replace(one, decides=one.place.key in decides) for one in found.doubtful]


def _refusal(found: Findings) -> list[str]:
    """Return why nothing is recommended and what to do; empty when there is no reason."""
    if found.served.empty:
        return _without_served(found)
    if found.rounds < LEAST_ROUNDS:
        return [
            "No verdict: one round has no interval, and nothing tells chance from difference.",
            f"Do: `{found.command} --rounds 3`; what is measured already stays.",
        ]
    if found.choice is None:
        deciding = sorted(found.doubtful, key=lambda one: -(one.most or math.inf))
    else:
        deciding = [one for one in _told_doubtful(found) if one.decides]
    if not deciding:
        return []
    total = len(found.considered)
    lines = [
        f"No verdict: {len(found.doubtful)} of {plural(total, 'cell')} cannot be believed, and "
        f"{_or_all(deciding, total)} could be the best:"
    ]
    for one in sorted(deciding, key=lambda one: -(one.most or 0))[:NAMED]:
        most = f", at most {one.most:,.0f} samples/s" if one.most else ""
        lines.append(f"  {_name(one.place)}{most}: {_first(one.why)}")
    if found.choice is not None:
        best = found.cell(found.choice.best)
        lines.append(f"The best that can be believed: {_name(found.place(best))}, {best['throughput']:,.0f} samples/s.")
    lines.append(f"Do what is said there, then measure another round: `{found.command} --rounds {found.rounds + 1}`.")
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
        *(_alone(found.place(cell), cell) for _, cell in found.cells[: MOST_LINES - 2].iterrows()),
        _rounds(found),
    ]


def _alone(place: Place, cell: Any) -> str:
    return f"{_way(place)}, {plural(place.client_threads, 'client')}: {cell['throughput']:,.0f} reviews/s."


def _rounds(found: Findings) -> str:
    if found.rounds < LEAST_ROUNDS:
        return f"One round alone does not tell chance from difference: `{found.command} --rounds 3`."
    return f"Sure: medians of {plural(found.rounds, 'round')}."


def _first(why: str) -> str:
    return why.split("; ", maxsplit=1)[0] + (f" ({why.split('; ')[1]})" if "; " in why else "")


def _name(place: Place) -> str:
    return f"{_way(place)}, {_counts(place)}"


def _way(place: Place) -> str:
    return ", ".join([place.line, place.panel or f"engine {place.engine}"])


def _counts(place: Place) -> str:
    return f"{plural(place.server_threads, 'server thread')}, {plural(place.client_threads, 'client')}"


def _short(place: Place, beside: Place) -> str:
    """Name a cell beside another: `2 x 6`, with mode and engine where these differ."""
    counts = f"{place.server_threads} x {place.client_threads}"
    if (place.line, place.panel) == (beside.line, beside.panel):
        return counts
    return f"{_way(place).replace('engine ', '')} {counts}"


def _several(places: list[Place], beside: Place) -> str:
    """Name some cells, and count the others."""
    names = [_short(place, beside) for place in places[:NAMED]]
    more = len(places) - len(names)
    return listed([*names, *([f"{more} more"] if more else [])])


def _what(found: Findings, chosen: Any) -> str:
    rate = f"{chosen['throughput']:,.0f} reviews/s"
    if math.isfinite(chosen["throughput_low"]):
        rate += f" ({chosen['throughput_low']:,.0f} to {chosen['throughput_high']:,.0f})"
    sure = f"{plural(found.rounds, 'round')}, 95 %"
    p99, note = tail(found, chosen)
    if p99 is None:
        words = f"{note} ({sure})"
    elif p99.low is None or p99.high is None:
        words = f"p99 {p99.value:.3g} ms ({note}; {sure})"
    else:
        words = f"p99 {p99.value:.3g} ms ({p99.low:.3g} to {p99.high:.3g}; {sure})"
    return f"Run {_name(found.place(chosen))}: {rate}, {words}."


def _best(found: Findings, choice: Choice, made: Answer) -> str:
    """Say how the chosen cell stands to the best, how sure that is, and who may be the best as well."""
    chosen, best = found.place(found.cell(choice.chosen)), found.place(found.cell(choice.best))
    fall, zone = choice.shortfall, f"{found.zone:.0%}"
    if chosen == best:
        words = f"It is the best measured; it falls short of the best by {_at_most(fall.high)}"
    else:
        words = (
            f"Best measured: {_short(best, chosen)}, {made.best_throughput:,.0f}/s; this is {fall.mean:.1%} less "
            f"({max(fall.low, 0):.1%} to {fall.high:.1%})"
        )
    if made.shown:
        words += f", within the {zone} that you allow (95 %, all cells together)."
    elif choice.shown:
        unknown = [one.place for one in made.doubtful if one.most is None]
        words += f", but nothing is known of {_several(unknown, chosen)}, so that {zone} cannot be shown."
    else:
        more = _more_rounds(found, choice)
        words += f": that it lies within the {zone} that you allow cannot be shown (95 %). {more}"
    others = [place for place in made.contenders if place not in (chosen, best)]
    return f"{words} Not told apart from the best: {_several(others, chosen)}." if others else words


def _at_most(share: float) -> str:
    return f"at most {share:.1%}" if share < 1 else "an unknown share"


def _more_rounds(found: Findings, choice: Choice) -> str:
    if choice.rounds is None:
        return f"More than {MOST_ROUNDS} rounds would be needed: measure on a quieter machine, or allow more (--zone)."
    rounds = max(choice.rounds, found.rounds + 1)
    return f"About {rounds} rounds would: `{found.command} --rounds {rounds}`."


def _why(found: Findings, chosen: Any) -> str:
    busy = utilisation(chosen, found.cores)
    if busy.limit == CORES:
        words = f"{_all_cores(found.cores)} busy ({_cpu(chosen)})"
    elif busy.limit == FRONT and chosen["mode"] == ONE_THREAD:
        words = f"the web server's one thread is busy for {busy.front:.0%} of the time"
    elif busy.limit == FRONT:
        words = f"the process in front of the workers is busy, {busy.front:.0%} of a core; cores {busy.cores:.0%}"
    elif busy.limit == WORKERS:
        words = f"{_workers(chosen)} busy ({busy.workers:.0%}), most of it {busy.most}; cores {busy.cores:.0%}"
    elif busy.limit == CLIENTS:
        words = (
            f"the clients: each sends one request at a time, and the server keeps up ({busy.cores:.0%} of the cores)"
        )
    else:
        front = f", front {busy.front:.0%}" if busy.front else ""
        words = f"nothing is busy all the time (workers {busy.workers:.0%}, cores {busy.cores:.0%}{front})"
    return f"Why: {words}{_more_threads(found, chosen)}."


def _cpu(cell: Any) -> str:
    """Say whose CPU time it is, and which op takes most of the ops' time."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in costs.cpu_shares(cell).items())
    op, share = costs.op_share(cell)
    return f"{shares}; {op} is {share:.0%} of the ops' time" if op else shares


def _all_cores(cores: float) -> str:
    return {"1": "the one core is", "2": "both cores are"}.get(f"{cores:g}", f"all {cores:g} cores are")


def _workers(cell: Any) -> str:
    count = int(cell["server_threads"])
    return "the worker is" if count == 1 else f"all {count} workers are"


def _more_threads(found: Findings, chosen: Any) -> str:
    alike = found.sound
    for column in ("line", "panel", "client_threads"):
        alike = alike[alike[column] == chosen[column]]
    more = alike[alike["server_threads"] > chosen["server_threads"]].sort_values("server_threads")
    places = found.noise.place(chosen["key"]), found.noise.place(more["key"].iloc[0]) if len(more) else None
    if places[0] is None or places[1] is None:
        return ""
    gain = found.noise.ratio(places[0], places[1])
    threads = plural(int(more["server_threads"].iloc[0]), "server thread")
    between = f" ({gain.low - 1:+.1%} to {gain.high - 1:+.1%})" if math.isfinite(gain.low) else ""
    return f"; {threads} change {gain.mean - 1:+.1%}{between}"


def _engines(found: Findings, made: Answer, chosen: Any) -> str:
    """Say what other engines give at the same place, and what another thread gives the slower one."""
    _, apart = engine_gains(found.sound, found.noise, chosen)
    if not made.engines and not apart:
        return f"Only engine {chosen['engine']} was measured; params/engines.yaml measures others beside it."
    words = [_gain(gain) for gain in made.engines]
    if apart:
        words.append(
            f"{chosen['engine']} and {listed(apart)} were not measured at the same mode, threads and clients: which "
            "gives more cannot be told"
        )
    return f"{'; '.join(words)}."


def _gain(gain: EngineGain) -> str:
    at = f"At the same {gain.at.server_threads} x {gain.at.client_threads} over {gain.at.line}"
    if gain.told == UNTOLD:
        words = f"{at}, which of {gain.engine} and {gain.other} gives more cannot be told ({_times(gain.ratio)}, 99 %)"
    elif gain.told == LESS:
        words = f"{at}, {gain.other} gives {_times(_inverse(gain.ratio))} what {gain.engine} gives"
    else:
        words = f"{at}, {gain.engine} gives {_times(gain.ratio)} what {gain.other} gives"
    if gain.told != UNTOLD:
        words += f" (99 %), {gain.agreement}"
    if gain.thread_step and gain.thread_gain:
        less, more = gain.thread_step
        words += f"; {more} instead of {plural(less, 'server thread')} gave {gain.slower} {_times(gain.thread_gain)}"
    return words


def _inverse(ratio: Range) -> Range:
    low, high = (None if end is None else 1 / end for end in (ratio.high, ratio.low))
    return Range(1 / ratio.value, low, high, ratio.confidence)


def _times(ratio: Range) -> str:
    between = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.3g} to {ratio.high:.3g})"
    return f"{ratio.value:.3g} times{between}"


AXIS = {"server_threads": "server thread", "client_threads": "client"}


def _edges(edges: list[Edge]) -> str:
    """Say that a best cell lies at the edge of what was measured, and what would tell whether more gives more."""
    if not edges:
        return ""
    ends = [f"{_way(edge.place)} with no more than {_reached(edge)}" for edge in edges[:NAMED]]
    more = [f"{len(edges) - NAMED} more"] if len(edges) > NAMED else []
    return f"Measured to the edge: {listed([*ends, *more])}; `{edges[0].command}` would tell."


def _reached(edge: Edge) -> str:
    return listed(plural(count, AXIS[axis]) for axis, count in edge.measured.items())


def _sure(certainty: Certainty | None) -> str:
    assert certainty is not None  # noqa: S101 - there is one wherever a cell is recommended
    parts = [plural(certainty.rounds, "round"), f"{certainty.valid} of {plural(certainty.cells, 'cell')} valid"]
    if certainty.unstable:
        parts.append(f"unstable: {_several(certainty.unstable, certainty.unstable[0])} ({_way(certainty.unstable[0])})")
    if certainty.aa_difference is not None:
        check = f", {certainty.aa_check} than the cells" if certainty.aa_check else ""
        parts.append(f"A/A pairs differ by {certainty.aa_difference:.1%} (root mean square{check})")
    else:
        parts.append("no A/A pair")
    if certainty.noise is not None:
        parts.append(f"noise of a cell in a round {certainty.noise:.1%}")
    return f"Sure: {', '.join(parts)}."


def _mind(found: Findings) -> str:
    words = []
    if note := frames.machine_note(found.rows, found.folder):
        words.append(note)
    wake_up = frames.wake_up_us(found.rows, found.folder)
    least = found.cells["p50_us"].min()
    if wake_up > least / 10:
        words.append(f"low-load latencies measure this machine's wake-ups ({wake_up:.0f} µs each)")
    return f"Mind: {'; '.join(words)}." if words else ""
