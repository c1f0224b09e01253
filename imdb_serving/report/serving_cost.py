"""What serving costs over the bare model: from the overhead ladder, else from the grid. In numbers and in words."""

from __future__ import annotations

from typing import Any

import pandas as pd

from imdb_serving.analysis.cells import valid
from imdb_serving.analysis.intervals import Estimate, estimate
from imdb_serving.analysis.noise import Noise
from imdb_serving.cell import LADDER, plural
from imdb_serving.experiment.beside import PLAIN, WITHOUT, is_plain
from imdb_serving.experiment.ladder import rung_of, rung_of_mode
from imdb_serving.report.answer import Cost, Range

NOT_MEASURED = "What serving costs over the bare model was not measured: set ladder_rounds, or add the mode bare."
NOT_KNOWN = (
    "What serving costs over the bare model is not known: where the server runs an engine of ours, name it as `engine`."
)
NOT_DISTINGUISHABLE = "not distinguishable from 0"


def cost_of(rows: pd.DataFrame, cells: pd.DataFrame, noise: Noise, cell: Any) -> Cost | None:
    """Return what serving in a cell's mode adds to its engine's time, one client; None where it was not measured.

    `noise` is that of the medians of the latency.
    """
    return _by_ladder(rows, cell) or _by_grid(cells, noise, cell)


def _by_ladder(rows: pd.DataFrame, cell: Any) -> Cost | None:
    alike = (rows["engine"] == cell["engine"]) & (rows["math_threads"] == cell["math_threads"])
    rungs = valid(rows[(rows["series"] == LADDER) & (rows["client_threads"] == 1) & alike])
    mine = rung_of_mode(cell["mode"], cell["server"])
    if rungs.empty or mine is None:
        return None
    rungs = rungs.assign(rung=[rung_of(one) for one in rungs["cell"]])
    counts = sorted(set(rungs.loc[rungs["rung"] == mine, "server_threads"]))
    if not counts:
        return None
    threads = min(counts, key=lambda count: (abs(count - cell["server_threads"]), count))
    rungs = rungs[(rungs["endpoint"] == "") | (rungs["server_threads"] == threads)]
    times = rungs.pivot_table(index="round", columns="rung", values="p50_us") / 1000
    if not {"bare", "inproc", mine} <= set(times):
        return None
    own = rungs[rungs["rung"] == mine].set_index("round")
    client = (own["encode_us"] + own["decode_us"]) / 1000
    times = times.dropna(subset=["bare", "inproc", mine])
    added, ops = times[mine] - times["bare"], times["inproc"] - times["bare"]
    parts = {"transport": added - ops - client, "client": client, "ops": ops} if not cell["server"] else {}
    more = (times["flask"] - times[mine]).dropna() if "flask" in times and mine != "flask" else None
    plain = [str(name) for name in times if is_plain(str(name)) and times[name].notna().any()]
    fastest = min(plain, key=lambda name: times[name].mean(), default="")
    return Cost(
        bare_ms=float(times["bare"].mean()),
        added=Range.of(estimate(added)),
        parts={name: Range.of(estimate(part.dropna())) for name, part in parts.items()},
        flask_adds=Range.of(estimate(more)) if more is not None and len(more) else None,
        plain_flask=fastest,
        plain_flask_adds=Range.of(estimate((times[fastest] - times[mine]).dropna())) if fastest else None,
        server_threads=int(threads),
    )


def _by_grid(cells: pd.DataFrame, noise: Noise, cell: Any) -> Cost | None:
    one = cells[(cells["client_threads"] == 1) & (cells["engine"] == cell["engine"]) & cells["valid"].astype(bool)]
    bare = one[one["mode"] == "bare"]
    served = one[(one["line"] == cell["line"]) & (one["panel"] == cell["panel"])].sort_values("server_threads")
    if bare.empty or served.empty:
        return None
    mine = served[served["server_threads"] == cell["server_threads"]]
    first = (mine if len(mine) else served).iloc[0]
    alone, over = float(bare["p50_us"].iloc[0]) / 1000, float(first["p50_us"]) / 1000
    below, above = noise.place(bare["key"].iloc[0]), noise.place(first["key"])
    added = Estimate(over - alone, float("nan"), float("nan"))
    if below is not None and above is not None:
        ratio = noise.ratio(below, above)
        alone = float(noise.interval(below).mean) / 1000
        added = Estimate(*(alone * (value - 1) for value in ratio))
    return Cost(bare_ms=alone, added=Range.of(added), server_threads=int(first["server_threads"]), source="grid")


def in_words(cost: Cost | None, engine: str) -> str:
    """Say what serving costs over this engine; parts that cannot be told from 0 are said to be so."""
    if cost is None:
        return NOT_MEASURED if engine else NOT_KNOWN
    threads = plural(cost.server_threads, "server thread")
    words = (
        f"Serving costs {_ms(cost.added)} ms a review over the bare model's {cost.bare_ms:.2g} ms (95%; one client, "
        f"{threads})"
    )
    if cost.parts:
        words += ": " + ", ".join(f"{name} {_part(part)}" for name, part in cost.parts.items())
    sentences = [f"{words}."]
    if cost.flask_adds is not None:
        sentences.append(_more("Flask", cost.flask_adds))
    if cost.plain_flask_adds is not None:
        server = cost.plain_flask.removeprefix(PLAIN)
        sentences.append(_more(f"Flask as it comes ({WITHOUT}), on {server},", cost.plain_flask_adds))
    return " ".join(sentences)


def _more(who: str, value: Range) -> str:
    if value.holds(0):
        return f"What {who.rstrip(',')} costs more is {NOT_DISTINGUISHABLE}."
    return f"{who} costs {abs(value.value):.2g} ms {'more' if value.value > 0 else 'less'}."


def _ms(value: Range) -> str:
    between = "" if value.low is None or value.high is None else f" ({value.low:.2g} to {value.high:.2g})"
    return f"{value.value:.2g}{between}"


def _part(part: Range) -> str:
    return NOT_DISTINGUISHABLE if part.holds(0) and part.low is not None else f"{part.value:.2g}"
