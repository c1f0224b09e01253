"""How much these clients can send at most: they are run against the engine that answers at once, before anything else.

What is kept is the CPU time a request takes of a client. A server that costs nothing would leave the clients all cores,
so `min(clients, cores) / CPU seconds` is the most they could send. The throughput against the null engine itself would
not do as a limit: on shared cores most of it is the server's own work, which is what is to be measured.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack

import msgspec

from imdb_serving.bench.cell import CALIBRATION, CLOSED, LOCAL_MODES
from imdb_serving.bench.load.inputs import measurement_lines
from imdb_serving.bench.load.session import LoadSession
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.environment import identity, read_card
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.rows import Row
from imdb_serving.bench.runs.measuring import Round, Target, client_ceiling, measure, row_key
from imdb_serving.bench.runs.models import vocabulary_of
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.server_process import ServerProcess, server_arguments
from imdb_serving.transports.connect import CURL, connect

REQUESTS = 1000
CURL_REQUESTS_A_CLIENT = 12
"""Each forks a process, which takes some milliseconds."""

NULL = EngineSpec("null")


def ceilings(params: GridParams, around: Round, ledger: Ledger) -> dict[int, float]:
    """Return the requests a second that each client count can send at most, measured once for a sweep's folder.

    Without a server nothing is sent, and there is no such limit.
    """
    if params.mode in LOCAL_MODES:
        return {}
    null = calibration(params)
    who = identity(read_card(ledger.folder, around.card), "", params.seed)
    wanted = {row_key(cell, who): cell for cell in null.cells()}
    known = {row.key: row for row in ledger.rows() if row.key in wanted and row.answered}
    if missing := [cell.client_threads for cell in wanted.values() if row_key(cell, who) not in known]:
        rows = _calibrate(msgspec.structs.replace(null, client_threads=missing), around, who, ledger)
        known |= {row.key: row for row in rows if row.answered}
    return {row.cell.client_threads: client_ceiling(row) for row in known.values()}


def calibration(params: GridParams) -> GridParams:
    """Return the parameters of a grid run's calibration: the same clients, and one worker that answers at once."""
    most = max(params.client_threads)
    requests = CURL_REQUESTS_A_CLIENT * most if params.http_client == CURL else max(REQUESTS, 20 * most)
    return msgspec.structs.replace(
        params,
        series=CALIBRATION,
        engine="null",
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


def _calibrate(null: GridParams, around: Round, who: str, ledger: Ledger) -> list[Row]:
    lines = measurement_lines(null.samples, null.seed, vocabulary_of(null))
    around = Round(around.run, 1, around.seed, around.card, who, lines)
    rows = []
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess.of_mode(null.mode, server_arguments(None, NULL, 1)))
        target = Target(functools.partial(connect, server.endpoint, null.timeout, null.http_client), (server.pid,))
        session = stack.enter_context(LoadSession({"": target.connect}, max(null.client_threads), null.timeout))
        for order, cell in enumerate(null.cells()):
            rows.append(ledger.append(*measure(cell, around, session, "", target, order)))
    return rows
