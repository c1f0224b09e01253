"""Our servers and the baselines in interleaved rounds (`imdb-serving bench`). A system is a cell of its own mode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from imdb_serving.cell import BENCH, Cell, Row
from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import DataError
from imdb_serving.experiment.baselines.light_clients import PreparedWorkload, light_client
from imdb_serving.experiment.baselines.servers import BASELINES, running
from imdb_serving.experiment.interleaved import Block, left_of, measure_rounds
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.workload import ReviewWorkload, split_lines
from imdb_serving.measurement.environment import identity, keep_card
from imdb_serving.measurement.inputs import (
    BareClient,
    bundle_there,
    measurement_lines,
    model_id,
    reference_answers,
    vocabulary_of,
)
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.measure import Round, Target
from imdb_serving.measurement.parameters import BenchParams, model_folder
from imdb_serving.server_process import ServerSpec

OURS = {"rpc": "ours: RPC over ZeroMQ", "socket": "ours: RPC over a plain socket", "flask": "ours: Flask"}
LIGHT = {
    "light-socket": ("socket", 1),
    "light-socket-2": ("socket", 2),
    "light-rpc": ("rpc", 1),
    "light-rpc-2": ("rpc", 2),
}
"""Ours under clients that cost little: the server's mode, and its number of processes."""

BARE = "bare"
WHAT = {
    BARE: "the engine alone, a loop for each worker",
    **{name: baseline.what for name, baseline in BASELINES.items()},
    **OURS,
    **{
        name: f"{OURS[mode]}, clients that cost little" + (f", {processes} server processes" if processes > 1 else "")
        for name, (mode, processes) in LIGHT.items()
    },
}
"""All systems, in the order in which tables and figures have them."""


def measure_bench(params: BenchParams, folder: Path, progress: Callable[[str], None] = print) -> list[Row]:
    """Measure all systems, append every block to the ledger in `folder`, and return the rows.

    Raises `DataError` when a request fails or an answer is not the bare engine's: wrong answers are no speed.
    """
    spec = EngineSpec(params.engine)
    model = model_folder(params) if spec.facts.needs_model else None
    lines = measurement_lines(params.requests, params.seed, vocabulary_of(params))
    ledger = Ledger(folder)
    card = keep_card(folder, bundle_there(model) if model else None)
    who = identity([card["id"]], model_id(model), params.seed)
    reference = reference_answers(folder, spec, model, model_id(model), lines)
    base = Round(params.run, 0, params.seed, card["id"], who, lines, reference)

    def context(number: int, cell: Cell) -> Round:
        predicts = cell.mode not in BASELINES or BASELINES[cell.mode].predicts
        return replace(base, number=number, reference=reference if predicts else None)

    blocks, order = _blocks(params, spec, base), f"{params.seed}/{params.engine}"
    rows: list[Row] = []
    left = left_of(blocks, params.rounds, order, context, ledger)
    with _systems(params, spec, model) as systems:
        targets = {name: system.connect for name, system in systems.items()}
        with LoadSession(targets, max(*params.client_threads, params.workers), params.timeout) as session:
            progress(f"{params.engine}: {len(systems)} systems, {params.workers} workers")
            for row in measure_rounds(blocks, left, order, context, systems, session, ledger):
                require_sound(row)
                if not rows or rows[-1].round != row.round:
                    progress(f"round {row.round} of {params.rounds}")
                rows.append(row)
    return rows


def require_sound(row: Row) -> None:
    """Raise `DataError` when a request of a row failed or an answer was wrong."""
    wrong = [str(finding) for finding in row.findings if finding.gate in {"errors", "answers"}]
    if row.error or wrong:
        raise DataError(f"{row.cell.mode}, {row.cell.label(['engine', 'client_threads'])}: {row.error or wrong[0]}")


def _blocks(params: BenchParams, spec: EngineSpec, base: Round) -> list[Block]:
    """Return every system with every client count, and the bare engine with a client for each worker."""
    blocks = []
    for name in systems_of(params):
        for clients in [params.workers] if name == BARE else params.client_threads:
            cell = Cell(
                series=BENCH,
                mode=name,
                engine=params.engine,
                net=params.net if spec.facts.needs_model else "",
                model=Path(params.model).name if spec.facts.needs_model else "",
                server_threads=params.workers,
                server_processes=LIGHT[name][1] if name in LIGHT else 1,
                client_threads=clients,
                samples=params.requests,
            )
            parts = split_lines(base.lines, clients, 1)
            reviews = [ReviewWorkload(part, "ids", None, ("prediction",)) for part in parts]
            blocks.append(
                Block(cell, name, [PreparedWorkload.of(each) for each in reviews] if name in LIGHT else reviews)
            )
    return blocks


def systems_of(params: BenchParams) -> list[str]:
    """Return the systems to measure: an engine that holds Python's lock has a process a worker, and no choice."""
    has_choice = EngineSpec(params.engine).facts.worker_kind == "thread"
    most = min(params.workers, 2) if has_choice else 0
    return [name for name in WHAT if name not in LIGHT or LIGHT[name][1] <= most]


@contextmanager
def _systems(params: BenchParams, spec: EngineSpec, model: Path | None) -> Iterator[dict[str, Target]]:
    """Start all servers, ours and the others', with as many workers each."""
    with ExitStack() as stack:
        systems = {BARE: Target(functools.partial(BareClient, spec, model))}
        for name, baseline in BASELINES.items():
            pid, port = stack.enter_context(running(baseline, params.workers, params.engine, model))
            systems[name] = Target(functools.partial(baseline.client, port), (pid,))
        for name in OURS:
            server = stack.enter_context(ServerSpec(name, spec, model, params.workers).process())
            systems[name] = Target(functools.partial(connect, server.endpoint, params.timeout), (server.pid,))
        for name in filter(LIGHT.get, systems_of(params)):
            mode, processes = LIGHT[name]
            ours = ServerSpec(mode, spec, model, params.workers, server_processes=processes)
            server = stack.enter_context(ours.process())
            systems[name] = Target(functools.partial(light_client, server.endpoint), (server.pid,))
        yield systems
