"""What was measured or is running: `report`, `compare`, `trace`, `schema` and `status`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Seconds, as_engine, complete_engines, shows_credentials
from imdb_serving.errors import ConfigError, DataError, ServerUnavailable

if TYPE_CHECKING:
    from imdb_serving.keys import Credentials
    from imdb_serving.messages import ServerInfo
    from imdb_serving.report.kernels import Kernels

METRICS_PATH = "/metrics"
MAX_BYTES = 16 << 20
SHARES = (0.5, 0.99)


def print_status(endpoint: str, timeout: float, credentials: Credentials) -> None:
    """Print it; `endpoint` is a server's, or that of its metrics."""
    from imdb_serving.clients.connect import connect

    if endpoint.startswith("http") and endpoint.rstrip("/").endswith(METRICS_PATH):
        _print_metrics(endpoint, timeout)
        return
    with connect(endpoint, timeout, credentials=credentials) as client:
        info = client.hello()
    _print_info(info)
    if info.metrics:
        print()
        _print_metrics(info.metrics, timeout)
    else:
        print("\nno metrics: the server was started without --metrics-port")


def _print_info(info: ServerInfo) -> None:
    for name, value in asdict(info).items():
        if value not in ("", (), []):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple | list) else value
            print(f"{name.replace('_', ' '):<20}{shown}")


def _print_metrics(url: str, timeout: float) -> None:
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    from prometheus_client.parser import text_string_to_metric_families

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout) as response:  # past any proxy of the user's
            text = response.read(MAX_BYTES).decode("utf-8", "replace")
    except (URLError, OSError, ValueError) as error:
        raise ServerUnavailable(f"no metrics at {url}: {getattr(error, 'reason', error)}") from error
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            _print_histogram(family.name, family.samples)
            continue
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = " ".join(f"{name}={value}" for name, value in sample.labels.items())
                print(f"{sample.name.removeprefix('imdb_serving_'):<28}{labels:<44}{sample.value:>16,.10g}")


def _print_histogram(name: str, samples: list) -> None:  # type: ignore[type-arg] # prometheus_client's named tuples
    """Print the mean, and between which bounds the median and the 99th percentile lie."""
    stages: dict[str, dict[str, float]] = {}
    for sample in samples:
        stage = stages.setdefault(sample.labels.get("stage", ""), {})
        if sample.name.endswith("_bucket"):
            stage[sample.labels["le"]] = sample.value
        else:
            stage[sample.name.removeprefix(name)] = sample.value
    for stage_name, values in stages.items():
        count = values.pop("_count", 0.0)
        mean = values.pop("_sum", 0.0) / count if count else 0.0
        half, most = (next((le for le, total in values.items() if total >= share * count), "+Inf") for share in SHARES)
        print(
            f"{'stage seconds':<28}{'stage=' + stage_name:<20}mean {mean:.6f}  half within {half}  "
            f"99 % within {most}  of {count:,.0f} requests"
        )


@group.command()
@click.argument("endpoint")
@click.option("--timeout", type=Seconds(min=0, min_open=True), default=5.0, help="Seconds to wait for an answer.")
@shows_credentials
def status(endpoint: str, timeout: float, credentials: Any) -> None:
    """Print what the server at ENDPOINT says of itself, and its metrics if it was started with --metrics-port.

    \b
    Example:
      imdb-serving status tcp://127.0.0.1:9292
    """
    print_status(endpoint, timeout, credentials)


def write_report(
    folder: Path, zone: float, select: str, kernels: Kernels | None = None, *, figures: bool = False
) -> None:
    """Execute the report notebook on a sweep's folder; write `cells.csv`, `report.html` and, if wanted, figures."""
    from imdb_serving.measurement.ledger import FILE
    from imdb_serving.report.notebooks import execute

    folder = folder.resolve()
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; run `imdb-serving sweep` first")
    print("drawing the report", file=sys.stderr)
    executed = folder / "notebooks" / "report.ipynb"
    given = {"folder": str(folder), "zone": zone, "select": select, "figures": figures}
    execute("report.ipynb", executed, given, kernels, often=False)
    from imdb_serving.report.page import VERDICT, write_page  # the kernel's start need not wait for this

    write_page(executed, folder / "report.html", f"imdb-serving: {folder.name}")
    print((folder / VERDICT).read_text(encoding="utf-8"), end="")
    print(f"report: {folder / 'report.html'}", file=sys.stderr)


def _selection(_ctx: click.Context, _param: click.Parameter, given: str) -> str:
    from imdb_serving.analysis.selection import read_selection

    return str(read_selection(given)) if given else ""


zone_option = click.option(
    "--zone", type=click.FloatRange(0, 50, min_open=True), default=5.0, metavar="PERCENT", show_default=True,
    help="The shortfall from the best that does not matter: the cheapest cell shown to be so near is recommended.",
)  # fmt: skip
"""For the commands that write a verdict."""

select_option = click.option(
    "--select", default="", metavar="BY", callback=_selection,
    help="What a cell is chosen by: throughput, efficiency (the least CPU time a request within 10 % of the best rate) "
    "or 'p99: 20ms' (the most throughput whose p99 is shown to hold that). Default: what the parameter file says.",
)  # fmt: skip
"""For the commands that write a verdict."""

figures_option = click.option("--figures", is_flag=True, help="Write every figure as PNG, SVG and PDF too.")
"""For the commands that write a report."""


def run_compare(first: Path, second: Path, loss: float) -> int:
    """Print what B gained or lost against A, draw both into B's folder, and return the exit code.

    0 same or better, 1 worse, 2 not comparable, 3 when a loss of so large a share could not have been seen.
    """
    from imdb_serving.report import compare

    made = compare.compare(first.resolve(), second.resolve(), loss)
    print(compare.text(made))
    if made.code != compare.NOT_COMPARABLE:
        name = f"compared-with-{first.resolve().name}"
        compare.changes(made).save(second.resolve() / "figures", name)
        print(f"figure: {second.resolve() / 'figures' / name}.png", file=sys.stderr)
    return made.code


def write_requests(
    folder: Path, out: Path | None, requests: int, mode: str, engine: str, server_threads: int, clients: int
) -> None:
    """Write a trace of requests of one cell, that of the highest throughput among those that fit what is given."""
    from imdb_serving.measurement.ledger import FILE
    from imdb_serving.report import frames
    from imdb_serving.report.timelines import row_of, timelines, write_trace

    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; run `imdb-serving sweep` first")
    rows = frames.load(folder)
    wanted = {"mode": mode, "engine": engine, "server_threads": server_threads, "client_threads": clients}
    for name, value in wanted.items():
        if not value:
            continue
        there = sorted(set(rows[name]))
        rows = rows[rows[name] == value]
        if rows.empty:
            words = name.replace("_", " ")
            raise ConfigError(f"no cell with {words} {value}; there is {', '.join(map(str, there))}")
    row = row_of(rows, "")
    sampled = timelines(folder, row, requests)
    path = out or folder / "trace.json"
    cell = row["cell"].label()
    write_trace(sampled, path, {"cell": cell, "round": int(row["round"]), "samples": str(row["raw"])})
    print(f"{len(sampled)} requests of {cell}", file=sys.stderr)
    print(f"{path}: open it at https://ui.perfetto.dev or chrome://tracing")


@group.command()
@click.argument("first", metavar="A", type=click.Path(file_okay=False, path_type=Path))
@click.argument("second", metavar="B", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--must-see", type=click.FloatRange(0, 100, min_open=True, max_open=True), default=10.0, metavar="PERCENT",
    show_default=True, help="The loss that must be seen, or the exit code is 3.",
)  # fmt: skip
def compare(first: Path, second: Path, must_see: float) -> None:
    """Compare two sweeps' folders, all cells together and each: what B gained or lost against A, with intervals.

    It prints the least loss that could have been seen. The exit code is 0 when B is the same or better, 1 when a cell
    or all together are worse, 2 when they are not comparable, 3 when none is worse but a loss of --must-see per cent
    could not have been seen in every cell.

    \b
    Example:
      imdb-serving compare outputs/before outputs/default
    """
    sys.exit(run_compare(first, second, must_see / 100))


@group.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@zone_option
@select_option
@figures_option
def report(folder: Path, zone: float, select: str, figures: bool) -> None:
    """Rebuild the report of a sweep from its ledger.

    Charts whose data and code have not changed are not drawn again. Figures that are there are kept up to date.

    \b
    Example:
      imdb-serving report outputs/default
      imdb-serving report outputs/default --figures
      imdb-serving report outputs/default --zone 2
      imdb-serving report outputs/default --select 'p99: 20ms'
    """
    write_report(folder, zone / 100, select, figures=figures)


@group.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: trace.json in FOLDER.")
@click.option(
    "--requests", type=click.IntRange(min=1), default=200, help="How many requests, from the middle of the run."
)
@click.option("--mode", default="", help="The cell's mode; default: any.")
@click.option(
    "--engine", default="", shell_complete=complete_engines, callback=as_engine,
    help="The cell's engine; default: any.",
)  # fmt: skip
@click.option("--server-threads", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
@click.option("--clients", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
def trace(folder: Path, **options: Any) -> None:
    """Write requests of a sweep's cell as a trace, across clients, server and workers, for Perfetto or Chrome.

    FOLDER is a sweep's folder with its raw samples. Of the cells that fit, the one of the highest throughput is taken.

    \b
    Example:
      imdb-serving trace outputs/default
      imdb-serving trace outputs/default --mode flask --engine paddle --clients 4 --out flask.json
    """
    write_requests(folder, **options)


SCHEMAS = {
    "verdict": "imdb_serving.report.answer:Answer",
    "ledger": "imdb_serving.cell:Row",
    "parameters": "imdb_serving.measurement.parameters:SweepParams",
}


@group.command()
@click.argument("what", type=click.Choice(list(SCHEMAS)))
def schema(what: str) -> None:
    """Print the JSON Schema of verdict.json, of a line of ledger.jsonl, or of a parameter file, made from the types.

    \b
    Example:
      imdb-serving schema verdict
    """
    import msgspec

    from imdb_serving.measurement.parameters import ON_CLUSTER
    from imdb_serving.measurement.parameters.foreign import folded

    module, _, name = SCHEMAS[what].partition(":")
    made = msgspec.json.schema(getattr(import_module(module), name))
    for kind in made["$defs"].values():
        kind["description"] = inspect.cleandoc(kind.get("description", ""))
    if what == "parameters":
        made["$defs"][name]["properties"] = folded(made["$defs"][name]["properties"])
        made["$defs"][name]["properties"][ON_CLUSTER] = {"type": "object", "description": "What differs on a cluster."}
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": what, **made}
    print(msgspec.json.format(msgspec.json.encode(made), indent=1).decode())
