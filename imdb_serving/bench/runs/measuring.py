"""The one runner: a cell, a target and clients in; a judged row and raw samples out.

Grids, ladders, calibrations and searches all measure through here, so that a figure means the same in all of them.
Knows neither files nor figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import msgspec
import numpy as np
from numpy.typing import NDArray

from imdb_serving.bench.analysis import gates, summary
from imdb_serving.bench.cell import Cell, digest
from imdb_serving.bench.load.loadgen import ClientRecord
from imdb_serving.bench.load.session import Connect, LoadSession
from imdb_serving.bench.load.workload import ReviewWorkload, share
from imdb_serving.bench.record.machine import allowed
from imdb_serving.bench.record.rows import FAILED, INVALID, OK, Figures, Row
from imdb_serving.bench.runs.watch import Usage, watching
from imdb_serving.errors import ServingError
from imdb_serving.text.lines import Line

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Target:
    """How clients reach what is measured, and its server's process ids (none without a server)."""

    connect: Connect
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """What all cells of one round on one machine share.

    `truth` are the bare engine's probabilities, one a line, None where there is nothing to compare with; `ceilings` the
    requests a second that so many clients can send at most.
    """

    run: str
    number: int
    seed: int
    card: str
    identity: str
    lines: Sequence[Line]
    truth: Probabilities | None = None
    ceilings: dict[int, float] = field(default_factory=dict)

    def row(self, cell: Cell, order: int = 0) -> Row:
        """Return the empty row of a cell in this round."""
        began = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return Row(
            run=self.run,
            key=row_key(cell, self.identity),
            cell=cell,
            round=self.number,
            order=order,
            began=began,
            seed=self.seed,
            card=self.card,
        )

    def failed(self, cell: Cell, error: Exception, order: int = 0) -> Row:
        """Return the row of a cell that could not be measured."""
        words = f"{type(error).__name__}: {error}"
        return msgspec.structs.replace(self.row(cell, order), status=FAILED, error=words)


def row_key(cell: Cell, identity: str) -> str:
    """Return what rows of one cell, on one machine with the same software and model, have in common."""
    return digest(cell, identity)


def measure(
    cell: Cell, around: Round, session: LoadSession, name: str, target: Target, order: int = 0
) -> tuple[Row, list[ClientRecord]]:
    """Measure one cell with the first clients of a session, whose target `name` is; return its row and raw samples.

    What goes wrong is in the row: `error` when requests failed, `findings` for every gate it did not pass.
    """
    row = around.row(cell, order)
    lines = list(around.lines[: cell.samples]) * cell.passes
    shares = [
        ReviewWorkload(part, "ids", None, batch=cell.batch) for part in share(lines, cell.client_threads, cell.batch)
    ]
    records: list[ClientRecord] = []
    with watching(target.pids, session.pids) as usage:
        try:
            records = session.run(name, shares)
        except (ServingError, OSError) as failure:
            return around.failed(cell, failure, order), records
    failures = [failure for record in records for failure in record.failures]
    requests = sum(map(len, shares))
    row = msgspec.structs.replace(
        row,
        error=f"{len(failures)} of {requests} requests failed, the first: {failures[0].message}" if failures else "",
        requests=requests,
        failed_requests=len(failures),
        stages=summary.stage_names(records),
        sums_s={name: seconds / cell.passes for name, seconds in summary.stage_sums(records).items()},
        means_us=summary.stage_means(records),
        figures=_figures(cell, around, records, usage),
        **_answers(around.truth, shares, records),
    )
    return judged(row), records


def judged(row: Row) -> Row:
    """Return the row with what the gates say of it, and its status."""
    findings = gates.judge(row)
    if row.error and not row.answered:
        return msgspec.structs.replace(row, status=FAILED, findings=findings)
    return msgspec.structs.replace(row, status=INVALID if findings else OK, findings=findings)


def _figures(cell: Cell, around: Round, records: Sequence[ClientRecord], usage: Usage) -> Figures:
    answered = sum(len(record.positions) for record in records)
    samples = sum(len(outcome) for record in records for outcome in record.outcomes)
    if not answered:
        return Figures(load_before=usage.load_before, load_after=usage.load_after)
    # The bare engine's client lays out the feed as well; only the engine itself is to be counted.
    whole = "op1" if cell.mode == "bare" else "client_infer"
    loop = summary.closed_loop(records)
    ceiling = around.ceilings.get(cell.client_threads)
    measured: dict[str, float | None] = {**loop, **summary.latency(records, whole), **summary.stage_gaps(records)}
    figures = Figures(
        throughput=loop["request_rate"] * samples / answered,
        server_cpu_us=usage.server_s / answered * 1e6,
        client_cpu_us=sum(record.cpu_s for record in records) / answered * 1e6,
        foreign_cores=usage.foreign_cores,
        steal_cores=usage.steal_cores,
        load_before=usage.load_before,
        load_after=usage.load_after,
        of_ceiling=loop["request_rate"] / ceiling if ceiling else None,
    )
    return msgspec.structs.replace(figures, **measured)


def client_ceiling(row: Row) -> float:
    """Return the requests a second that a calibrated number of clients can send at most, were the server free.

    So many clients need `client_cpu_us` of a core for each request, and each can use one core.
    """
    cores = min(row.cell.client_threads, len(allowed()))
    return cores / (row.figures.client_cpu_us * 1e-6) if row.figures.client_cpu_us else float("inf")


def _answers(
    truth: Probabilities | None, shares: Sequence[ReviewWorkload], records: Sequence[ClientRecord]
) -> dict[str, object]:
    """Compare every answer with the bare engine's to the same review (`truth`, which repeats), and with the label."""
    results = [result for record in records for outcome in record.outcomes for result in outcome]
    if not results:
        return {}
    difference = None
    if truth is not None:
        first = 0
        places: list[int] = []
        for workload, record in zip(shares, records, strict=True):
            for position in record.positions:
                start = first + position * workload.batch
                places += range(start, start + len(workload.samples(position)))
            first += len(workload.lines)
        given = np.array([result.probability for result in results])
        distance = np.abs(given - truth[np.array(places) % len(truth)])
        difference = float(distance.max()) if np.isfinite(distance).all() else float("inf")
    return {
        "answered": len(results),
        "answers": summary.answers_digest(results),
        "accuracy": sum(result.right for result in results) / len(results),
        "difference": difference,
    }
