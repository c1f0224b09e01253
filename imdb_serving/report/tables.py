"""Tables from the ledger's rows, and the published ones beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from imdb_serving.bench import reference
from imdb_serving.bench.cell import OK
from imdb_serving.bench.ledger import Ledger
from imdb_serving.bench.summary import PUBLISHED_COLUMNS, serving_seconds
from imdb_serving.engines.registry import ENGINES
from imdb_serving.errors import DataError
from imdb_serving.messages import Reply
from imdb_serving.server_process import MODES
from imdb_serving.timing import STAGES

KEY = ["mode", "server_threads", "client_threads"]
MODE_ORDER = [mode + way for mode in MODES for way in ("", " + curl")]
HTTP = "flask"
"""How the modes over HTTP begin."""

SECONDS = [f"{name}_s" for name in PUBLISHED_COLUMNS]


def load(folder: Path) -> pd.DataFrame:
    """Return the rows of a sweep's newest run, failed cells included; raise `DataError` when there is none."""
    return in_order(named_ways(pd.DataFrame(Ledger(folder).latest_run())), [*KEY, "round"])


def named_ways(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the client kind, and the engine where there are several, in the mode's name.

    So cells that differ in these are neither averaged together nor drawn as one curve.
    """
    if "http_client" in rows:
        curl = rows["http_client"] == "curl"
        rows["mode"] = rows["mode"].where(~curl, rows["mode"] + " + curl")
    if len(set(rows["engine"])) > 1:
        rows["mode"] = rows["mode"] + ", " + rows["engine"]
    return rows


def _rank(way: str) -> tuple[int, int]:
    """Return where a mode stands among the others: as in `MODES`, and within one as the engines' table has them."""
    mode, _, engine = way.partition(", ")
    return MODE_ORDER.index(mode), list(ENGINES).index(engine) if engine else 0


def in_order(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the rows sorted by `keys`, modes in the order of `MODES` and not of the alphabet."""
    return rows.sort_values(
        keys,
        key=lambda column: column.map(_rank) if column.name == "mode" else column,
        ignore_index=True,
    )


def modes(rows: pd.DataFrame) -> list[str]:
    """Return the modes that were measured, RPC first."""
    return sorted(rows["mode"].unique(), key=_rank)


def good(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose cell did not fail."""
    return rows[rows["status"] == OK]


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a cell: the median over the rounds of every measured figure, and the number of rounds."""
    if good(rows).empty:
        raise DataError("no cell succeeded: there is nothing to draw; the failed cells' errors say why")
    figures = [name for name in rows.columns if name.endswith(("_s", "_ms", "_us"))]
    grouped = good(rows).groupby(KEY)
    columns = [*figures, "throughput", "accuracy"]
    return in_order(grouped[columns].median().assign(rounds=grouped.size()).reset_index(), KEY)


def published_columns(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the published columns, in seconds as per-client sums, with wall time and throughput."""
    table = cells[[*KEY, *SECONDS, "wall_s", "throughput"]].copy()
    names = {f"{name}_s": name.replace("_", " ") for name in PUBLISHED_COLUMNS}
    names |= {"server_threads": "server threads", "client_threads": "client threads"}
    return table.rename(columns={**names, "wall_s": "wall", "throughput": "samples/s"})


def format_published(table: pd.DataFrame) -> Any:
    """Return the table styled for a page: four significant digits, no index."""
    floats = table.select_dtypes("float").columns
    return table.style.format("{:.4g}", subset=list(floats)).format("{:,.0f}", subset=["samples/s"]).hide(axis="index")


def show_published(rows: pd.DataFrame) -> Any:
    """Return the published columns of the cells that succeeded, styled; words when there are none."""
    return format_published(published_columns(medians(rows))) if len(good(rows)) else "no cell succeeded"


def format_reference(table: pd.DataFrame) -> Any:
    """Return a published table styled like ours."""
    named = table.rename(columns=lambda name: name.removesuffix("_s").replace("_", " "))
    return named.style.format("{:.4g}", subset=list(named.select_dtypes("float").columns)).hide(axis="index")


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
    """Return the failed cells with their reasons."""
    return rows.loc[rows["status"] != OK, [*KEY, "round", "error"]]


def flask_columns(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the published Flask table's columns for the HTTP modes, in seconds, with wall time and throughput.

    Serving time is summed over all requests; total time is what a client needs for its share.
    """
    http = cells[cells["mode"].str.startswith(HTTP)]
    table = http[[*KEY, "total_s", "wall_s", "throughput"]].assign(serving=serving_seconds(http))
    names = {"total_s": "total time", "serving": "serving time", "wall_s": "wall", "throughput": "samples/s"}
    table = table.rename(columns={**names, "server_threads": "server threads", "client_threads": "client threads"})
    return table[["mode", "server threads", "client threads", "serving time", "total time", "wall", "samples/s"]]


def has_http(cells: pd.DataFrame) -> bool:
    """Tell whether any cell was measured over HTTP."""
    return bool(cells["mode"].str.startswith(HTTP).any())


def answers(rows: pd.DataFrame) -> str:
    """Return in words whether all cells gave the same answers, and which did not."""
    words = []
    several = len(set(good(rows)["engine"])) > 1
    for engine, chosen in good(rows).groupby("engine", sort=False):
        counts = chosen["answers"].value_counts()
        of = f" of engine {engine}" if several else ""
        if len(counts) == 1:
            words.append(
                f"All {counts.iloc[0]} cells{of} gave the same answers, to six decimals (MD5 {counts.index[0]})."
            )
            continue
        odd = chosen[chosen["answers"] != counts.index[0]]
        names = [
            f"{row.mode} {row.server_threads} x {row.client_threads}, round {row.round}" for row in odd.itertuples()
        ]
        words.append(f"**Cells{of} whose answers differ from the others':** {'; '.join(names)}.")
    return " ".join(words)


def stage_means(cells: pd.DataFrame, server_threads: int, mode: str | None = None) -> pd.DataFrame:
    """Return the mean microseconds of every stage a request, a row a client count, for one server-thread count."""
    chosen = cells[(cells["server_threads"] == server_threads) & (cells["mode"] == (mode or cells["mode"].iloc[0]))]
    return chosen.set_index("client_threads")[[f"{name}_us" for name in STAGES]].rename(
        columns=lambda name: name.removesuffix("_us")
    )


def published_rpc() -> pd.DataFrame:
    """Return the published RPC table; times in seconds."""
    return reference.published("rpc")


def published_flask() -> pd.DataFrame:
    """Return the published Flask table; times in seconds."""
    return reference.published("flask")


def setting(rows: pd.DataFrame) -> str:
    """Return what all rows have in common, in words."""
    first = rows.iloc[0]
    rounds = plural(rows["round"].nunique(), "round")
    plain = dict.fromkeys(mode.partition(", ")[0] for mode in modes(rows))
    return (
        f"{' and '.join(plain)}, {engines(rows)}, net {first['net']}, {first['samples']:,} samples, "
        f"batch {first['batch']}, {rounds}"
    )


def engine_names(rows: pd.DataFrame) -> list[str]:
    """Return the engines that were measured, in the order of the table of engines."""
    return sorted(rows["engine"].unique(), key=list(ENGINES).index)


def engines(rows: pd.DataFrame) -> str:
    """Return the engines in words."""
    names = engine_names(rows)
    return f"engine {names[0]}" if len(names) == 1 else f"engines {' and '.join(names)}"


def environment(folder: Path) -> pd.DataFrame:
    """Return the sweep's environment card as two columns; empty when there is none (a lone notebook writes none)."""
    path = folder / "environment.json"
    card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    packages = card.pop("packages", {})
    tuned = [(f"engine {name}", _in_words(found)) for name, found in card.pop("engines", {}).items()]
    return pd.DataFrame([*card.items(), *packages.items(), *tuned], columns=["what", "value"]).astype(str)


def _in_words(found: Mapping[str, Any]) -> str:
    """Return what was found of an engine on the machine."""
    speeds = [f"{variant} {speed:,.0f}".strip() for variant, speed in found["reviews_per_second"].items()]
    words = [f"{', '.join(speeds)} reviews/s on one core"]
    if found["variant"]:
        words.append(f"{found['variant']} is used")
    if probes := found.get("probes"):
        words.append(f"the interpreter lock is {'released' if probes['releases_lock'] else 'held'} while it runs")
    return "; ".join(words)


def plural(count: int, noun: str) -> str:
    """Return `1 round`, `2 rounds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def write_cells(rows: pd.DataFrame, path: Path) -> None:
    """Write every cell and round as CSV."""
    rows.to_csv(path, index=False)


def by_client(
    rows: pd.DataFrame, server_threads: int, column: str, mode: str | None = None
) -> tuple[Sequence[int], pd.DataFrame]:
    """Return the client counts of one curve, and the least, median and greatest value of `column` over the rounds."""
    chosen = good(rows)
    chosen = chosen[(chosen["server_threads"] == server_threads) & (chosen["mode"] == (mode or modes(rows)[0]))]
    spread = chosen.groupby("client_threads")[column].agg(["min", "median", "max"])
    return [int(count) for count in spread.index], spread
