"""Tables of a sweep for a page: published columns and ours, failures, answers, machines; the published tables' text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from imdb_serving.analysis import cells as analysis
from imdb_serving.analysis import published, usl
from imdb_serving.analysis.published import SAMPLES
from imdb_serving.analysis.published import published_table as table_of
from imdb_serving.analysis.summary import NOT_SERVING, PUBLISHED_COLUMNS, serving_seconds
from imdb_serving.cell import AA_REPEAT, GRID, OK, plural
from imdb_serving.experiment.plan import read_plan
from imdb_serving.measurement.environment import read_texts
from imdb_serving.messages import Reply
from imdb_serving.report import frames

HTTP = "flask"
"""How the modes over HTTP begin."""


def time_spent(folder: Path) -> str:
    """Return in words how long the grid took, and how much of that was measuring; empty where it is not known."""
    plan = read_plan(folder)
    share = plan.measuring(frames.rows_of(folder)) if plan else None
    if plan is None or share is None:
        return ""
    return f"The grid took {plan.spent_s / 60:.1f} minutes, {share:.0%} of them in timed windows."


def stage_order(rows: pd.DataFrame) -> list[str]:
    """Return the parts of a request's `total` that any of these rows has, in the order in which requests pass them."""
    order: list[str] = []
    for names in dict.fromkeys(tuple(names) for names in rows["stages"]):
        place = 0
        for name in names:
            if name in order:
                place = order.index(name) + 1
            else:
                order.insert(place, name)
                place += 1
    return ["prepro", *order, "postpro"]


def published_columns(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the published columns, in seconds as per-client sums, with wall time and throughput.

    An op of one's own is a column too. `valid` counts the rounds that passed every gate.
    """
    ops = [name for name in stage_order(cells) if name not in {*NOT_SERVING, *PUBLISHED_COLUMNS, "handover"}]
    names = [*PUBLISHED_COLUMNS[:-2], *ops, *PUBLISHED_COLUMNS[-2:]]
    shown = [*_keys(cells), *(f"{name}_s" for name in names), "wall_s", "throughput", "rounds"]
    table = cells.reindex(columns=shown)
    renamed = {f"{name}_s": name.replace("_", " ") for name in names} | _THREADS
    return table.rename(columns={**renamed, "wall_s": "wall", "throughput": "samples/s", "rounds": "valid rounds"})


_THREADS = {"server_threads": "server threads", "client_threads": "client threads", "line": "mode", "panel": "with"}


def _keys(cells: pd.DataFrame) -> list[str]:
    """Return the columns that say which cell it is; `panel` only where it says anything."""
    return ["line", *(["panel"] if cells["panel"].any() else []), "server_threads", "client_threads"]


def styled(table: pd.DataFrame) -> Any:
    """Return a table styled for a page, without index, and without a name for every cell, which would be most of it."""
    return Styler(table, cell_ids=False).hide(axis="index")


def facts(table: pd.DataFrame) -> Any:
    """Return a table of words, not of figures to compare, styled for a page."""
    return styled(table).set_table_attributes('class="facts"')


def format_published(table: pd.DataFrame) -> Any:
    """Return the table styled for a page: four significant digits, no index."""
    floats = table.select_dtypes("float").columns
    return styled(table).format("{:.4g}", subset=list(floats), na_rep="").format("{:,.0f}", subset=["samples/s"])


def show_published(rows: pd.DataFrame) -> Any:
    """Return the published columns of the cells that were measured, styled; words when there are none."""
    return format_published(published_columns(frames.cells(rows))) if any_measured(rows) else "no cell succeeded"


def any_measured(rows: pd.DataFrame, *, served: bool = False) -> bool:
    """Tell whether any closed-loop cell of the grid has figures, or any with a server."""
    found = analysis.measured(frames.grid(rows))
    return bool((found["threads"] > 0).any() if served else len(found))


def format_reference(table: pd.DataFrame) -> Any:
    """Return a published table styled like ours."""
    named = table.rename(columns=lambda name: name.removesuffix("_s").replace("_", " "))
    return styled(named).format("{:.4g}", subset=list(named.select_dtypes("float").columns))


def stages(reply: Reply) -> pd.DataFrame:
    """Return the stages of one request: when each began, counted from the first, and how long it took."""
    begin = reply.stages[0].start_ns
    return pd.DataFrame(
        [
            (stage.name, (stage.start_ns - begin) / 1000, (stage.end_ns - stage.start_ns) / 1000)
            for stage in reply.stages
        ],
        columns=["stage", "start [us]", "time [us]"],
    )


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rounds of cells, of all series, that failed or did not pass a gate, with their reasons."""
    bad = rows.loc[rows["status"] != OK, ["series", "line", "panel", "server_threads", "client_threads"]]
    bad = bad.assign(**rows.loc[rows["status"] != OK, ["round", "status", "why"]])
    return bad.rename(columns=_THREADS).reset_index(drop=True)


def failures_in_words(rows: pd.DataFrame) -> str:
    """Return how many rounds failed or cannot be believed, of how many."""
    bad = int((rows["status"] != OK).sum())
    return f"{plural(len(rows), 'measurement')}, {bad or 'none'} of which failed or cannot be believed"


def flask_columns(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the published Flask table's columns for the HTTP modes, in seconds, with wall time and throughput.

    Serving time is summed over all requests; total time is what a client needs for its share.
    """
    http = cells[cells["mode"].str.startswith(HTTP)]
    serving = [float(serving_seconds(row, row["stages"])) for _, row in http.iterrows()]
    table = http[[*_keys(http), "total_s", "wall_s", "throughput"]].assign(serving=serving)
    names = {"total_s": "total time", "serving": "serving time", "wall_s": "wall", "throughput": "samples/s"}
    table = table.rename(columns={**names, **_THREADS})
    return table[[*(_THREADS[name] for name in _keys(http)), "serving time", "total time", "wall", "samples/s"]]


def has_http(cells: pd.DataFrame) -> bool:
    """Tell whether any cell was measured over HTTP."""
    return bool(cells["mode"].str.startswith(HTTP).any())


ANSWERING = ["engine", "net", "model", "pipeline", "math_threads", "samples"]
"""What decides the answers of a cell: cells alike in these must agree."""


def answers(rows: pd.DataFrame) -> str:
    """Return in words how far served answers were from the bare engine's, and whether cells that must agree do."""
    chosen = rows[(rows["answers"] != "") & rows["series"].isin([GRID, AA_REPEAT])]
    words = []
    for _, alike in chosen.groupby(ANSWERING, sort=False):
        cell = alike["cell"].iloc[0]
        name = cell.label(ANSWERING[:4])
        worst, counts = alike["difference"].max(), alike["answers"].value_counts()
        near = f", at most {worst:.0e} from the bare engine's" if worst > 0 else ", and the bare engine's"
        near = "" if pd.isna(worst) else near
        if len(counts) == 1:
            words.append(
                f"All {plural(len(alike), 'measurement')} of {name} gave the same answers to six decimals{near}."
            )
        elif worst <= 1e-4:
            words.append(f"The {len(alike)} measurements of {name} differ in the sixth decimal{near}.")
        else:
            odd = alike[alike["answers"] != counts.index[0]]
            words.append(
                f"**{name}: answers that differ from the others':** {'; '.join(map(_place, odd.itertuples()))}."
            )
    return " ".join(words)


def _place(row: Any) -> str:
    return f"{row.line} {row.server_threads} x {row.client_threads}, round {row.round}"


def stage_means(cells: pd.DataFrame, threads: int, line: str, panel: str) -> pd.DataFrame:
    """Return the mean microseconds of every stage a request, a row a client count, for one server-thread count."""
    _, chosen = curve(cells, threads, line, panel)
    table = chosen.set_index("client_threads").reindex(columns=[f"{name}_us" for name in stage_order(cells)])
    return table.rename(columns=lambda name: name.removesuffix("_us")).fillna(0.0)


def published_rpc() -> pd.DataFrame:
    """Return the published RPC table; times in seconds."""
    return published.published_table("rpc")


def published_flask() -> pd.DataFrame:
    """Return the published Flask table; times in seconds."""
    return published.published_table("flask")


def environment(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return the cards of the machines that measured these rows as two columns; empty when there are none.

    Facts that a machine does not report are left out.
    """
    table = []
    for found in frames.cards(rows, folder):
        card = dict(found)
        packages, engines = card.pop("packages", {}), card.pop("engines", {})
        table += [*card.items(), *packages.items()]
        table += [(f"engine {name}", _in_words(what)) for name, what in engines.items()]
    table += [("texts", words) for words in read_texts(folder)]
    loads = rows[["load_before", "load_after"]].max()
    if len(table):
        table.append(("greatest load before, after a cell", f"{loads['load_before']:.1f}, {loads['load_after']:.1f}"))
    known = [(name, str(value)) for name, value in table if str(value) not in {"", "None", "nan"}]
    return pd.DataFrame(known, columns=["what", "value"])


def machines(rows: pd.DataFrame) -> pd.DataFrame:
    """Return which nodes of a cluster had servers and clients, of how many rounds; empty on one machine."""
    counts: dict[tuple[str, str], int] = {}
    for words in (words for nodes in rows.get("nodes", []) for words in nodes):
        had, _, name = words.rpartition(" on ")
        counts[name, had] = counts.get((name, had), 0) + 1
    table = [(name, had, count) for (name, had), count in sorted(counts.items())]
    return pd.DataFrame(table, columns=["node", "had", "rounds of cells"])


def clocks(rows: pd.DataFrame) -> str:
    """Return in words how well the clocks of different hosts were known; empty where there was one clock."""
    if "clock_bound_us" not in rows or not (known := rows["clock_bound_us"].dropna()).size:
        return ""
    return (
        f"Servers and clients had clocks of their own: `send` and `reply` may be wrong by {known.median():,.0f} µs "
        f"(at most {known.max():,.0f}); where one of them is smaller than that, both stand together as `network`."
    )


def _in_words(found: Mapping[str, Any]) -> str:
    """Return what was found of an engine on the machine."""
    speeds = [f"{variant} {speed:,.0f}".strip() for variant, speed in found["reviews_per_second"].items()]
    words = [f"{', '.join(speeds)} reviews/s on one core"]
    if found["variant"]:
        words.append(f"{found['variant']} is used")
    if probes := found.get("probes"):
        held = "" if probes.get("locked_us") is None else f", but for {probes['locked_us']:,.0f} µs of a review"
        words.append(
            f"the interpreter lock is {f'released{held}' if probes['releases_lock'] else 'held'} while it runs"
        )
    return "; ".join(words)


def curve(cells: pd.DataFrame, threads: int, line: str, panel: str) -> tuple[Sequence[int], pd.DataFrame]:
    """Return the client counts of one curve and its cells."""
    chosen = cells[(cells["line"] == line) & (cells["panel"] == panel) & (cells["threads"] == threads)]
    chosen = chosen.sort_values("client_threads")
    return [int(count) for count in chosen["client_threads"]], chosen


def published_in_words() -> str:
    """Return what the published RPC table shows when it is analysed as ours are, a line a finding."""
    table = table_of("rpc")
    place, total = published.best_cell(table)
    shares = published.unexplained(table)
    lines = [
        f"Its best cell is {place.server_threads} server x {place.client_threads} client threads ({total:g} s), not "
        "the one with most threads.",
        f"Of what clients waited, {shares.min():.0%} to {shares.max():.0%} lies outside op0, op1 and op2, and is not "
        "explained.",
        *(
            f"A slip: {slip.column} of {slip.said:g} s at ({slip.place.server_threads}, {slip.place.client_threads}), "
            f"where every other cell makes it about {slip.expected:.2g}."
            for slip in published.slips(table)
        ),
        f"The text says {SAMPLES:,} samples: then op1 takes {published.op1_ms(table):.1f} ms a sample. IMDB's whole "
        f"test set of {published.IMDB_TEST_SET:,} would make it "
        f"{published.op1_ms(table, published.IMDB_TEST_SET):.1f} ms, which is what such a model takes.",
        _laws(published.laws(table)),
        "One run a cell: nothing says what is noise.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _laws(laws: dict[int, usl.Law | str]) -> str:
    """Say for which server counts the Universal Scalability Law describes the table, and for which it does not."""
    fitted = {servers: law for servers, law in laws.items() if isinstance(law, usl.Law)}
    fits = [f"{servers}" for servers, law in fitted.items() if law.fits]
    off = [f"{servers} ({law.residual:.0%} off)" for servers, law in fitted.items() if not law.fits]
    words = "The Universal Scalability Law "
    if not off:
        return f"{words}fits all server counts."
    of_some = f"fits {', '.join(fits)} server threads; it " if fits else ""
    return f"{words}{of_some}does not fit {', '.join(off)} server threads: nothing is to be extrapolated from them."
