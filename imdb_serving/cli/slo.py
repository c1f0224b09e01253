"""`imdb-serving slo` and `mlperf`: a server probed at several loads, by our load generator and by MLPerf's."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Milliseconds, given, probe_options, run_of_file
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import ConfigError

if TYPE_CHECKING:
    from imdb_serving.cell import Cell, Row
    from imdb_serving.experiment import slo as loads
    from imdb_serving.load import mlperf as loadgen
    from imdb_serving.measurement.parameters import GridParams


SAMPLES = 5000
"""Different reviews at most; more requests send them again."""


def probe_params(sweep: str, clients: int, model: Path | None, file: Path | None = None, **options: Any) -> GridParams:
    """Return the parameters of a server to probe, with its rows in the folder `sweep`; train the model if missing.

    The server may be one of someone else, as a parameter file says; options that were given stand before that.
    """
    from imdb_serving.cell import SEARCH
    from imdb_serving.measurement.ledger import new_run
    from imdb_serving.measurement.models import require_model
    from imdb_serving.measurement.parameters import GridParams

    values = options if file is None else run_of_file(file) | {"outputs": ""} | given(options)
    values |= {"model": str(model.resolve())} if model else {}
    fixed = {"client_threads": [clients], "series": SEARCH, "sweep": sweep, "run": new_run(), "samples": SAMPLES}
    params = GridParams(**values | fixed)
    if facts_of(params.engine).needs_model:
        require_model(params)
    return params


def with_requests(cell: Cell, requests: int) -> Cell:
    """Return the cell with about this many requests, in whole passes over its reviews."""
    import msgspec

    return msgspec.structs.replace(cell, samples=min(requests, SAMPLES), passes=-(-requests // SAMPLES))


LOWEST = 0.1
"""The share of what the server can do at most at which a search begins; below it nothing is looked for."""


def run_slo(*, errors: float, clients: int, seconds: float, rounds: int, model: Path | None, **options: Any) -> int:
    """Search and print both edges; returns the exit code: 0, or 1 when the limit is not reached at all."""
    from imdb_serving.experiment import slo as loads
    from imdb_serving.experiment.grid import run_words

    limit = _limit(errors, {name: options.pop(name) for name in loads.PERCENTILES})
    params = probe_params("slo", clients, model, **options)
    with ExitStack() as stack:
        search = _Search(params, limit, seconds, rounds, stack)
        print(f"{run_words(params)}: {limit}", file=sys.stderr)
        most = search.capacity()
        print(f"at most about {most:,.0f} requests/s are answered; looking for the highest rate", file=sys.stderr)
        rate = loads.find_edge(search.at_rate, LOWEST * most, 1.2 * most)
        print("looking for the most clients", file=sys.stderr)
        count = loads.find_edge(search.with_clients, 1, clients, whole=True)
    print(_in_words("highest rate", "requests/s", rate, limit))
    print(_in_words("most clients", "clients", count, limit))
    print("Clients and server share this machine's cores; `imdb-serving doctor` says what else to mind.")
    return 0 if rate.holds is not None or count.holds is not None else 1


def _limit(errors: float, percentiles: dict[str, float | None]) -> loads.Limit:
    from imdb_serving.experiment import slo as loads

    given = {name: value for name, value in percentiles.items() if value is not None}
    if len(given) != 1:
        raise ConfigError("slo: give one limit, for example --p95 20ms")
    ((name, value),) = given.items()
    return loads.Limit(name, value, errors)


class _Search:
    """A server and clients that are kept, and probes against them; each probe is a row of the ledger."""

    def __init__(self, params: GridParams, limit: loads.Limit, seconds: float, rounds: int, stack: ExitStack) -> None:
        from imdb_serving.analysis.gates import ACHIEVED
        from imdb_serving.experiment.grid import GridRun

        self._params, self._limit, self._rounds = params, limit, rounds
        # What is still under way at a probe's end must not look like a rate that was not reached.
        self._seconds = max(seconds, limit.most_ms / 1000 / (1 - ACHIEVED))
        self._run = GridRun(params, lambda _words: None)
        self._server = stack.enter_context(self._run.server())
        self._clients = stack.enter_context(self._run.clients(self._server))
        self._asked = 0

    def capacity(self) -> float:
        """Return about how many requests a second all clients get answered in a closed loop."""
        most = max(self._params.client_threads)
        guess = self._measure(self._params.cell(most), 200)
        return self._measure(self._params.cell(most), guess * self._seconds)

    def at_rate(self, rate: float) -> loads.Probe:
        """Probe an offered rate."""
        import msgspec

        params = msgspec.structs.replace(self._params, arrivals="poisson", rates=[rate])
        return self._probe(params.cell(max(params.client_threads), rate), rate, rate * self._seconds)

    def with_clients(self, clients: float) -> loads.Probe:
        """Probe a number of clients in a closed loop."""
        cell = self._params.cell(int(clients))
        return self._probe(cell, clients, self._measure(cell, self._limit.requests) * self._seconds)

    def _probe(self, cell: Cell, load: float, requests: float) -> loads.Probe:
        from imdb_serving.experiment import slo as loads

        held, worst, why = 0, 0.0, ""
        for _ in range(self._rounds):
            row = self._row(cell, max(requests, self._limit.requests))
            holds, latency, seen = loads.holds(row, self._limit)
            held, worst = held + holds, max(worst, latency)
            why = why if holds and why else seen
        probe = loads.Probe(load, held, self._rounds, worst, why)
        print(f"  {load:>10,.6g}: held {held} of {self._rounds} times, {why}", file=sys.stderr)
        return probe

    def _measure(self, cell: Cell, requests: float) -> float:
        return self._row(cell, requests).figures.request_rate

    def _row(self, cell: Cell, requests: float) -> Row:
        """Measure once; every measurement is a round of its own, so that none takes another's place in the ledger."""
        from imdb_serving.measurement.measure import measure

        cell = with_requests(cell, max(math.ceil(requests), 2 * cell.client_threads))
        self._asked += 1
        context = replace(self._run.context, number=self._asked)
        return self._run.ledger.append(*measure(cell, context, self._clients.session, "", self._server.target))


def _in_words(what: str, unit: str, edge: loads.Edge, limit: loads.Limit) -> str:
    """Return where the limit is, how sure that is, and how latency grows there."""
    from imdb_serving.cell import plural

    if edge.holds is None:
        return f"{what}: not reached: {edge.probes[0].load:,.4g} {unit} do not hold {limit} ({edge.probes[0].why})"
    if edge.breaks is None and edge.probes[-1].load == edge.holds:
        return f"{what}: {edge.holds:,.4g} {unit} hold {limit}, and more were not tried (raise --clients)"
    above = f"{edge.breaks:,.4g}" if edge.breaks is not None else "more"
    mixed = [probe for probe in edge.probes if 0 < probe.held < probe.of]
    doubt = f", between them {plural(len(mixed), 'load')} that held by turns" if mixed else ""
    growth = (
        "requests fail, or the rate is not reached"
        if math.isinf(edge.growth)
        else f"latency grows {edge.growth:.1f} % with each per cent of load"
    )
    broke = next((probe.why for probe in edge.probes if probe.load > edge.holds), "")
    return (
        f"{what}: {edge.holds:,.4g} {unit} hold {limit} ({edge.holds:,.4g} to {above}{doubt}); the edge is a "
        f"{edge.shape}: {growth} ({broke})"
    )


OURS = {"SingleStream": "closed", "Server": "poisson", "Offline": "offline"}
"""Our arrivals that are what a scenario's are."""


def run_mlperf(
    *, scenario: str, rate: float | None, clients: int, seconds: float, model: Path | None, **options: Any
) -> int:
    """Run a scenario with LoadGen and with our own load, print both, and return 0, or 1 when either is not valid."""
    from imdb_serving.experiment.grid import GridRun
    from imdb_serving.load import mlperf as loadgen
    from imdb_serving.load.workload import ReviewWorkload
    from imdb_serving.measurement.measure import measure

    if (scenario == "Server") != (rate is not None):
        raise ConfigError("mlperf: the scenario Server, and no other, needs --rate, the queries a second to offer")
    count = 1 if scenario == "SingleStream" else clients
    rates = [rate] if rate is not None else []
    params = probe_params("mlperf", count, model, arrivals=OURS[scenario], rates=rates, **options)
    run = GridRun(params, lambda _words: None)
    with run.server() as server, run.clients(server) as own:
        workload = ReviewWorkload.plain(run.context.lines, fetch=("prediction",))
        print(f"LoadGen, {scenario}, for {seconds:g} s", file=sys.stderr)
        theirs = loadgen.run_loadgen(
            scenario, server.target.connect, workload, count, rate=rate or 0.0, seconds=seconds, seed=params.seed
        )
        cell = with_requests(params.cell(count, rate or 0.0), max(int((rate or theirs.rate) * seconds), 10 * count))
        print(f"our own load, {cell.label(['arrivals', 'rate', 'client_threads'])}", file=sys.stderr)
        row = run.ledger.append(*measure(cell, run.context, own.session, "", server.target))
    print(_table(theirs, row))
    return 0 if theirs.valid and not theirs.failed and not row.error else 1


def _table(theirs: loadgen.Outcome, ours: Row) -> str:
    lines = [f"{'':<28}{'LoadGen':>14}{'ours':>14}{'ours / its':>12}"]
    figures = ours.figures
    for name, one, other in (
        ("requests/s", theirs.rate, figures.request_rate),
        ("p50 [µs]", theirs.p50_us, figures.p50_us),
        ("p99 [µs]", theirs.p99_us, figures.p99_us),
    ):
        told = [f"{value:,.0f}" if value is not None else "not certifiable" for value in (one, other)]
        ratio = f"{other / one:.3f}" if one and other is not None else ""
        lines.append(f"{name:<28}{told[0]:>14}{told[1]:>14}{ratio:>12}")
    lines.append(f"{'valid':<28}{'yes' if theirs.valid else 'no':>14}{ours.status if ours.why else 'yes':>14}")
    if theirs.failed:
        lines.append(f"{theirs.failed} of LoadGen's queries got no answer")
    if ours.why:
        lines.append(f"ours: {ours.why}")
    return "\n".join(lines)


@group.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--scenario",
    type=click.Choice(["SingleStream", "Server", "Offline"]),
    default="Server",
    help="One request at a time; at random times; all at once.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Server: queries a second to offer.")
@probe_options
@click.option(
    "--clients", type=click.IntRange(min=1, max=1024), default=16, help="Threads under LoadGen, else processes."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, help="How long each of the two runs."
)
def mlperf(**options: Any) -> None:
    """Have MLPerf's LoadGen drive our client, then our own load generator do the same, and print both.

    Needs the extra `loadgen`. MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving mlperf --scenario Server --rate 300 --engine simulated
    """
    sys.exit(run_mlperf(**options))


@group.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--p50", type=Milliseconds(), help="The median to hold, for example 20ms.")
@click.option("--p90", type=Milliseconds(), help="The 90th percentile to hold.")
@click.option("--p95", type=Milliseconds(), help="The 95th percentile to hold; give one of these.")
@click.option("--p99", type=Milliseconds(), help="The 99th percentile to hold.")
@click.option(
    "--errors", type=click.FloatRange(0, 1), default=0.0, help="The greatest share of requests without an answer."
)
@probe_options
@click.option(
    "--params",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A sweep's parameter file, for the server of someone else that it measures.",
)
@click.option(
    "--clients", type=click.IntRange(min=1, max=1024), default=16, help="Client processes, of the open loop at most."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, help="About how long a probe takes."
)
@click.option("--rounds", type=click.IntRange(min=1, max=1000), default=3, help="How often each load is probed.")
def slo(**options: Any) -> None:
    """Find the highest rate (open loop) and the most clients (closed loop) that hold a limit of latency.

    MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving slo --p95 20ms --errors 0
      imdb-serving slo --engine folded --mode socket --p99 2ms
      imdb-serving slo --params params/own.yaml --server-threads 4 --p99 50ms
    """
    sys.exit(run_slo(**options))
