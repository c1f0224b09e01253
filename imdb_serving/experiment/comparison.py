"""Our servers and the baselines measured in one interleaved run (`imdb-serving bench`).

All servers run at once and are idle while another is measured. A round is one shuffled pass over all servers and client
counts in short blocks, so the drift of a shared machine affects all alike. Only ratios within a round are reported.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imdb_serving.analysis.summary import latency, wall_seconds
from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import DataError
from imdb_serving.experiment.baselines.servers import BASELINES, running
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.load.share import Share
from imdb_serving.load.workload import ReviewWorkload, split_lines
from imdb_serving.measurement.cpu_meter import cpu_seconds
from imdb_serving.measurement.inputs import measurement_lines, vocabulary_of
from imdb_serving.measurement.ledger import append_row, store_samples
from imdb_serving.measurement.local_clients import BareClient
from imdb_serving.measurement.measure import Target
from imdb_serving.measurement.parameters import ComparisonParams, model_folder
from imdb_serving.server_process import ServerProcess, server_arguments
from imdb_serving.text.formats import Line

OURS = {"rpc": "ours: RPC over ZeroMQ", "socket": "ours: RPC over a plain socket", "flask": "ours: Flask"}
BARE = "bare"
WHAT = {
    BARE: "the engine alone, a loop a worker",
    **{name: baseline.what for name, baseline in BASELINES.items()},
    **OURS,
}
"""All systems, in words, in the order in which tables and figures have them."""

FILE = "bench.jsonl"
TOLERANCE = 1e-4
Row = dict[str, Any]


def measure_comparison(params: ComparisonParams, folder: Path, progress: Callable[[str], None] = print) -> list[Row]:
    """Measure all systems, append every block to `folder`, and return the rows.

    Raises `DataError` when a request fails or an answer is not the bare engine's: wrong answers are no speed.
    """
    lines = measurement_lines(params.requests, params.seed, vocabulary_of(params))
    rows = []
    with _systems(params) as systems:
        targets = {name: system.connect for name, system in systems.items()}
        with LoadSession(targets, max(*params.client_threads, params.workers), params.timeout) as session:
            progress(f"{params.engine}: {len(systems)} systems, {params.workers} workers")
            for round_ in range(params.rounds + 1):  # the first warms up
                measured = _round(params, round_, systems, session, lines)
                _check_answers(measured)
                for row, records in measured if round_ else []:
                    name = f"{params.run}-r{round_}-{row['system']}-c{row['client_threads']}"
                    row["raw"] = store_samples(folder, name, records)
                    append_row(folder / FILE, row)
                    rows.append(row)
                progress(f"round {round_} of {params.rounds}" if round_ else "warmed up")
    return rows


@contextmanager
def _systems(params: ComparisonParams) -> Iterator[dict[str, Target]]:
    """Start all servers, ours and the others', with as many workers each."""
    spec = EngineSpec(params.engine)
    model = model_folder(params) if spec.facts.needs_model else None
    arguments = server_arguments(model, spec, params.workers)
    with ExitStack() as stack:
        systems = {BARE: Target(functools.partial(BareClient, spec, model))}
        for name, baseline in BASELINES.items():
            pid, port = stack.enter_context(running(baseline, params.workers, params.engine, model))
            systems[name] = Target(functools.partial(baseline.client, port), (pid,))
        for name in OURS:
            server = stack.enter_context(ServerProcess.of_mode(name, arguments))
            systems[name] = Target(functools.partial(connect, server.endpoint, params.timeout), (server.pid,))
        yield systems


def _round(
    params: ComparisonParams, round_: int, systems: dict[str, Target], session: LoadSession, lines: Sequence[Line]
) -> list[tuple[Row, list[ClientRecord]]]:
    """Measure every system with every client count once, in an order of this round's own."""
    blocks = [(name, count) for name in systems if name != BARE for count in params.client_threads]
    blocks.append((BARE, params.workers))
    random.Random(f"{params.seed}/{params.engine}/{round_}").shuffle(blocks)  # noqa: S311 - an order, not a secret
    results = []
    for name, clients in blocks:
        parts = split_lines(lines, clients, 1)
        shares = [Share.whole(ReviewWorkload(part, "ids", None, ("prediction",))) for part in parts]
        figures, records = run_block(session, name, systems[name].pids, shares, f"engine {params.engine}")
        row = {
            "run": params.run,
            "engine": params.engine,
            "round": round_,
            "system": name,
            "workers": params.workers,
            "client_threads": clients,
            **figures,
        }
        results.append((row, records))
    return results


def run_block(
    session: LoadSession, name: str, pids: Sequence[int], shares: Sequence[Share], what: str
) -> tuple[Row, list[ClientRecord]]:
    """Measure one system once; return its figures (CPU of all processes, in µs a request) and the raw samples.

    Raises `DataError`, which says at `what` it was, when a request fails.
    """
    before = cpu_seconds(pids)
    records = session.run(name, shares)
    server_cpu = cpu_seconds(pids) - before
    failures = [failure for record in records for failure in record.failures]
    if failures:
        raise DataError(f"{name}, {what}: {failures[0].message}")
    requests = sum(len(record.positions) for record in records)
    figures = {
        "requests": requests,
        "throughput": requests / wall_seconds(records),
        "client_cpu_us": sum(record.cpu_s for record in records) / requests * 1e6,
        "server_cpu_us": server_cpu / requests * 1e6,
        **latency(records),
    }
    return figures, records


def _check_answers(measured: Sequence[tuple[Row, list[ClientRecord]]]) -> None:
    """Compare every answer with the bare engine's to the same review; an echo has none."""
    bare = next(_probabilities(records) for row, records in measured if row["system"] == BARE)
    for row, records in measured:
        if row["system"] != BARE and (row["system"] in OURS or BASELINES[row["system"]].predicts):
            given = _probabilities(records)
            difference = float(np.abs(given - bare).max())
            if difference > TOLERANCE:
                raise DataError(f"{row['system']} answers otherwise than the bare engine: by {difference:.1e}")


def _probabilities(records: Sequence[ClientRecord]) -> Any:
    return np.array([result.probability for record in records for outcome in record.outcomes for result in outcome])
