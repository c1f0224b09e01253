"""The overhead ladder: the same requests over ever longer ways, from the bare model to curl and one Flask thread.

All servers of a ladder run at once and idle while another rung is measured; every round is one shuffled pass over all
rungs in short blocks, so that the drift of a shared machine hits all rungs alike.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from imdb_serving.bench.folders import new_run
from imdb_serving.bench.inputs import measurement_lines
from imdb_serving.bench.ledger import append_row, store_samples
from imdb_serving.bench.loadgen import ClientRecord
from imdb_serving.bench.local import BareClient, InprocClient, JsonClient
from imdb_serving.bench.models import require_model
from imdb_serving.bench.parameters import LadderParams, model_folder
from imdb_serving.bench.session import Connect, LoadSession
from imdb_serving.bench.summary import answers_digest, wall_seconds
from imdb_serving.bench.workload import ReviewWorkload, share
from imdb_serving.engines.registry import EngineSpec, facts_of
from imdb_serving.errors import DataError
from imdb_serving.model.bundle import find_server_dir
from imdb_serving.model.files import VOCABULARY
from imdb_serving.server_process import ServerProcess, server_arguments
from imdb_serving.text.lines import Line
from imdb_serving.transports.connect import CURL, connect

RUNGS = ("bare", "inproc", "socket", "rpc-ipc", "rpc-tcp", "flask", "flask-gateway", "flask-dev", "flask-dev-curl")
"""The rungs, each adding one thing to the one before."""

ASIDE = "inproc-json"
"""Measured beside the ladder: the pipeline behind JSON bodies, for what JSON costs by itself."""

FILE = "ladder.jsonl"
Row = dict[str, Any]


def run_ladder(params: LadderParams, folder: Path, progress: Callable[[str], None] = print) -> list[Row]:
    """Measure the ladder with each engine, append every block to `folder`, and return the rows.

    Raises `DataError` when a request fails: a ladder with a rung missing explains nothing.
    """
    vocabulary = find_server_dir(model_folder(params)) / VOCABULARY
    in_a_round = params.requests * params.server_threads
    lines = measurement_lines(in_a_round * params.rounds, params.seed, vocabulary if vocabulary.is_file() else None)
    rows = []
    for engine in params.engines:
        with (
            _targets(params, engine) as targets,
            LoadSession(targets, params.server_threads, params.timeout) as session,
        ):
            progress(f"{engine}: {len(targets)} rungs, {params.server_threads} workers")
            _round(params, engine, 0, session, lines[:in_a_round])  # warms up
            for round_ in range(1, params.rounds + 1):
                part = lines[in_a_round * (round_ - 1) : in_a_round * round_]
                for row, records in _round(params, engine, round_, session, part):
                    name = f"{params.run}-ladder-{engine}-r{round_}-{row['rung']}-c{row['client_threads']}"
                    row["raw"] = store_samples(folder, name, records)
                    append_row(folder / FILE, row)
                    rows.append(row)
                progress(f"{engine}: round {round_} of {params.rounds}")
    return rows


def measure_ladder(params: LadderParams, folder: Path) -> pd.DataFrame:
    """Train the model if need be, measure, and return the rows as a table."""
    if any(facts_of(engine).needs_model for engine in params.engines):
        require_model(params)
    if not params.run:  # a lone notebook: its rows and raw samples must not mix with those of another
        params = msgspec.structs.replace(params, run=new_run())
    return pd.DataFrame(run_ladder(params, folder))


@contextmanager
def _targets(params: LadderParams, engine: str) -> Iterator[dict[str, Connect]]:
    """Start the servers of all rungs, side by side, and give how a client connects to each rung.

    The gateway and the development server stand in front of the very RPC server that is a rung of its own.
    """
    spec = EngineSpec(engine, params.math_threads)
    model = model_folder(params) if spec.facts.needs_model else None
    arguments = server_arguments(model, spec, params.server_threads)
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="imdb-serving-"))
        start = functools.partial(_start, stack)
        with ThreadPoolExecutor() as pool:
            plain = pool.submit(start, "socket", [*arguments, "--endpoint", f"socket+unix://{place}/plain"])
            rpc_ipc = pool.submit(start, "rpc", [*arguments, "--endpoint", f"ipc://{place}/zeromq"])
            rpc_tcp = pool.submit(start, "rpc", arguments)
            flask = pool.submit(start, "flask", arguments)
            tcp = rpc_tcp.result()
            front = [*server_arguments(None, EngineSpec("null"), params.server_threads), "--rpc", tcp]
            gateway = pool.submit(start, "flask-gateway", front)
            dev = pool.submit(start, "flask-dev", front)
        endpoints = {
            "socket": plain.result(),
            "rpc-ipc": rpc_ipc.result(),
            "rpc-tcp": tcp,
            "flask": flask.result(),
            "flask-gateway": gateway.result(),
            "flask-dev": dev.result(),
        }
        yield {
            "bare": functools.partial(BareClient, spec, model),
            "inproc": functools.partial(InprocClient, spec, model),
            ASIDE: functools.partial(JsonClient, spec, model),
            **{rung: functools.partial(connect, endpoint, params.timeout) for rung, endpoint in endpoints.items()},
            "flask-dev-curl": functools.partial(connect, endpoints["flask-dev"], params.timeout, CURL),
        }


def _start(stack: ExitStack, mode: str, arguments: Sequence[str]) -> str:
    return stack.enter_context(ServerProcess.of_mode(mode, arguments)).endpoint


def _round(
    params: LadderParams, engine: str, round_: int, session: LoadSession, lines: Sequence[Line]
) -> list[tuple[Row, list[ClientRecord]]]:
    """Measure all rungs once, with one client and with as many as workers, in an order of this round's own."""
    counts = sorted({1, params.server_threads})
    blocks = [(rung, clients) for rung in (*RUNGS, ASIDE) for clients in counts]
    random.Random(f"{params.seed}/{engine}/{round_}").shuffle(blocks)  # noqa: S311 - an order, not a secret
    results = []
    for rung, clients in blocks:
        shares = [ReviewWorkload(part, "ids", None) for part in share(lines[: clients * params.requests], clients, 1)]
        records = session.run(rung, shares)
        failures = [failure for record in records for failure in record.failures]
        if failures:
            raise DataError(f"rung {rung}, engine {engine}: {failures[0].message}")
        row = {
            "run": params.run,
            "engine": engine,
            "net": params.net,
            "round": round_,
            "rung": rung,
            "server_threads": params.server_threads,
            "client_threads": clients,
            **_figures(rung, records),
        }
        results.append((row, records))
    return results


def _figures(rung: str, records: Sequence[ClientRecord]) -> Row:
    """Return a block's figures: the median and mean microseconds of a request, its JSON-free stages, requests/s."""
    # The bare rung's client lays out the feed as well; only the engine itself is to be counted.
    whole = "op1" if rung == "bare" else "client_infer"
    times = np.concatenate([record.durations[:, record.columns.index(whole)] for record in records]) / 1000
    stages = np.concatenate([_stage_sums(record) for record in records]) / 1000
    results = [result for record in records for outcome in record.outcomes for result in outcome]
    return {
        "requests": len(times),
        "p50_us": float(np.median(times)),
        "mean_us": float(times.mean()),
        "unexplained_us": float(np.median(times - stages)),
        "throughput": len(times) / wall_seconds(records),
        "answers": answers_digest(results),
    }


def _stage_sums(record: ClientRecord) -> Any:
    """Return the sum of each request's stages, in ns: what lies between `client_infer` and `postpro` in the columns."""
    return record.durations[:, 2:-2].sum(axis=1)
