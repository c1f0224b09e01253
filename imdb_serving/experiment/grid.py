"""One grid run: a server of its own, every client count measured against it, a row of the ledger for each.

Before the first cell the clients are calibrated against the engine that answers at once. The result is the CPU time
that a request takes of a client: with a server that costs nothing the clients would have all cores, so
`min(clients, cores) / CPU seconds` is the most they can send.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imdb_serving.cell import CALIBRATION, CLOSED, LOCAL_MODES, Cell
from imdb_serving.clients.connect import CURL
from imdb_serving.errors import HostLost, ServingError
from imdb_serving.load.client_processes import prepare_processes
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.deployment import THIS_MACHINE, Deployment, engine_of, model_of
from imdb_serving.measurement.environment import identity
from imdb_serving.measurement.folders import new_run, outputs_folder
from imdb_serving.measurement.inputs import measurement_lines, model_id, reference_answers, require_model, vocabulary_of
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.measure import Probabilities, Round, Session, Target, client_ceiling, measure, row_key
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.parameters.checks import LOCAL
from imdb_serving.rows import OK, Row

if TYPE_CHECKING:
    from imdb_serving.text.formats import Line

REQUESTS = 1000
CURL_REQUESTS_A_CLIENT = 12
"""Each forks a process, which takes some milliseconds."""


def ceilings(params: GridParams, context: Round, ledger: Ledger, deployment: Deployment) -> dict[int, float]:
    """Return the requests a second that each client count can send at most, measured once for a sweep's folder.

    Without a server nothing is sent, and there is no such limit.
    """
    if params.mode in LOCAL_MODES:
        return {}
    null = calibration(params)
    who = identity(context.cards, "", params.seed)
    wanted = {row_key(cell, who): cell for cell in null.cells()}
    known = {row.key: row for row in ledger.rows() if row.key in wanted and row.answered}
    if missing := [cell.client_threads for cell in wanted.values() if row_key(cell, who) not in known]:
        rows = _calibrate(msgspec.structs.replace(null, client_threads=missing), context, who, ledger, deployment)
        known |= {row.key: row for row in rows if row.answered}
    return {row.cell.client_threads: client_ceiling(row, deployment.client_cores) for row in known.values()}


def calibration(params: GridParams) -> GridParams:
    """Return the parameters of a grid run's calibration: the same clients, and one worker that answers at once."""
    most = max(params.client_threads)
    requests = CURL_REQUESTS_A_CLIENT * most if params.http_client == CURL else max(REQUESTS, 20 * most)
    return msgspec.structs.replace(
        params,
        series=CALIBRATION,
        engine="none",
        worker_kind="",
        math_threads=1,
        pipeline="",
        server_threads=1,
        samples=requests * params.batch,
        passes=1,
        arrivals=CLOSED,
        rates=[],
        round=1,
    )


def _calibrate(null: GridParams, context: Round, who: str, ledger: Ledger, deployment: Deployment) -> list[Row]:
    lines = measurement_lines(null.samples, null.seed, vocabulary_of(null))
    context = replace(context, number=1, identity=who, lines=lines)
    rows = []
    with ExitStack() as stack:
        session, target = deployment.start(null, stack)
        for order, cell in enumerate(null.cells()):
            rows.append(ledger.append(*measure(cell, context, session, "", target, order)))
    return rows


Progress = Callable[[str], None]

TRIES = 2
"""How often a cell is measured whose machines are lost."""


def run_grid(params: GridParams, progress: Progress = print) -> list[Row]:
    """Start a server, measure every client count in shuffled order, append each cell to the ledger, stop the server.

    A cell that fails is a row with its reason and does not stop the others; a server that does not start fails all.
    Cells that a run of this name has already are not measured again, and on one machine one folder is measured in by
    one run at a time. Returns the rows by client count.
    """
    if model_of(params):
        require_model(params)
    if not params.run:  # a lone notebook: its rows and raw samples must not mix with those of another
        params = msgspec.structs.replace(params, run=new_run())
    ledger, deployment = Ledger(outputs_folder(params)), deployment_of(params)
    with deployment.mine(ledger.folder):
        context = deployment.start_round(params, ledger)
        left = unmeasured(params, context, ledger)
        keys = {context.row(cell).key for cell in params.cells()}
        rows = [row for (key, number), row in ledger.done(params.run).items() if key in keys and number == params.round]
        rows += _measure_all(params, context, ledger, left, deployment, progress) if left else []
    return sorted(rows, key=lambda row: (row.cell.client_threads, row.cell.rate))


def deployment_of(params: GridParams) -> Deployment:
    """Return where a run is measured: here, or on its cluster."""
    if params.cluster == LOCAL:
        return THIS_MACHINE
    from imdb_serving.cluster.deployment import ClusterDeployment

    return ClusterDeployment(params.cluster)


def _measure_all(
    params: GridParams, context: Round, ledger: Ledger, order: list[Cell], deployment: Deployment, progress: Progress
) -> list[Row]:
    """Put server and clients together, measure the cells in this order, and append them to the ledger.

    When a machine is lost on the way, all are put together elsewhere; its cell is tried once more.
    """
    rows: dict[Cell, Row] = {}
    left, lost = deque(enumerate(order)), Counter[Cell]()
    while left:
        cell = left[0][1]
        with ExitStack() as stack:
            try:
                prepared, session, target = prepare(params, context, ledger, stack, deployment)
            except HostLost as error:
                lost[cell] += 1
                if lost[cell] < TRIES:
                    progress(f"a machine was lost, others are asked for: {error}")
                    continue
                failed: Exception = error
            except (ServingError, OSError) as error:
                failed = error
            else:
                _measure_while_there(prepared, session, target, ledger, left, lost, rows, progress)
                continue
            progress(f"FAILED {params.mode}, {params.engine}, {params.server_threads} server threads: {failed}")
            rows |= {cell: ledger.append(context.failed(cell, failed, place), []) for place, cell in left}
            left.clear()
    return list(rows.values())


def _measure_while_there(
    context: Round,
    session: Session,
    target: Target,
    ledger: Ledger,
    left: deque[tuple[int, Cell]],
    lost: Counter[Cell],
    rows: dict[Cell, Row],
    progress: Progress,
) -> None:
    """Measure the cells that are left until all are, or a machine is lost."""
    progress(f"server ready{': ' if context.nodes else ''}{', '.join(context.nodes)}")
    while left:
        place, cell = left[0]
        measured: tuple[Row, list[ClientRecord]]
        tries = lost[cell]
        try:
            measured = measure(cell, context, session, "", target, place)
        except HostLost as error:
            measured = context.failed(cell, error, place), []
            lost[cell] += 1
        rows[cell] = ledger.append(*measured)
        progress(describe(rows[cell]))
        if lost[cell] == tries or lost[cell] == TRIES:
            left.popleft()
        if lost[cell] > tries:
            return


def unmeasured(params: GridParams, context: Round, ledger: Ledger) -> list[Cell]:
    """Return the run's cells that the ledger does not have, in an order of this round's own; failed ones included."""
    done = ledger.done(params.run)
    return [cell for cell in shuffled(params) if (context.row(cell).key, params.round) not in done]


def shuffled(params: GridParams) -> list[Cell]:
    """Return the cells in an order of this round's own."""
    cells = params.cells()
    random.Random(f"{params.seed}/{params.round}/{cells[0].without('client_threads').key}").shuffle(cells)  # noqa: S311
    return cells


def prepare(
    params: GridParams, context: Round, ledger: Ledger, stack: ExitStack, deployment: Deployment = THIS_MACHINE
) -> tuple[Round, Session, Target]:
    """Start server and clients; meanwhile read the reviews and ask the bare engine, which takes about as long."""
    prepare_processes()
    stack.enter_context(deployment.placed(params))
    context = replace(context, nodes=deployment.nodes)
    limits = ceilings(params, context, ledger, deployment)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(inputs, params, ledger.folder)
        session, target = deployment.start(params, stack)
        lines, reference = reading.result()
    return replace(context, lines=lines, reference=reference, ceilings=limits), session, target


def inputs(params: GridParams, folder: Path) -> tuple[list[Line], Probabilities | None]:
    """Return the reviews, and what the bare engine answers; a pipeline of one's own may answer as it likes."""
    lines = measurement_lines(params.samples, params.seed, vocabulary_of(params))
    if params.pipeline:
        return lines, None
    model = model_of(params)
    return lines, reference_answers(folder, engine_of(params), model, model_id(model), lines)


def describe(row: Row) -> str:
    """Return one line about a measured cell."""
    cell = row.cell
    words = f"{cell.mode}, {cell.engine}, {cell.server_threads} server x {cell.client_threads} client threads"
    if cell.placement:
        words += f", {cell.label(['placement', 'server_nodes', 'client_nodes'])}"
    if cell.arrivals != CLOSED:
        words += f", {cell.label(['arrivals', 'rate'])}"
    if not row.answered:
        return f"{words}: FAILED, {row.error}"
    figures = f"{row.figures.throughput:,.0f} samples/s, total {row.sums_s.get('total', nan):.2f} s a client"
    return f"{words}: {figures}" if row.status == OK else f"{words}: {figures}; INVALID, {row.why}"
