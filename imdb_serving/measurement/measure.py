"""The one runner: a cell, a target and clients in; a judged row and raw samples out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import inf, isfinite, nan
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from imdb_serving.analysis import gates, summary
from imdb_serving.cell import CLOSED, FAILED, INVALID, OFFLINE, OK, Cell, Figures, Row, digest
from imdb_serving.errors import HostLost, ServingError
from imdb_serving.load.client_processes import Connect
from imdb_serving.load.closed_loop import ClientRecord, FailedRequest, Share, Workload
from imdb_serving.load.open_loop import arrival_times
from imdb_serving.load.workload import PreparedReviews, PreparedWorkload, Result, ReviewWorkload, split_lines
from imdb_serving.measurement.cpu_meter import Usage, watching
from imdb_serving.processes import temporary_folder
from imdb_serving.text.formats import UNLABELLED, Line
from imdb_serving.timing import WAYS

Probabilities = NDArray[np.float64]


class Session(Protocol):
    """Connected clients, on this machine or on others."""

    @property
    def request_timeout(self) -> float:
        """One request's deadline in seconds."""

    @property
    def pids(self) -> list[int]:
        """The ids of the client processes on this machine."""

    def run(self, target: str, shares: Sequence[Share]) -> list[ClientRecord]:
        """Have the first clients work through one share each; see `LoadSession.run`."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured: how clients connect to it, and the process ids of its server, if it has one that `is_known`.

    One that `is_guarded` is the child of a process that is not the server's.
    """

    connect: Connect
    pids: tuple[int, ...] = ()
    is_known: bool = True
    is_guarded: bool = False

    def watching(self, clients: Sequence[int]) -> AbstractContextManager[Usage]:
        """Fill in the usage of the `with` block, of this server and of these clients' processes."""
        return watching(self.pids, clients, is_known=self.is_known, is_guarded=self.is_guarded)


def review_workload(lines: Sequence[Line], batch: int) -> Workload:
    """Return reviews as requests of our own servers."""
    return ReviewWorkload.plain(lines, batch)


def prepared_reviews(lines: Sequence[Line], batch: int) -> Workload:
    """Return reviews as requests of our own servers, made before anything is timed."""
    return PreparedReviews.of(ReviewWorkload.plain(lines, batch))


@dataclass(frozen=True, slots=True)
class Round:
    """What all cells of one round on one machine share.

    `lines` are the samples, of which `workload` makes requests of so many each. `reference` has the bare engine's
    probabilities [lines, classes], or is None where there is nothing to compare with; `difference` then says how far
    answers, by the places of their samples, are from the first ones. `ceilings` has the most requests per second that
    each client count can send. On a cluster `card` is the servers' machine, `client_card` that of clients elsewhere,
    and `nodes` names both.
    """

    run: str
    number: int
    seed: int
    card: str
    identity: str
    lines: Sequence[Any]
    reference: Probabilities | None = None
    workload: Callable[[Sequence[Any], int], Workload] = review_workload
    difference: Callable[[Mapping[int, Sequence[Any]]], float] | None = None
    ceilings: dict[int, float] = field(default_factory=dict)
    client_card: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def cards(self) -> list[str]:
        """The cards' ids of the machines, each once."""
        return list(dict.fromkeys(filter(None, [self.card, self.client_card])))

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
            client_card=self.client_card,
            nodes=self.nodes,
        )

    def failed(self, cell: Cell, error: Exception, order: int = 0) -> Row:
        """Return the row of a cell that could not be measured."""
        words = f"{type(error).__name__}: {error}"
        return msgspec.structs.replace(self.row(cell, order), status=FAILED, error=words)


def row_key(cell: Cell, identity: str) -> str:
    """Return what rows of one cell, on one machine with the same software and model, have in common."""
    return digest(cell, identity)


def measure(
    cell: Cell,
    context: Round,
    session: Session,
    name: str,
    target: Target,
    order: int = 0,
    workloads: Sequence[Workload] | None = None,
) -> tuple[Row, list[ClientRecord]]:
    """Measure one cell with the first clients of a session, whose target `name` is; return its row and raw samples.

    Clients send the round's reviews, or each its own of the `workloads`, in a closed loop.
    What goes wrong is in the row: `error` when requests failed, `findings` for every gate it did not pass. Raises
    `HostLost` when a machine is gone.
    """
    row = context.row(cell, order)
    lines = list(context.lines[: cell.samples]) * cell.passes
    records: list[ClientRecord] = []
    with (
        _shares(cell, context, lines, session.request_timeout, workloads) as (sent, shares),
        target.watching(session.pids) as usage,
    ):
        try:
            records = session.run(name, shares)
        except HostLost:
            raise
        except (ServingError, OSError) as failure:
            return context.failed(cell, failure, order), records
    requests = len(sent[0]) if cell.arrivals != CLOSED else sum(map(len, sent))
    return assess(row, context, [records], sent, requests, usage), records


def assess(
    row: Row,
    context: Round,
    blocks: Sequence[Sequence[ClientRecord]],
    workloads: Sequence[Workload],
    requests: int,
    usage: Usage,
) -> Row:
    """Return the row of what clients saw in one or more blocks of load, judged: `workloads` are the records', in order.

    `requests` are those that were to be sent.
    """
    cell = row.cell
    records = [record for block in blocks for record in block]
    failures = [failure for record in records for failure in record.failures]
    answered = sum(len(record.positions) for record in records)
    row = msgspec.structs.replace(
        row,
        error=_failed(failures, requests),
        requests=requests,
        failed_requests=len(failures),
        unsent=max(0, requests - answered - len(failures)),
        **_stages(cell, records, workloads),
        figures=_figures(cell, context, blocks, usage),
        **_answers(context, cell, workloads, records),
    )
    return judged(row)


def _failed(failures: Sequence[FailedRequest], requests: int) -> str:
    """Return in words how many requests failed, of which kinds, and how the first did; empty when none did."""
    if not failures:
        return ""
    kinds = Counter(failure.code for failure in failures)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    told = f" ({counted})" if len(kinds) > 1 else ""
    return f"{len(failures)} of {requests} requests failed{told}, the first: {failures[0].message}"


def _stages(cell: Cell, records: Sequence[ClientRecord], workloads: Sequence[Workload]) -> dict[str, object]:
    """Return the fields of a row that say where time went; journeys that no clock can tell apart stand together.

    What making requests took beforehand is told as prepro, and in the total, as where it is done meanwhile.
    """
    names, bound = summary.stage_names(records), summary.clock_bound_us(records)
    sums = {name: seconds / cell.passes for name, seconds in summary.stage_sums(records).items()}
    means = summary.stage_means(records)
    if bound > min(means.get(way, inf) for way in WAYS):
        sums, means = summary.together(sums), summary.together(means)
        names = tuple(summary.together(dict.fromkeys(names, 0.0)))
    prepared = [each.prepare_ns / 1000 for each in workloads if isinstance(each, PreparedWorkload | PreparedReviews)]
    if prepared and means:
        each, requests = sum(prepared) / len(prepared), sum(len(record.positions) for record in records)
        for values, more in ((means, each), (sums, each * 1e-6 * requests / len(records) / cell.passes)):
            for name in ("prepro", "total"):
                values[name] += more
    return {"stages": names, "sums_s": sums, "means_us": means, "clock_bound_us": bound or None}


@contextmanager
def _shares(
    cell: Cell, context: Round, lines: Sequence[Any], timeout: float, given: Sequence[Workload] | None
) -> Iterator[tuple[Sequence[Workload], Sequence[Share]]]:
    """Yield each client's workload and share: a part of the requests (closed loop), or turns at all (open loop)."""
    if cell.arrivals == CLOSED:
        parts = split_lines(lines, cell.client_threads, cell.batch)
        workloads = given or [context.workload(part, cell.batch) for part in parts]
        yield workloads, [Share.whole(workload) for workload in workloads]
        return
    whole = context.workload(lines, cell.batch)
    due = arrival_times(cell.arrivals, cell.rate, len(whole), context.seed + context.number)
    # All at once, the last is overdue by as long as the whole takes.
    patience = int((timeout if cell.arrivals != OFFLINE else timeout * len(whole)) * 1e9)
    with temporary_folder() as place:
        clients = cell.client_threads
        one = Share(
            whole, len(whole), due_ns=due, tickets=Path(place) / "tickets", clients=clients, patience_ns=patience
        )
        yield [whole] * clients, [one] * clients


def judged(row: Row) -> Row:
    """Return the row with what the gates say of it, and its status."""
    findings = gates.judge(row)
    if row.error and not row.answered:
        return msgspec.structs.replace(row, status=FAILED, findings=findings)
    return msgspec.structs.replace(row, status=INVALID if findings else OK, findings=findings)


def _figures(cell: Cell, context: Round, blocks: Sequence[Sequence[ClientRecord]], usage: Usage) -> Figures:
    records = [record for block in blocks for record in block]
    answered = sum(len(record.positions) for record in records)
    samples = sum(len(outcome) for record in records for outcome in record.outcomes)
    if not answered:
        return Figures(load_before=usage.load_before, load_after=usage.load_after)
    # The bare engine's client lays out the feed as well; only the engine itself is to be counted.
    whole = "op1" if cell.mode == "bare" else "client_infer"
    gaps = summary.stage_gaps(records)
    closed = cell.arrivals == CLOSED
    rates = [summary.closed_loop(block) if closed else summary.open_loop(block, cell.rate) for block in blocks]
    measured: dict[str, float | None] = {
        **summary.over_blocks(rates),
        **(summary.latency(records, whole) if closed else summary.open_latency(records)),
        **gaps,
    }
    if not measured.get("offered"):
        measured.pop("offered", None)  # all at once
    rate = float(measured["request_rate"] or 0.0)
    ceiling = context.ceilings.get(cell.client_threads)
    figures = Figures(
        throughput=rate * samples / answered,
        server_cpu_us=usage.server_s / answered * 1e6 if usage.is_known else None,
        server_memory_mib=usage.memory_mib,
        front_cpu_us=usage.front_s / answered * 1e6 if usage.front_s else None,
        client_cpu_us=sum(record.cpu_s for record in records) / answered * 1e6,
        foreign_cores=usage.foreign_cores if usage.is_known else None,
        steal_cores=usage.steal_cores,
        throttled_s=usage.throttled_s,
        load_before=usage.load_before,
        load_after=usage.load_after,
        of_ceiling=rate / ceiling if ceiling else None,
    )
    return msgspec.structs.replace(figures, **measured)


def client_ceiling(row: Row, cores: float) -> float:
    """Return the requests a second that a calibrated number of clients can send at most, were the server free.

    So many clients need `client_cpu_us` of a core for each request, and each can use one of the `cores`.
    """
    cores = min(row.cell.client_threads, cores)
    return cores / (row.figures.client_cpu_us * 1e-6) if row.figures.client_cpu_us else float("inf")


def _answers(
    context: Round, cell: Cell, workloads: Sequence[Workload], records: Sequence[ClientRecord]
) -> dict[str, object]:
    """Compare every answer with the bare engine's to the same review (`reference`, which repeats), and with the label.

    The digest is of the first pass over the samples alone, so that it says nothing of how many passes there were. Those
    of a server of someone else are compared with its first ones; answers to made-up requests are counted only.
    """
    if all(isinstance(workload, ReviewWorkload) for workload in workloads):
        return _compared(context.reference, cell.samples, cast("Sequence[ReviewWorkload]", workloads), records)
    answered: dict[str, object] = {"answered": sum(len(outcome) for record in records for outcome in record.outcomes)}
    if not all(isinstance(workload, PreparedWorkload) for workload in workloads) or not answered["answered"]:
        return answered
    return answered | _compared_values(context, cell, cast("Sequence[PreparedWorkload]", workloads), records)


def _compared_values(
    context: Round, cell: Cell, workloads: Sequence[PreparedWorkload], records: Sequence[ClientRecord]
) -> dict[str, object]:
    """Compare the values of answers, as probabilities with the bare engine's where its model is ours."""
    first, given = 0, dict[int, list[Any]]()
    for workload, record in zip(workloads, records, strict=True):
        for position, values in zip(record.positions, record.outcomes, strict=True):
            for place, value in enumerate(values, start=first + position * cell.batch):
                given.setdefault(place % cell.samples, []).append(value)
        first += sum(workload.counts) if workload is not workloads[-1] else 0  # in an open loop all have the same
    text = "".join(f"{given[place][0]}\n" for place in sorted(given))
    found: dict[str, object] = {"answers": digest(text)}
    if context.reference is not None:
        expected = context.reference[:, -1]
        far = [abs(probability(v) - expected[place]) for place, values in given.items() for v in values]
        right = [
            (probability(v) > 0.5) == (context.lines[place].label == 1)
            for place, values in given.items()
            for v in values
        ]
        worst = float(max(far))
        return found | {"difference": worst if isfinite(sum(far)) else inf, "accuracy": sum(right) / len(right)}
    return found | {"difference": context.difference(given) if context.difference else None}


def probability(value: Any) -> float:
    """Return a value as a probability; not a number when it is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan


def _compared(
    reference: Probabilities | None, samples: int, shares: Sequence[ReviewWorkload], records: Sequence[ClientRecord]
) -> dict[str, object]:
    first = 0
    given: list[tuple[int, Result]] = []
    for workload, record in zip(shares, records, strict=True):
        for position, outcome in zip(record.positions, record.outcomes, strict=True):
            given += enumerate(outcome, start=first + position * workload.batch)
        first += len(workload.lines) if workload is not shares[-1] else 0  # in an open loop all have the same
    if not given:
        return {}
    places, results = zip(*sorted(given, key=itemgetter(0)), strict=True)
    difference = None
    if reference is not None:
        difference = _furthest([result.shares for result in results], reference[np.array(places) % len(reference)])
    labelled = [result.right for result in results if result.label != UNLABELLED]
    return {
        "answered": len(results),
        "answers": summary.answers_digest(results[:samples]),
        "accuracy": sum(labelled) / len(labelled) if labelled else None,
        "difference": difference,
    }


def _furthest(shares: Sequence[Sequence[float]], expected: Probabilities) -> float:
    """Return how far probabilities are from those expected; infinity where they are of other classes, or no numbers."""
    if {len(one) for one in shares} != {expected.shape[1]}:
        return inf
    distance = np.abs(np.array(shares) - expected)
    return float(distance.max()) if np.isfinite(distance).all() else inf
