"""The verdict: at most eight lines that say what to run, what that gives, why, what it costs, and how sure this is.

Owns the choice and the wording; the numbers come from `analysis`. It recommends nothing where cells that matter cannot
be believed, and says which, why, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from imdb_serving.analysis.bounds import CLIENTS, CORES, WEB_SERVER, WORKERS, utilisation
from imdb_serving.analysis.cells import Noise, noise_of, valid
from imdb_serving.analysis.intervals import certified, interval, needed
from imdb_serving.cell import FAILED, LOCAL_MODES, plural
from imdb_serving.errors import DataError
from imdb_serving.experiment.sweep import read_plan
from imdb_serving.measurement.ledger import read_samples
from imdb_serving.report import costs, frames, open_loop
from imdb_serving.report.chart import inline_markup
from imdb_serving.report.warnings import warnings_of

LEAST_ROUNDS = 2
MOST_LINES = 8


class Verdict(NamedTuple):
    """The lines of the verdict, the warnings below it, and the key of the recommended cell, empty for none."""

    lines: list[str]
    warnings: list[str]
    key: str

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


@dataclass(frozen=True)
class Findings:
    """The figures that a verdict is made of."""

    rows: pd.DataFrame
    cells: pd.DataFrame
    noise: Noise
    cores: int
    folder: Path

    @property
    def rounds(self) -> int:
        """How many rounds of the grid there are."""
        return int(frames.of_one_sort(self.rows)["round"].max())

    @property
    def command(self) -> str:
        """What measured the sweep."""
        plan = read_plan(self.folder)
        return f"imdb-serving sweep {plan.file if plan else 'FILE'}"


def verdict(rows: pd.DataFrame, folder: Path) -> Verdict:
    """Return the verdict on a sweep's rows, as `frames.load` gives them; its folder has raw samples and cards."""
    cells = frames.cells(rows)
    cores = frames.cores(rows, folder)
    found = Findings(rows, cells, noise_of(rows), cores, folder)
    warned = warnings_of(rows, cells, found.noise, cores, folder)
    if refused := _refusal(found):
        return Verdict(refused, warned, "")
    best = _choose(found)
    lines = [
        _what(found, best),
        _why(found, best),
        _cost(found, best),
        _steps(found, best),
        _engines(found),
        _sure(found),
        _mind(found),
    ]
    return Verdict([line for line in lines if line][:MOST_LINES], warned, str(best["key"]))


FILE = "verdict.txt"


def save(made: Verdict, folder: Path) -> None:
    """Write a verdict beside the report, for the command that asked for it."""
    (folder / FILE).write_text(made.text + "\n", encoding="utf-8")


def _served(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[~cells["mode"].isin(LOCAL_MODES)]


def _refusal(found: Findings) -> list[str]:
    """Return why nothing is recommended and what to do; empty when there is no reason."""
    served = _served(found.cells)
    sound = served[served["valid"].astype(bool)]
    rounds = found.rounds
    if served.empty:
        return _without_served(found)
    if rounds < LEAST_ROUNDS:
        return [
            "No verdict: one round has no interval, and nothing tells chance from difference.",
            f"Do: `{found.command} --rounds 3`; what is measured already stays.",
        ]
    bad = served[~served["valid"].astype(bool)]
    best = float(sound["throughput"].max()) if len(sound) else 0.0
    matter = bad[bad["throughput"] > best * (1 - found.noise.floor)].sort_values("throughput", ascending=False)
    failed = _never_measured(found)
    if matter.empty and len(sound):
        return []
    lines = [
        f"No verdict: {len(bad) + failed} of {len(served) + failed} cells cannot be believed, the fastest among them:"
    ]
    for _, cell in matter.head(3).iterrows():
        lines.append(f"  {_name(cell)}, {cell['throughput']:,.0f} samples/s: {_first(cell['why'])}")
    lines.append(f"Do what is said there, then measure another round: `{found.command} --rounds {rounds + 1}`.")
    return lines


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
        *(_alone(cell) for _, cell in found.cells[: MOST_LINES - 2].iterrows()),
        _rounds(found),
    ]


def _alone(cell: Any) -> str:
    return f"{_way(cell)}, {plural(int(cell['client_threads']), 'client')}: {cell['throughput']:,.0f} reviews/s."


def _rounds(found: Findings) -> str:
    if found.rounds < LEAST_ROUNDS:
        return f"One round alone does not tell chance from difference: `{found.command} --rounds 3`."
    return f"Sure: medians of {plural(found.rounds, 'round')}."


def _never_measured(found: Findings) -> int:
    return int(frames.grid(found.rows)["key"].nunique()) - len(found.cells)


def _first(why: str) -> str:
    return why.split("; ", maxsplit=1)[0] + (f" ({why.split('; ')[1]})" if "; " in why else "")


def _name(cell: Any) -> str:
    return f"{_way(cell)}, {_counts(cell)}"


def _way(cell: Any) -> str:
    return ", ".join([cell["line"], cell["panel"] or f"engine {cell['engine']}"])


def _counts(cell: Any) -> str:
    threads = plural(int(cell["server_threads"]), "server thread")
    return f"{threads}, {plural(int(cell['client_threads']), 'client')}"


def _choose(found: Findings) -> Any:
    """Return the fewest server threads, then the fewest clients, that give the most within the noise."""
    served = _served(found.cells)
    sound = served[served["valid"].astype(bool)]
    enough = sound[sound["throughput"] >= sound["throughput"].max() * (1 - found.noise.floor)]
    return enough.sort_values(["server_threads", "client_threads", "throughput"]).iloc[0]


def _what(found: Findings, best: Any) -> str:
    rate = f"{best['throughput']:,.0f} reviews/s"
    if isfinite(best["throughput_low"]):
        rate += f" ({best['throughput_low']:,.0f} to {best['throughput_high']:,.0f})"
    return f"Run {_name(best)}: {rate}, {tail(found, best)}."


def tail(found: Findings, cell: Any, quantile: float = 0.99) -> str:
    """Return a cell's percentile in words, from the samples of all its valid rounds, or that there are too few."""
    own = valid(found.rows[found.rows["key"] == cell["key"]])
    try:
        times = pd.concat([read_samples(found.folder, raw, ["client_infer_ns"]) for raw in own["raw"]])
    except (DataError, ValueError):
        return "single requests' times are gone"
    latencies = times["client_infer_ns"].to_numpy() / 1e6
    value = certified(latencies, quantile)
    if value is None:
        return f"p{100 * quantile:g} not certifiable with n {len(times):,} (needs {needed(quantile):,})"
    low, high = interval(latencies, quantile)
    sure = f"{low:.3g} to {high:.3g}" if isfinite(high) else f"at least {low:.3g}"
    return f"p{100 * quantile:g} {value:.3g} ms ({sure}; n {len(times):,})"


def _why(found: Findings, best: Any) -> str:
    busy = utilisation(best, found.cores)
    if busy.limit == CORES:
        whose = costs.cpu_shares(found.cells, best)
        words = f"{_all_cores(found.cores)} busy ({', '.join(f'{name} {share:.0%}' for name, share in whose.items())})"
    elif busy.limit == WORKERS:
        words = f"{_workers(best)} busy, most of the time with {busy.most}; cores {busy.cores:.0%}"
    elif busy.limit == WEB_SERVER:
        words = f"the web server's one thread is busy for {busy.web_server:.0%} of the time"
    elif busy.limit == CLIENTS:
        words = (
            f"the clients: each sends one request at a time, and the server keeps up ({busy.cores:.0%} of the cores)"
        )
    else:
        words = (
            f"no resource is busy all the time (cores {busy.cores:.0%}, workers {busy.workers:.0%}): requests wait for "
            "each other or to be woken"
        )
    return f"Why: {words}{_more_threads(found, best)}."


def _all_cores(cores: int) -> str:
    return {1: "the one core is", 2: "both cores are"}.get(cores, f"all {cores} cores are")


def _workers(cell: Any) -> str:
    count = int(cell["server_threads"])
    return "the worker is" if count == 1 else f"all {count} workers are"


def _neighbours(found: Findings, best: Any, column: str) -> tuple[Any, Any]:
    """Return the valid cells that differ in one count only, the next smaller and the next greater."""
    other = {"server_threads": "client_threads", "client_threads": "server_threads"}[column]
    cells = found.cells
    alike = cells[(cells["line"] == best["line"]) & (cells["panel"] == best["panel"]) & cells["valid"].astype(bool)]
    alike = alike[alike[other] == best[other]].sort_values(column)
    less, more = alike[alike[column] < best[column]], alike[alike[column] > best[column]]
    return (less.iloc[-1] if len(less) else None), (more.iloc[0] if len(more) else None)


def _more_threads(found: Findings, best: Any) -> str:
    _, more = _neighbours(found, best, "server_threads")
    if more is None:
        return ""
    return f"; {plural(int(more['server_threads']), 'server thread')} change {_change(found, best, more)}"


def _change(found: Findings, best: Any, other: Any) -> str:
    change = other["throughput"] / best["throughput"] - 1
    noise = f"noise {found.noise.floor:.1%}"
    return f"{change:+.1%} ({'within the ' if abs(change) <= found.noise.floor else ''}{noise})"


def _cost(found: Findings, best: Any) -> str:
    return costs.in_words(found.rows, found.cells, best)


def _steps(found: Findings, best: Any) -> str:
    words = []
    for column in ("server_threads", "client_threads"):
        less, more = _neighbours(found, best, column)
        words += [_step(found, best, step) for step in (less, more) if step is not None]
    return f"One step less or more: {'; '.join(words)}." if words else ""


def _step(found: Findings, best: Any, step: Any) -> str:
    change = step["throughput"] / best["throughput"] - 1
    doubt = ", within the noise" if abs(change) <= found.noise.floor else ""
    return f"{_counts(step)} {step['throughput']:,.0f} ({change:+.0%}{doubt})"


def _engines(found: Findings) -> str:
    """Say whether another engine buys more than another thread, with the gain of each."""
    served = _served(found.cells)
    sound = served[served["valid"].astype(bool)]
    by_engine = sound.groupby("engine", sort=False)["throughput"].max().sort_values(ascending=False)
    if len(by_engine) == 1:
        return f"Only engine {by_engine.index[0]} was measured; params/engines.yaml measures others beside it."
    first, second = by_engine.index[:2]
    engine_gain = by_engine.iloc[0] / by_engine.iloc[1]
    slower = sound[sound["engine"] == second]
    thread_gain, step = _best_thread_step(slower)
    agreement = _agreement(sound, first, second)
    if not step:
        return f"Engine {first} gives {engine_gain:.2g} times what {second} gives at its best; {agreement}."
    more = "more" if engine_gain > thread_gain else "less"
    return (
        f"Another engine buys {more} than another thread: {first} gives {engine_gain:.2g} times what {second} gives at "
        f"its best, {step} of {second} {thread_gain:.2g} times; {agreement}."
    )


def _agreement(cells: pd.DataFrame, first: str, second: str) -> str:
    """Say whether two engines gave the same answers, or what else is known: how often each was right."""
    one, other = (cells[cells["engine"] == engine] for engine in (first, second))
    if set(one["answers"]) & set(other["answers"]) - {""}:
        return "same answers, to six decimals"
    return f"right in {one['accuracy'].median():.2%} and {other['accuracy'].median():.2%}"


def _best_thread_step(cells: pd.DataFrame) -> tuple[float, str]:
    """Return what the best step to more server threads multiplies throughput by, and which step that is."""
    gains = [(1.0, "")]
    for _, own in cells.groupby(["line", "panel"], sort=False):
        peaks = own.groupby("server_threads")["throughput"].max().sort_index()
        counts = list(peaks.index)
        for less, more in pairwise(counts):
            gains.append((float(peaks[more] / peaks[less]), f"{less} to {plural(int(more), 'server thread')}"))
    steps = gains[1:]
    return max(steps) if steps else gains[0]


def _sure(found: Findings) -> str:
    cells, noise = found.cells, found.noise
    total = len(cells) + _never_measured(found)
    rounds = plural(found.rounds, "round")
    pair = (
        f"A/A difference {abs(noise.difference):.1%} (noise floor {noise.floor:.1%})"
        if noise.known
        else f"no A/A pair, noise taken as {noise.floor:.0%}"
    )
    return f"Sure: {rounds}, {int(cells['valid'].sum())} of {plural(total, 'cell')} valid, {pair}."


def _mind(found: Findings) -> str:
    words = []
    if note := frames.machine_note(found.rows, found.folder):
        words.append(note)
    wake_up = frames.wake_up_us(found.rows, found.folder)
    least = found.cells["p50_us"].min()
    if wake_up > least / 10:
        words.append(f"low-load latencies measure this machine's wake-ups ({wake_up:.0f} µs each)")
    return f"Mind: {'; '.join(words)}." if words else ""
