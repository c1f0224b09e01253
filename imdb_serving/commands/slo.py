"""`imdb-serving slo`: the highest rate and the most clients that hold a limit, with interval and the edge's shape."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.bench.analysis.gates import ACHIEVED
from imdb_serving.bench.cell import POISSON, Cell, plural
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.folders import outputs_folder
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.rows import Row
from imdb_serving.bench.runs import slo
from imdb_serving.bench.runs.grid import prepare
from imdb_serving.bench.runs.measuring import measure
from imdb_serving.bench.runs.site import start_round
from imdb_serving.commands.probing import probe_params, with_requests
from imdb_serving.errors import ConfigError

LOWEST = 0.1
"""The share of what the server can do at most at which a search begins; below it nothing is looked for."""


def run_slo(*, errors: float, clients: int, seconds: float, rounds: int, model: Path | None, **options: Any) -> int:
    """Search and print both edges; returns the exit code: 0, or 1 when the limit is not reached at all."""
    limit = _limit(errors, {name: options.pop(name) for name in slo.PERCENTILES})
    params = probe_params("slo", clients, model, **options)
    with ExitStack() as stack:
        search = _Search(params, limit, seconds, rounds, stack)
        print(f"{params.mode}, {params.engine}, {params.server_threads} server threads: {limit}", file=sys.stderr)
        most = search.capacity()
        print(f"at most about {most:,.0f} requests/s are answered; looking for the highest rate", file=sys.stderr)
        rate = slo.find_edge(search.at_rate, LOWEST * most, 1.2 * most)
        print("looking for the most clients", file=sys.stderr)
        count = slo.find_edge(search.with_clients, 1, clients, whole=True)
    print(_in_words("highest rate", "requests/s", rate, limit))
    print(_in_words("most clients", "clients", count, limit))
    print("Clients and server share this machine's cores; `imdb-serving doctor` says what else to mind.")
    return 0 if rate.holds is not None or count.holds is not None else 1


def _limit(errors: float, percentiles: dict[str, float | None]) -> slo.Limit:
    given = {name: value for name, value in percentiles.items() if value is not None}
    if len(given) != 1:
        raise ConfigError("slo: give one limit, for example --p95 20ms")
    ((name, value),) = given.items()
    return slo.Limit(name, value, errors)


class _Search:
    """A server and clients that stay, and probes against them; every probe is a row of the ledger."""

    def __init__(self, params: GridParams, limit: slo.Limit, seconds: float, rounds: int, stack: ExitStack) -> None:
        self._params, self._limit, self._rounds = params, limit, rounds
        # What is still under way at a probe's end must not look like a rate that was not reached.
        self._seconds = max(seconds, limit.most_ms / 1000 / (1 - ACHIEVED))
        self._ledger = Ledger(outputs_folder(params))
        around = start_round(params, self._ledger)
        self._around, self._session, self._target = prepare(params, around, self._ledger, stack)
        self._asked = 0

    def capacity(self) -> float:
        """Return about how many requests a second all clients get answered in a closed loop."""
        most = max(self._params.client_threads)
        guess = self._measure(self._params.cell(most), 200)
        return self._measure(self._params.cell(most), guess * self._seconds)

    def at_rate(self, rate: float) -> slo.Probe:
        """Probe an offered rate."""
        params = msgspec.structs.replace(self._params, arrivals=POISSON, rates=[rate])
        return self._probe(params.cell(max(params.client_threads), rate), rate, rate * self._seconds)

    def with_clients(self, clients: float) -> slo.Probe:
        """Probe a number of clients in a closed loop."""
        cell = self._params.cell(int(clients))
        return self._probe(cell, clients, self._measure(cell, self._limit.requests) * self._seconds)

    def _probe(self, cell: Cell, load: float, requests: float) -> slo.Probe:
        held, worst, why = 0, 0.0, ""
        for _ in range(self._rounds):
            row = self._row(cell, max(requests, self._limit.requests))
            holds, latency, seen = slo.holds(row, self._limit)
            held, worst = held + holds, max(worst, latency)
            why = why if holds and why else seen
        probe = slo.Probe(load, held, self._rounds, worst, why)
        print(f"  {load:>10,.6g}: held {held} of {self._rounds} times, {why}", file=sys.stderr)
        return probe

    def _measure(self, cell: Cell, requests: float) -> float:
        return self._row(cell, requests).figures.request_rate

    def _row(self, cell: Cell, requests: float) -> Row:
        """Measure once; every measurement is a round of its own, so that none takes another's place in the ledger."""
        cell = with_requests(cell, max(math.ceil(requests), 2 * cell.client_threads))
        self._asked += 1
        around = replace(self._around, number=self._asked)
        row, records = measure(cell, around, self._session, "", self._target)
        return self._ledger.append(row, records)


def _in_words(what: str, unit: str, edge: slo.Edge, limit: slo.Limit) -> str:
    """Say where the edge is, how sure that is, and what it looks like."""
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
