"""How much these clients can send at most: they are run against the engine that answers at once, before anything else.

What is kept is the CPU time a request takes of a client. A server that costs nothing would leave the clients all cores,
so `min(clients, cores) / CPU seconds` is the most they could send. The throughput against the engine `none` would not
do as a limit: on shared cores most of it is the server's own work, which is what is to be measured.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import msgspec

from imdb_serving.bench.cell import CALIBRATION, CLOSED, LOCAL_MODES
from imdb_serving.bench.load.inputs import measurement_lines
from imdb_serving.bench.parameters import GridParams
from imdb_serving.bench.record.environment import identity
from imdb_serving.bench.record.ledger import Ledger
from imdb_serving.bench.record.rows import Row
from imdb_serving.bench.runs.measuring import Round, client_ceiling, measure, row_key
from imdb_serving.bench.runs.models import vocabulary_of
from imdb_serving.bench.runs.site import Site
from imdb_serving.transports.connect import CURL

REQUESTS = 1000
CURL_REQUESTS_A_CLIENT = 12
"""Each forks a process, which takes some milliseconds."""


def ceilings(params: GridParams, around: Round, ledger: Ledger, site: Site) -> dict[int, float]:
    """Return the requests a second that each client count can send at most, measured once for a sweep's folder.

    Without a server nothing is sent, and there is no such limit.
    """
    if params.mode in LOCAL_MODES:
        return {}
    null = calibration(params)
    who = identity(around.cards, "", params.seed)
    wanted = {row_key(cell, who): cell for cell in null.cells()}
    known = {row.key: row for row in ledger.rows() if row.key in wanted and row.answered}
    if missing := [cell.client_threads for cell in wanted.values() if row_key(cell, who) not in known]:
        rows = _calibrate(msgspec.structs.replace(null, client_threads=missing), around, who, ledger, site)
        known |= {row.key: row for row in rows if row.answered}
    return {row.cell.client_threads: client_ceiling(row, site.client_cores) for row in known.values()}


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


def _calibrate(null: GridParams, around: Round, who: str, ledger: Ledger, site: Site) -> list[Row]:
    lines = measurement_lines(null.samples, null.seed, vocabulary_of(null))
    around = replace(around, number=1, identity=who, lines=lines)
    rows = []
    with ExitStack() as stack:
        session, target = site.put_up(null, stack)
        for order, cell in enumerate(null.cells()):
            rows.append(ledger.append(*measure(cell, around, session, "", target, order)))
    return rows
