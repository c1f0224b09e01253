"""One grid run: a server of its own, every client count measured against it, a row of the ledger for each.

Before the first cell the clients are calibrated against the engine that answers at once. The result is the CPU time
that a request takes of a client: with a server that costs nothing the clients would have all cores, so
`min(clients, cores) / CPU seconds` is the most they can send.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from imdb_serving.cell import (
    BEFORE,
    CALIBRATION,
    CLOSED,
    ECHO_MODES,
    FOREIGN,
    LOCAL_MODES,
    OK,
    Cell,
    Row,
    digest,
    plural,
)
from imdb_serving.clients.connect import CURL
from imdb_serving.errors import HostLost, ServingError
from imdb_serving.load.client_processes import end_processes, prepare_processes
from imdb_serving.load.closed_loop import ClientRecord, Share, Workload
from imdb_serving.measurement import foreign
from imdb_serving.measurement.bodies import Bodies, samples_of
from imdb_serving.measurement.deployment import THIS_MACHINE, Deployment
from imdb_serving.measurement.environment import identity
from imdb_serving.measurement.first_answers import FirstAnswers
from imdb_serving.measurement.ledger import Ledger, new_run, newest, outputs_folder
from imdb_serving.measurement.local_clients import reference_answers
from imdb_serving.measurement.measure import (
    Probabilities,
    Round,
    Session,
    Target,
    client_ceiling,
    measure,
    prepared_reviews,
    review_workload,
    row_key,
)
from imdb_serving.measurement.models import model_id, require_model
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.parameters.checks import LOCAL
from imdb_serving.measurement.texts import lines_of

if TYPE_CHECKING:
    pass

REQUESTS = 1000
CURL_REQUESTS_A_CLIENT = 12
"""Each forks a process, which takes some milliseconds."""


def ceilings(params: GridParams, context: Round, ledger: Ledger, deployment: Deployment) -> dict[int, float]:
    """Return the requests a second that each client count can send at most, measured once for a sweep's folder.

    Without a server nothing is sent, and there is no such limit; an echo is one itself.
    """
    if params.mode in (*LOCAL_MODES, *ECHO_MODES):
        return {}
    null = calibration(params)
    who = identity(context.cards, "", params.seed)
    if params.mode == FOREIGN:
        who = digest(who, params.fingerprint)
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
        engine="none" if params.mode != FOREIGN else "",
        worker_kind="",
        math_threads=1,
        pipeline="",
        server_threads=1,
        server_processes=1,
        samples=requests * params.batch,
        passes=1,
        arrivals=CLOSED,
        rates=[],
        round=1,
    )


def _calibrate(null: GridParams, context: Round, who: str, ledger: Ledger, deployment: Deployment) -> list[Row]:
    lines, workload = _to_send(null)
    context = replace(context, number=1, identity=who, lines=lines, workload=workload)
    rows = []
    with ExitStack() as stack:
        target = deployment.start_server(null, stack)
        session = deployment.start_clients(null, target, stack)
        for order, cell in enumerate(null.cells()):
            rows.append(ledger.append(*measure(cell, context, session, "", target, order)))
    return rows


Progress = Callable[[str], None]

TRIES = 2
"""How often a cell is measured whose machines are lost."""


class GridRun:
    """One server-thread count with its client counts: a server, its clients, and the cells to measure.

    What the ledger has of a run of this name is not measured again. When a machine of a cluster is lost, server and
    clients are started elsewhere and its cell is measured once more.

    >>> run = GridRun(params)  # doctest: +SKIP
    >>> with run.server() as server, run.clients(server) as clients:  # doctest: +SKIP
    ...     for cell in run.left():
    ...         run.record(*run.measure(cell, server, clients))
    """

    def __init__(self, params: GridParams, progress: Progress = print) -> None:
        """Find what the run's cells have in common, and train the model if it is missing."""
        if params.server.model:
            require_model(params)
        if not params.run:  # a lone notebook: its rows and raw samples must not mix with those of another
            params = msgspec.structs.replace(params, run=new_run())
        self.params, self._progress = params, progress
        self.ledger, self._deployment = Ledger(outputs_folder(params)), deployment_of(params)
        self.context = self._deployment.start_round(params, self.ledger)
        self._lost: HostLost | None = None

    @contextmanager
    def server(self) -> Iterator[Server]:
        """Start the server for the block, in which nobody else measures in this folder.

        Clients are calibrated first, once for a folder. Raises `ServingError` or `OSError` when it does not start.
        """
        prepare_processes()
        with self._deployment.locked_folder(self.ledger.folder):
            server = Server(self.params, self._deployment, self._calibrate)
            server.start_again_when_lost(self._progress)
            try:
                yield server
            except BaseException as error:
                server.end(error)
                raise
            server.end()
        end_processes()  # those of the next run in this process are new ones as well

    @contextmanager
    def clients(self, server: Server) -> Iterator[Clients]:
        """Start the clients for the block; meanwhile read the reviews and ask the bare engine for its answers."""
        clients = Clients(self.params, self._deployment)
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(inputs_of, self.params, self.ledger.folder)
            clients.start(server)
            try:
                inputs = reading.result()
                self.context = replace(
                    self.context, nodes=self._deployment.nodes, ceilings=server.ceilings, **inputs._asdict()
                )
                self._warm_up(clients)
                self._say_ready()
                yield clients
            except BaseException as error:
                clients.end(error)
                raise
            clients.end()

    def left(self) -> list[Cell]:
        """Return the cells that are not measured yet, in an order of this round's own."""
        return unmeasured(self.params, self.context, self.ledger)

    def measure(self, cell: Cell, server: Server, clients: Clients) -> tuple[Row, list[ClientRecord]]:
        """Return a cell's row and raw samples; what goes wrong is in the row."""
        order = shuffled(self.params).index(cell)
        for attempt in range(TRIES):
            if self._lost:
                self._start_elsewhere(self._lost, server, clients)
            try:
                return measure(cell, self.context, clients.session, "", server.target, order)
            except HostLost as error:
                self._lost = error
                failed: tuple[Row, list[ClientRecord]] = self.context.failed(cell, error, order), []
                if attempt + 1 < TRIES:
                    self.record(*failed)
        return failed

    def record(self, row: Row, records: Sequence[ClientRecord] = ()) -> Row:
        """Append a cell to the ledger, and say in a line what it gave."""
        row = self.ledger.append(row, records)
        self._progress(describe(row))
        return row

    def fail(self, error: Exception) -> None:
        """Record every cell that is left as failed."""
        self._progress(f"FAILED {run_words(self.params)}: {error}")
        order = shuffled(self.params)
        for cell in self.left():
            self.ledger.append(self.context.failed(cell, error, order.index(cell)), [])

    def rows(self) -> list[Row]:
        """Return the run's rows by client count and rate, each cell once."""
        keys = {self.context.row(cell).key for cell in self.params.cells()}
        name, number = self.params.run, self.params.round
        rows = [row for row in newest(self.ledger.rows()) if (row.run, row.round) == (name, number) and row.key in keys]
        return sorted(rows, key=lambda row: (row.cell.client_threads, row.cell.rate))

    def _calibrate(self) -> dict[int, float]:
        return ceilings(self.params, self.context, self.ledger, self._deployment)

    def _warm_up(self, clients: Clients) -> None:
        """Have every client send some requests to a server of someone else, which is not known to have done so itself.

        What becomes of them shows when they are measured.
        """
        if self.params.mode != FOREIGN:
            return
        count = max(self.params.client_threads)
        some = self.context.lines[: max(1, foreign.WARM_UP_REQUESTS * self.params.batch)]
        one = Share.whole(self.context.workload(some, self.params.batch))
        clients.session.run("", [one] * count)

    def _start_elsewhere(self, error: HostLost, server: Server, clients: Clients) -> None:
        clients.end(error)
        server.end(error)
        server.start_again_when_lost(self._progress)
        clients.start(server)
        self._lost = None
        self._say_ready()

    def _say_ready(self) -> None:
        nodes = self._deployment.nodes
        self.context = replace(self.context, nodes=nodes)
        self._progress(f"server ready{': ' if nodes else ''}{', '.join(nodes)}")


class _Started:
    """The server and clients of a run, from start to end."""

    def __init__(self, params: GridParams, deployment: Deployment) -> None:
        self._params, self._deployment = params, deployment
        self._stack = ExitStack()

    def end(self, error: BaseException | None = None) -> None:
        """End it; behind an error nothing is waited for."""
        self._stack.__exit__(type(error) if error else None, error, None)


class Server(_Started):
    """The server of a run, on this machine or on nodes of a cluster. `target` says how clients reach it."""

    target: Target

    def __init__(self, params: GridParams, deployment: Deployment, calibrate: Callable[[], dict[int, float]]) -> None:
        super().__init__(params, deployment)
        self._calibrate = calibrate
        self.ceilings: dict[int, float] = {}
        """The requests a second that each client count can send at most."""

    def start_again_when_lost(self, progress: Progress) -> None:
        """Start it; when a machine is lost meanwhile, once more elsewhere."""
        try:
            self._start()
        except HostLost as error:
            progress(f"a machine was lost, others are asked for: {error}")
            self._start()

    def _start(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._deployment.reserved(self._params))
            if self._params.mode != FOREIGN:
                self.ceilings = self._calibrate()
            self.target = self._deployment.start_server(self._params, stack)
            if self._params.mode == FOREIGN:  # what it answered shows what clients have to read
                self.ceilings = self._calibrate()
            self._stack = stack.pop_all()


class Clients(_Started):
    """The clients of a run, as many processes as its greatest client count; a cell is measured by the first of them."""

    session: Session

    def start(self, server: Server) -> None:
        """Start them; raise `ServingError` or `OSError` when one does not start."""
        with ExitStack() as stack:
            self.session = self._deployment.start_clients(self._params, server.target, stack)
            self._stack = stack.pop_all()


def run_grid(params: GridParams, progress: Progress = print) -> list[Row]:
    """Measure a whole grid run, and return its rows by client count.

    A cell that fails is a row with its reason and does not stop the others; a server that does not start fails all.
    """
    run = GridRun(params, progress)
    if run.left():
        try:
            with run.server() as server, run.clients(server) as clients:
                for cell in run.left():
                    run.record(*run.measure(cell, server, clients))
        except (ServingError, OSError) as error:
            run.fail(error)
    return run.rows()


def deployment_of(params: GridParams) -> Deployment:
    """Return where a run is measured: here, or on its cluster."""
    if params.cluster == LOCAL:
        return THIS_MACHINE
    from imdb_serving.cluster.deployment import ClusterDeployment

    return ClusterDeployment(params.cluster)


def unmeasured(params: GridParams, context: Round, ledger: Ledger) -> list[Cell]:
    """Return the run's cells that the ledger does not have, in an order of this round's own; failed ones included."""
    done = ledger.done(params.run)
    return [cell for cell in shuffled(params) if (context.row(cell).key, params.round) not in done]


def shuffled(params: GridParams) -> list[Cell]:
    """Return the cells in an order of this round's own."""
    cells = params.cells()
    random.Random(f"{params.seed}/{params.round}/{cells[0].without('client_threads').key}").shuffle(cells)  # noqa: S311
    return cells


class Inputs(NamedTuple):
    """What is sent, and what its answers are compared with; see `Round`."""

    lines: Sequence[Any]
    workload: Callable[[Sequence[Any], int], Workload]
    reference: Probabilities | None = None
    difference: Callable[[Mapping[int, Sequence[Any]]], float] | None = None


def inputs_of(params: GridParams, folder: Path) -> Inputs:
    """Return the reviews, and the bare engine's answers: none for a pipeline or a server of someone else.

    The answers of a server that does not run an engine of ours are compared with its first ones.
    """
    lines, workload = _to_send(params)
    if params.mode == FOREIGN and not params.engine:
        return Inputs(lines, workload, difference=FirstAnswers(params, folder).difference)
    if params.pipeline or params.mode in ECHO_MODES:
        return Inputs(lines, workload)
    spec = params.server
    reviews = lines if params.mode != FOREIGN else lines_of(params, params.samples)
    return Inputs(lines, workload, reference_answers(folder, spec.engine, spec.model, model_id(spec.model), reviews))


def _to_send(params: GridParams) -> tuple[Sequence[Any], Callable[[Sequence[Any], int], Workload]]:
    """Return the samples of a run, and what makes requests of them."""
    if params.mode == FOREIGN:
        return samples_of(params), Bodies.of(params, outputs_folder(params)).workload
    return lines_of(params, params.samples), prepared_reviews if params.prepro == BEFORE else review_workload


def run_words(params: GridParams) -> str:
    """Return in words which run of a round this is."""
    what = ", ".join(filter(None, [params.mode, params.server_label if params.has_server() else "", params.engine]))
    return f"{what}, {plural(params.server_threads, 'server thread')}"


def describe(row: Row) -> str:
    """Return one line about a measured cell."""
    cell = row.cell
    what = ", ".join(filter(None, [cell.mode, cell.server, cell.engine]))
    words = f"{what}, {cell.server_threads} server x {cell.client_threads} client threads"
    if cell.server_processes > 1:
        words += f", {cell.label(['server_processes'])}"
    if cell.placement:
        words += f", {cell.label(['placement', 'server_nodes', 'client_nodes'])}"
    if cell.arrivals != CLOSED:
        words += f", {cell.label(['arrivals', 'rate'])}"
    if not row.answered:
        return f"{words}: FAILED, {row.error}"
    figures = f"{row.figures.throughput:,.0f} samples/s, total {row.sums_s.get('total', nan):.2f} s a client"
    return f"{words}: {figures}" if row.status == OK else f"{words}: {figures}; INVALID, {row.why}"
