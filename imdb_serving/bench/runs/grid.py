"""One grid run: a server of its own, and every client count measured against it, each a row of the ledger.

Knows what a run is and in which order its cells come; where it runs is a site's (`site.py`), how one cell is measured
`measuring.py`'s.
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

from imdb_serving.bench.cell import CLOSED, Cell
from imdb_serving.bench.load.inputs import measurement_lines
from imdb_serving.bench.load.loadgen import ClientRecord
from imdb_serving.bench.load.session import prepare_processes
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.parameters.checks import LOCAL
from imdb_serving.bench.record.folders import new_run, outputs_folder
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.rows import OK, Row
from imdb_serving.bench.runs.calibration import ceilings
from imdb_serving.bench.runs.measuring import Probabilities, Round, Session, Target, measure
from imdb_serving.bench.runs.models import model_id, require_model, vocabulary_of
from imdb_serving.bench.runs.site import HERE, Site, engine_of, model_of
from imdb_serving.bench.runs.truth import bare_answers
from imdb_serving.errors import HostLost, ServingError

if TYPE_CHECKING:
    from imdb_serving.text.lines import Line

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
    ledger, site = Ledger(outputs_folder(params)), site_of(params)
    with site.mine(ledger.folder):
        around = site.start_round(params, ledger)
        done = ledger.done(params.run)
        places = {cell: (around.row(cell).key, params.round) for cell in shuffled(params)}
        left = [cell for cell, place in places.items() if place not in done]
        rows = [done[place] for place in places.values() if place in done]
        rows += _measure_all(params, around, ledger, left, site, progress) if left else []
    return sorted(rows, key=lambda row: (row.cell.client_threads, row.cell.rate))


def site_of(params: GridParams) -> Site:
    """Return where a run is measured: here, or on its cluster."""
    if params.cluster == LOCAL:
        return HERE
    from imdb_serving.bench.cluster.site import ClusterSite

    return ClusterSite(params.cluster)


def _measure_all(
    params: GridParams, around: Round, ledger: Ledger, order: list[Cell], site: Site, progress: Progress
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
                prepared, session, target = prepare(params, around, ledger, stack, site)
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
            rows |= {cell: ledger.append(around.failed(cell, failed, place), []) for place, cell in left}
            left.clear()
    return list(rows.values())


def _measure_while_there(
    around: Round,
    session: Session,
    target: Target,
    ledger: Ledger,
    left: deque[tuple[int, Cell]],
    lost: Counter[Cell],
    rows: dict[Cell, Row],
    progress: Progress,
) -> None:
    """Measure the cells that are left until all are, or a machine is lost."""
    progress(f"server ready{': ' if around.nodes else ''}{', '.join(around.nodes)}")
    while left:
        place, cell = left[0]
        measured: tuple[Row, list[ClientRecord]]
        tries = lost[cell]
        try:
            measured = measure(cell, around, session, "", target, place)
        except HostLost as error:
            measured = around.failed(cell, error, place), []
            lost[cell] += 1
        rows[cell] = ledger.append(*measured)
        progress(describe(rows[cell]))
        if lost[cell] == tries or lost[cell] == TRIES:
            left.popleft()
        if lost[cell] > tries:
            return


def shuffled(params: GridParams) -> list[Cell]:
    """Return the cells in an order of this round's own."""
    cells = params.cells()
    random.Random(f"{params.seed}/{params.round}/{cells[0].without('client_threads').key}").shuffle(cells)  # noqa: S311
    return cells


def prepare(
    params: GridParams, around: Round, ledger: Ledger, stack: ExitStack, site: Site = HERE
) -> tuple[Round, Session, Target]:
    """Start server and clients; meanwhile read the reviews and ask the bare engine, which takes about as long."""
    prepare_processes()
    stack.enter_context(site.placed(params))
    around = replace(around, nodes=site.nodes)
    limits = ceilings(params, around, ledger, site)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(inputs, params, ledger.folder)
        session, target = site.put_up(params, stack)
        lines, truth = reading.result()
    return replace(around, lines=lines, truth=truth, ceilings=limits), session, target


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
    if cell.placement:
        words += f", {cell.label(['placement', 'server_nodes', 'client_nodes'])}"
    if cell.arrivals != CLOSED:
        words += f", {cell.label(['arrivals', 'rate'])}"
    if not row.answered:
        return f"{words}: FAILED, {row.error}"
    figures = f"{row.figures.throughput:,.0f} samples/s, total {row.sums_s.get('total', nan):.2f} s a client"
    return f"{words}: {figures}" if row.status == OK else f"{words}: {figures}; INVALID, {row.why}"
