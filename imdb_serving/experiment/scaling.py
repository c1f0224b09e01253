"""How the cost of serving changes with workers, processes, clients, review length, batch (`imdb-serving growth`).

One value is changed at a time, in interleaved rounds. Workers are of the simulated engine, which sleeps, so a machine
with few cores can have many; on the other axes the engine answers at once, so only serving is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from imdb_serving.cell import SCALING, Cell, Row
from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import DataError
from imdb_serving.experiment.interleaved import Block, left_of, measure_rounds
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.workload import UniformWorkload
from imdb_serving.measurement.environment import identity, keep_card
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.measure import Round, Target
from imdb_serving.measurement.parameters import ScalingParams
from imdb_serving.server_process import ServerSpec

OURS = ("rpc", "socket", "flask")
AXES = ("workers", "processes", "clients", "words", "batch")
MAX_PROCESSES = 16
"""More clients than these are threads of so many processes."""

WORDS = 200
"""Of a review where its length is not what changes: about what IMDB's have in the middle."""

WORKERS = 2
DIVIDED_WORKERS = 8
"""Of the servers whose workers are divided among processes; each has a client."""

SIMULATED, NONE = "simulated", "none"
REQUESTS_A_SECOND = 3000
"""About how many of the smallest are answered in a second: it sets how many are sent, and nothing else."""

REVIEWS_LIKE_A_REQUEST, WORDS_LIKE_A_REQUEST = 16, 2000


def require_sound(row: Row) -> None:
    """Raise `DataError` when a request of a row failed or an answer was wrong."""
    wrong = [str(finding) for finding in row.findings if finding.gate in {"errors", "answers"}]
    if row.error or wrong:
        raise DataError(f"{row.cell.mode}, {row.cell.label(['engine', 'client_threads'])}: {row.error or wrong[0]}")


def cells(params: ScalingParams) -> list[Cell]:
    """Return the cells of all axes, each once: what is not on its axis has the usual value."""
    every = [
        *(_cell(params, SIMULATED, workers=count, clients=count) for count in params.workers),
        *(
            _cell(params, SIMULATED, workers=DIVIDED_WORKERS, clients=DIVIDED_WORKERS, processes=count)
            for count in params.processes
        ),
        *(_cell(params, NONE, clients=count) for count in params.clients),
        *(_cell(params, NONE, words=count) for count in params.words),
        *(_cell(params, NONE, batch=count) for count in params.batch),
    ]
    return [msgspec.structs.replace(cell, mode=mode) for cell in dict.fromkeys(every) for mode in OURS]


def value_on(axis: str, cell: Cell) -> int | None:
    """Return a cell's value on an axis; None when it is not on it."""
    here = {"workers": cell.server_threads, "clients": cell.client_threads, "words": cell.words, "batch": cell.batch}
    if axis == "workers":
        return here[axis] if cell.engine == SIMULATED and cell.server_processes == 1 else None
    if axis == "processes":
        return cell.server_processes if (cell.engine, cell.server_threads) == (SIMULATED, DIVIDED_WORKERS) else None
    usual = {"clients": 1, "words": WORDS, "batch": 1}
    on = cell.engine == NONE and all(here[name] == value for name, value in usual.items() if name != axis)
    return here[axis] if on else None


def measure_scaling(params: ScalingParams, folder: Path, progress: Callable[[str], None] = print) -> list[Row]:
    """Measure all cells, append every block to the ledger in `folder`, and return the rows.

    Raises `DataError` when a request fails.
    """
    ledger = Ledger(folder)
    card = keep_card(folder, None)
    base = Round(params.run, 0, params.seed, card["id"], identity([card["id"]], "", params.seed), lines=())

    def context(number: int, _cell: Cell) -> Round:
        return replace(base, number=number)

    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells(params):
        groups.setdefault((cell.engine, cell.server_threads), []).append(cell)
    rows = []
    for (engine, workers), group in groups.items():
        progress(f"{engine}, {workers} workers: {len(group)} cells in {params.rounds} rounds")
        spec = EngineSpec(engine, service_time_ms=params.service_time_ms)
        blocks = [Block(cell, _system(cell.mode, cell.server_processes), workloads(cell)) for cell in group]
        seed = f"{params.seed}/{engine}/{workers}"
        left = left_of(blocks, params.rounds, seed, context, ledger)
        most = max(cell.client_threads for cell in group)
        counts = sorted({cell.server_processes for cell in group})
        with _systems(spec, workers, counts, params.timeout) as systems:
            targets = {name: system.connect for name, system in systems.items()}
            with LoadSession(targets, most, params.timeout, processes=MAX_PROCESSES) as session:
                for row in measure_rounds(blocks, left, seed, context, systems, session, ledger):
                    require_sound(row)
                    rows.append(row)
    return rows


def _system(mode: str, processes: int) -> str:
    return f"{mode}, {processes} processes"


def _cell(
    params: ScalingParams,
    engine: str,
    workers: int = WORKERS,
    clients: int = 1,
    words: int = WORDS,
    batch: int = 1,
    processes: int = 1,
) -> Cell:
    """Return a cell whose requests take about the wanted time, with at least a few for each client."""
    if engine == SIMULATED:
        count = workers * params.seconds * 1000 / params.service_time_ms
    else:
        size = 1 + batch / REVIEWS_LIKE_A_REQUEST + words * batch / WORDS_LIKE_A_REQUEST
        count = params.seconds * REQUESTS_A_SECOND / size
    return Cell(
        series=SCALING,
        engine=engine,
        net="",
        server_threads=workers,
        server_processes=processes,
        client_threads=clients,
        batch=batch,
        service=f"{params.service_time_ms:g} ms, fixed" if engine == SIMULATED else "",
        samples=max(int(count), 5 * clients, 10) * batch,
        words=words,
    )


def workloads(cell: Cell) -> list[UniformWorkload]:
    """Cut a cell's requests into its clients' shares: none dropped, sizes even."""
    edges = np.linspace(0, cell.samples // cell.batch, cell.client_threads + 1).astype(int)
    return [UniformWorkload(count, cell.words, cell.batch) for count in np.diff(edges).tolist()]


@contextmanager
def _systems(spec: EngineSpec, workers: int, processes: Sequence[int], timeout: float) -> Iterator[dict[str, Target]]:
    with ExitStack() as stack:
        systems = {}
        for mode in OURS:
            for count in processes:
                started = ServerSpec(mode, spec, None, workers, server_processes=count).process()
                server = stack.enter_context(started)
                connects = functools.partial(connect, server.endpoint, timeout)
                systems[_system(mode, count)] = Target(connects, (server.pid,))
        yield systems
