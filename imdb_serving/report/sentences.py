"""The sentences of a verdict that recommends a cell. Owns wording alone."""

from __future__ import annotations

import math
from typing import Any

from imdb_serving.analysis.bounds import CLIENTS, CORES, FRONT, ONE_THREAD, UNKNOWN, WORKERS, has_front, utilisation
from imdb_serving.cell import listed, plural
from imdb_serving.report import costs, frames
from imdb_serving.report.answer import Answer, Certainty, Edge, EngineGain, Range, Way
from imdb_serving.report.engine_gains import LESS, UNTOLD
from imdb_serving.report.findings import Findings
from imdb_serving.report.naming import NAMED, name, several, way
from imdb_serving.server_process import MULTIPROCESS_MODES

AXIS = {"server_threads": "server thread", "math_threads": "math thread", "client_threads": "client"}


def what(found: Findings, way: Way) -> str:
    """Say what to run, and what that gives."""
    rate = f"{way.throughput.value:,.0f} reviews/s"
    if way.throughput.low is not None:
        rate += f" ({way.throughput.low:,.0f} to {way.throughput.high:,.0f})"
    sure = f"{plural(found.rounds, 'round')}, 95%"
    if way.p99 is None:
        words = f"{way.p99_note} ({sure})"
    elif way.p99.low is None:
        words = f"p99 {way.p99.value:.3g} ms ({way.p99_note}; {sure})"
    else:
        words = f"p99 {way.p99.value:.3g} ms ({way.p99.low:.3g} to {way.p99.high:.3g}; {sure})"
    return f"Run {name(way.place)}: {rate}, {words}."


def why(found: Findings, chosen: Any) -> str:
    """Say what limits the chosen cell, and what more threads change."""
    busy = utilisation(chosen, found.cores)
    if busy.limit == CORES:
        words = f"{_all_cores(found.cores)} busy ({_cpu(chosen)})"
    elif busy.limit == FRONT and chosen["mode"] == ONE_THREAD:
        words = f"the web server's one thread is busy for {busy.front:.0%} of the time"
    elif busy.limit == FRONT and not has_front(chosen):
        words = (
            f"the server is one process, whose interpreter is busy: {busy.front:.0%} of a core (--processes adds some)"
        )
    elif busy.limit == FRONT:
        words = f"the process in front of the workers is busy, {busy.front:.0%} of a core; cores {busy.cores:.0%}"
    elif busy.limit == WORKERS:
        words = f"{_workers(chosen)} busy ({busy.workers:.0%}), most of it {busy.most}; cores {busy.cores:.0%}"
    elif busy.limit == CLIENTS:
        words = f"the clients: each sends one request at a time, and the server keeps up ({_known(busy.cores)})"
    elif busy.limit == UNKNOWN:
        name = chosen["server"] or chosen["mode"]
        words = f"what limits {name} is not known: it does not tell how busy its workers are, and {_known(busy.cores)}"
    else:
        front = f", one interpreter {busy.front:.0%}" if busy.front else ""
        words = f"nothing is busy all the time (workers {busy.workers:.0%}, cores {busy.cores:.0%}{front})"
    more = [_more(found, chosen, axis) for axis in ("server_threads", "math_threads")]
    return f"Why: {'; '.join(filter(None, [words, *more]))}."


def _known(cores: float) -> str:
    return "its processes are not known" if math.isnan(cores) else f"{cores:.0%} of the cores are busy"


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


def _more(found: Findings, chosen: Any, axis: str) -> str:
    """Say what the next count of this axis changes, all else alike; empty where none was measured."""
    alike = found.sound
    for column in ("line", "setup", *AXIS):
        if column != axis:
            alike = alike[alike[column] == chosen[column]]
    more = alike[alike[axis] > chosen[axis]].sort_values(axis)
    places = found.noise.place(chosen["key"]), found.noise.place(more["key"].iloc[0]) if len(more) else None
    if places[0] is None or places[1] is None:
        return ""
    gain = found.noise.ratio(places[0], places[1])
    between = f" ({gain.low - 1:+.1%} to {gain.high - 1:+.1%}, 95%)" if math.isfinite(gain.low) else ""
    return f"{plural(int(more[axis].iloc[0]), AXIS[axis])} change {gain.mean - 1:+.1%}{between}"


def engines(found: Findings, made: Answer, chosen: Any) -> str:
    """Say what other engines give at the same place, and what another thread gives the slower one."""
    apart = found.engines_apart
    if not chosen["engine"]:
        return ""
    if not made.engines and not apart:
        beside = "; params/engines.yaml measures others beside it" if chosen["net"] else ""  # one of ours
        return f"Only engine {chosen['engine']} was measured{beside}."
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
        words = f"{at}, which of {gain.engine} and {gain.other} gives more cannot be told ({_times(gain.ratio)}, 99%)"
    elif gain.told == LESS:
        words = f"{at}, {gain.other} gives {_times(_inverse(gain.ratio))} what {gain.engine} gives"
    else:
        words = f"{at}, {gain.engine} gives {_times(gain.ratio)} what {gain.other} gives"
    if gain.told != UNTOLD:
        words += f" (99%), {gain.agreement}"
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


def edges(edges: list[Edge]) -> str:
    """Say that a best cell lies at the edge of what was measured, and what would tell whether more gives more."""
    if not edges:
        return ""
    ends = [f"{way(edge.place)} with no more than {_reached(edge)}" for edge in edges[:NAMED]]
    more = [f"{len(edges) - NAMED} more"] if len(edges) > NAMED else []
    return f"Measured to the edge: {listed([*ends, *more])}; `{edges[0].command}` would tell."


def _reached(edge: Edge) -> str:
    return listed(plural(count, AXIS[axis]) for axis, count in edge.measured.items())


def sure(certainty: Certainty | None) -> str:
    """Say how much was measured, and how noisy it was."""
    assert certainty is not None  # noqa: S101 - there is one wherever a cell is recommended
    parts = [plural(certainty.rounds, "round"), f"{certainty.valid} of {plural(certainty.cells, 'cell')} valid"]
    if certainty.searched is not None:
        parts[0] = f"a search of {parts[0]} measured {certainty.cells} of {plural(certainty.searched, 'cell')}"
        parts[1] = f"{certainty.valid} of them valid"
    if certainty.unstable:
        parts.append(f"unstable: {several(certainty.unstable, certainty.unstable[0])} ({way(certainty.unstable[0])})")
    if certainty.aa_difference is not None:
        check = f", {certainty.aa_check} than the cells" if certainty.aa_check else ""
        parts.append(f"A/A pairs differ by {certainty.aa_difference:.1%} (root mean square{check})")
    else:
        parts.append("no A/A pair")
    if certainty.noise is not None:
        parts.append(f"noise of a cell in a round {certainty.noise:.1%}")
    return f"Sure: {', '.join(parts)}."


def mind(found: Findings, chosen: Any) -> str:
    """Say what the numbers hold for alone."""
    words = []
    if chosen["mode"] in MULTIPROCESS_MODES and chosen["worker_kind"] == "thread" and chosen["server_threads"] > 1:
        count = int(chosen["server_processes"])
        words.append(f"the workers were in {plural(count, 'process')} (--processes {count})")
    if note := frames.machine_note(found.rows, found.folder):
        words.append(note)
    wake_up = frames.wake_up_us(found.rows, found.folder)
    least = found.cells["p50_us"].min()
    if wake_up > least / 10:
        words.append(f"low-load latencies measure this machine's wake-ups ({wake_up:.0f} µs each)")
    return f"Mind: {'; '.join(words)}." if words else ""
