"""One grid run: a server of its own, and every client count measured against it, each a row of the ledger.

Knows how a grid's server and clients are put together; how one cell is measured is `measuring.py`'s.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imdb_serving.bench.cell import CLOSED, LOCAL_MODES, Cell
from imdb_serving.bench.load.inputs import measurement_lines
from imdb_serving.bench.load.local import BareClient, InprocClient
from imdb_serving.bench.load.session import LoadSession, prepare_processes
from imdb_serving.bench.parameters import GridParams, model_folder
from imdb_serving.bench.record.environment import identity, keep_card
from imdb_serving.bench.record.folders import new_run, outputs_folder
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.locks import exclusive
from imdb_serving.bench.record.rows import OK, Row
from imdb_serving.bench.runs.calibration import ceilings
from imdb_serving.bench.runs.measuring import Probabilities, Round, Target, measure
from imdb_serving.bench.runs.models import bundle_there, model_id, require_model, vocabulary_of
from imdb_serving.bench.runs.truth import bare_answers
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ServingError
from imdb_serving.server_process import ServerProcess, server_arguments
from imdb_serving.transports.connect import connect

if TYPE_CHECKING:
    from imdb_serving.text.lines import Line

Progress = Callable[[str], None]

MEASURING = "measuring"
WAIT_SECONDS = 900.0
"""For another measurement in the same folder: two at once would measure each other."""


def engine_of(params: GridParams) -> EngineSpec:
    """Return the engine that a grid run measures."""
    return EngineSpec(params.engine, params.math_threads, params.service_time_ms, params.distribution)  # type: ignore[arg-type]


def model_of(params: GridParams) -> Path | None:
    """Return the model's folder, None for an engine that needs no model."""
    return model_folder(params) if engine_of(params).facts.needs_model else None


def server_for(params: GridParams, port: int = 0) -> ServerProcess:
    """Return the server that a grid run measures, on a free port or on this one."""
    arguments = server_arguments(
        model_of(params), engine_of(params), params.server_threads, params.worker_kind, params.pipeline
    )
    return ServerProcess.of_mode(params.mode, arguments, port)


def run_grid(params: GridParams, progress: Progress = print) -> list[Row]:
    """Start a server, measure every client count in shuffled order, append each cell to the ledger, stop the server.

    A cell that fails is a row with its reason and does not stop the others; a server that does not start fails all.
    Cells that a run of this name has already are not measured again, and one folder is measured in by one run at a
    time. Returns the rows by client count.
    """
    if model_of(params):
        require_model(params)
    if not params.run:  # a lone notebook: its rows and raw samples must not mix with those of another
        params = msgspec.structs.replace(params, run=new_run())
    ledger = Ledger(outputs_folder(params))
    with exclusive(ledger.folder, MEASURING, WAIT_SECONDS, "another measurement"):
        around = start_round(params, ledger)
        done = ledger.done(params.run)
        places = {cell: (around.row(cell).key, params.round) for cell in shuffled(params)}
        left = [cell for cell, place in places.items() if place not in done]
        rows = [done[place] for place in places.values() if place in done]
        rows += _measure_all(params, around, ledger, left, progress) if left else []
    return sorted(rows, key=lambda row: (row.cell.client_threads, row.cell.rate))


def _measure_all(params: GridParams, around: Round, ledger: Ledger, order: list[Cell], progress: Progress) -> list[Row]:
    """Put server and clients together, measure the cells in this order, and append them to the ledger."""
    rows = []
    with ExitStack() as stack:
        try:
            around, session, target = prepare(params, around, ledger, stack)
        except (ServingError, OSError) as error:
            progress(f"FAILED {params.mode}, {params.engine}, {params.server_threads} server threads: {error}")
            return [ledger.append(around.failed(cell, error, place), []) for place, cell in enumerate(order)]
        progress(f"server ready: {params.mode}, {params.engine}, {params.server_threads} server threads")
        for place, cell in enumerate(order):
            rows.append(ledger.append(*measure(cell, around, session, "", target, place)))
            progress(describe(rows[-1]))
    return rows


def shuffled(params: GridParams) -> list[Cell]:
    """Return the cells in an order of this round's own."""
    cells = params.cells()
    random.Random(f"{params.seed}/{params.round}/{cells[0].without('client_threads').key}").shuffle(cells)  # noqa: S311
    return cells


def start_round(params: GridParams, ledger: Ledger) -> Round:
    """Return what the cells of this run share: the machine's card, and what stands for machine, code and model."""
    model = model_of(params)
    card = keep_card(ledger.folder, bundle_there(model_folder(params)))
    who = identity(card, model_id(model), params.seed)
    return Round(params.run, params.round, params.seed, card["id"], who, lines=())


def prepare(params: GridParams, around: Round, ledger: Ledger, stack: ExitStack) -> tuple[Round, LoadSession, Target]:
    """Start server and clients; meanwhile read the reviews and ask the bare engine, which takes about as long."""
    prepare_processes()
    most = max(params.client_threads)
    limits = ceilings(params, around, ledger)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(inputs, params, ledger.folder)
        target = _target(params, stack)
        lines, truth = reading.result()
    session = stack.enter_context(LoadSession({"": target.connect}, most, params.timeout))
    return replace(around, lines=lines, truth=truth, ceilings=limits), session, target


def _target(params: GridParams, stack: ExitStack) -> Target:
    """Start the server, if the mode has one, and return how a client reaches it."""
    if params.mode in LOCAL_MODES:
        local = BareClient if params.mode == "bare" else InprocClient
        return Target(functools.partial(local, engine_of(params), model_of(params)))
    server = stack.enter_context(server_for(params))
    return Target(functools.partial(connect, server.endpoint, params.timeout, params.http_client), (server.pid,))


def inputs(params: GridParams, folder: Path) -> tuple[list[Line], Probabilities | None]:
    """Return the reviews, and what the bare engine answers; a pipeline of one's own may answer as it likes."""
    lines = measurement_lines(params.samples, params.seed, vocabulary_of(params))
    if params.pipeline:
        return lines, None
    model = model_of(params)
    return lines, bare_answers(folder, engine_of(params), model, model_id(model), lines)


def describe(row: Row) -> str:
    """Return one line about a measured cell."""
    cell = row.cell
    words = f"{cell.mode}, {cell.engine}, {cell.server_threads} server x {cell.client_threads} client threads"
    if cell.arrivals != CLOSED:
        words += f", {cell.label(['arrivals', 'rate'])}"
    if not row.answered:
        return f"{words}: FAILED, {row.error}"
    figures = f"{row.figures.throughput:,.0f} samples/s, total {row.sums_s.get('total', nan):.2f} s a client"
    return f"{words}: {figures}" if row.status == OK else f"{words}: {figures}; INVALID, {row.why}"
