"""One grid run: a server of its own, and every client count measured against it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

import msgspec

from imdb_serving.bench.folders import new_run, outputs_folder
from imdb_serving.bench.inputs import measurement_lines
from imdb_serving.bench.ledger import Ledger
from imdb_serving.bench.loadgen import ClientRecord
from imdb_serving.bench.models import require_model
from imdb_serving.bench.parameters import GridParams, model_folder
from imdb_serving.bench.session import LoadSession, prepare_processes
from imdb_serving.bench.summary import answers_digest, summarise
from imdb_serving.bench.workload import ReviewWorkload, share
from imdb_serving.engines.registry import EngineSpec, facts_of
from imdb_serving.errors import ServingError
from imdb_serving.model.bundle import find_server_dir
from imdb_serving.model.files import VOCABULARY
from imdb_serving.server_process import ServerProcess, server_arguments
from imdb_serving.text.lines import Line
from imdb_serving.transports.connect import connect

Row = dict[str, Any]
OK, FAILED = "ok", "failed"


def server_for(params: GridParams) -> ServerProcess:
    """Return the server that a grid run measures."""
    engine = EngineSpec(params.engine, params.math_threads, params.service_time_ms, params.distribution)  # type: ignore[arg-type]
    model = model_folder(params) if engine.facts.needs_model else None
    arguments = server_arguments(model, engine, params.server_threads, params.worker_kind)
    return ServerProcess.of_mode(params.mode, arguments)


def run_grid(params: GridParams, progress: Callable[[str], None] = print) -> list[Row]:
    """Start a server, measure every client count in shuffled order, append each cell to the ledger, stop the server.

    A cell that fails is a row with its reason and does not stop the others. Returns the rows by client count.
    """
    if facts_of(params.engine).needs_model:
        require_model(params)
    if not params.run:  # a lone notebook: its rows and raw samples must not mix with those of another
        params = msgspec.structs.replace(params, run=new_run())
    ledger = Ledger(outputs_folder(params))
    order = list(params.client_threads)
    random.Random(f"{params.seed}/{params.round}/{params.mode}/{params.server_threads}").shuffle(order)  # noqa: S311
    rows = []
    with ExitStack() as stack:
        server, lines = _prepare(params, stack)
        make_client = functools.partial(connect, server.endpoint, params.timeout, params.http_client)
        session = stack.enter_context(LoadSession({"": make_client}, max(order), params.timeout))
        progress(f"server ready: {params.mode}, {params.engine}, {params.server_threads} server threads")
        for position, clients in enumerate(order):
            row, records = measure(params, clients, session, lines)
            row["order"] = position
            ledger.append(row, records)
            rows.append(row)
            progress(describe(row))
    return sorted(rows, key=lambda row: row["client_threads"])


def _prepare(params: GridParams, stack: ExitStack) -> tuple[ServerProcess, list[Line]]:
    """Start the server; meanwhile read the reviews and get ready for client processes, which takes about as long."""
    prepare_processes()
    vocabulary = find_server_dir(model_folder(params)) / VOCABULARY
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(
            measurement_lines, params.samples, params.seed, vocabulary if vocabulary.is_file() else None
        )
        server = stack.enter_context(server_for(params))
        return server, reading.result()


def measure(
    params: GridParams, clients: int, session: LoadSession, lines: Sequence[Line]
) -> tuple[Row, list[ClientRecord]]:
    """Measure one cell with the first clients of a session; returns its row and the raw samples.

    What goes wrong is the row's `error`.
    """
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    shares = [ReviewWorkload(part, "ids", None, batch=params.batch) for part in share(lines, clients, params.batch)]
    error, records = "", []
    try:
        records = session.run("", shares)
    except (ServingError, OSError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    results = [result for record in records for outcome in record.outcomes for result in outcome]
    failures = [failure for record in records for failure in record.failures]
    if failures:
        error = f"{len(failures)} of {sum(map(len, shares))} requests failed, the first: {failures[0].message}"
    row = {
        **{name: value for name, value in msgspec.to_builtins(params).items() if name not in {"outputs", "model"}},
        "client_threads": clients,
        "began": began,
        "status": FAILED if error else OK,
        "error": error,
        "answered": len(results),
        "failed_requests": len(failures),
        "answers": answers_digest(results),
        "accuracy": sum(result.right for result in results) / len(results) if results else None,
        **summarise(records, len(results)),
    }
    return row, records


def describe(row: Row) -> str:
    """Return one line about a measured cell."""
    cell = f"{row['mode']}, {row['engine']}, {row['server_threads']} server x {row['client_threads']} client threads"
    if row["status"] != OK:
        return f"{cell}: FAILED, {row['error']}"
    return f"{cell}: {row['throughput']:,.0f} samples/s, total {row['total_s']:.2f} s a client"
