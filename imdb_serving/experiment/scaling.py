"""How the cost of serving changes with workers, clients, review length and batch (`imdb-serving growth`).

One value is changed at a time, in shuffled rounds over values and modes. Workers are of the simulated engine, which
sleeps, so a machine with few cores can have many; on the other axes the engine answers at once, so only serving is
measured.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import RemoteFailure
from imdb_serving.experiment.comparison import OURS, Row, run_block
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.load.share import Share
from imdb_serving.measurement.ledger import append_row, store_samples
from imdb_serving.measurement.measure import Target
from imdb_serving.measurement.parameters import ScalingParams
from imdb_serving.messages import Reply, Request
from imdb_serving.protocol.requests import make_request
from imdb_serving.server_process import ServerProcess, server_arguments

FILE = "growth.jsonl"
AXES = ("workers", "clients", "words", "batch")
MAX_PROCESSES = 16
"""More clients than these are threads of so many processes."""

WORDS = 200
"""Of a review where its length is not what changes: about what IMDB's have in the middle."""

WORKERS = 2
REQUESTS_A_SECOND = 3000
"""About how many of the smallest are answered in a second: it sets how many are sent, and nothing else."""

REVIEWS_LIKE_A_REQUEST, WORDS_LIKE_A_REQUEST = 16, 2000


@dataclass(frozen=True, slots=True)
class Alike:
    """Requests that are all alike: `batch` reviews of `words` word ids."""

    count: int
    words: int
    batch: int

    def __len__(self) -> int:
        """Return the number of requests."""
        return self.count

    def prepare(self, _position: int) -> Request:
        """Make one."""
        review = np.arange(self.words, dtype=np.int64)
        return make_request([{"words": review}] * self.batch, ("prediction",))

    def finish(self, _position: int, reply: Reply) -> None:
        """Check that every review has its answer."""
        if reply.outputs["prediction"].shape != (self.batch, 2):
            raise RemoteFailure(f"expected a prediction of shape [{self.batch}, 2]")


class Point(msgspec.Struct, frozen=True):
    """What is measured: a value on an axis, and all that follows from it."""

    axis: str
    value: int
    workers: int = WORKERS
    clients: int = 1
    words: int = WORDS
    batch: int = 1

    def requests(self, params: ScalingParams) -> int:
        """Return how many requests take about the wanted time: at least a few of each client."""
        if self.axis == "workers":
            count = self.workers * params.seconds * 1000 / params.service_time_ms
        else:
            size = 1 + self.batch / REVIEWS_LIKE_A_REQUEST + self.words * self.batch / WORDS_LIKE_A_REQUEST
            count = params.seconds * REQUESTS_A_SECOND / size
        return max(int(count), 5 * self.clients, 10)


def points(params: ScalingParams) -> list[Point]:
    """Return all points, axis by axis."""
    return [
        *(Point("workers", count, workers=count, clients=count) for count in params.workers),
        *(Point("clients", count, clients=count) for count in params.clients),
        *(Point("words", count, words=count) for count in params.words),
        *(Point("batch", count, batch=count) for count in params.batch),
    ]


def measure_scaling(params: ScalingParams, folder: Path, progress: Callable[[str], None] = print) -> list[Row]:
    """Measure all points, append every block to `folder`, and return the rows; raise `DataError` when one fails."""
    simulated = EngineSpec("simulated", service_time_ms=params.service_time_ms)
    groups = [(simulated, [point]) for point in points(params) if point.axis == "workers"]
    groups.append((EngineSpec("none"), [point for point in points(params) if point.axis != "workers"]))
    rows = []
    for spec, group in groups:
        if not group:
            continue
        progress(f"{spec.name}, {group[0].workers} workers: {len(group)} points in {params.rounds} rounds")
        most = max(point.clients for point in group)
        with _systems(spec, group[0].workers, params.timeout) as systems:
            targets = {name: system.connect for name, system in systems.items()}
            with LoadSession(targets, most, params.timeout, processes=MAX_PROCESSES) as session:
                for round_ in range(params.rounds + 1):  # the first warms up
                    for row, records in _round(params, round_, group, systems, session):
                        if round_:
                            name = f"{params.run}-{row['axis']}{row['value']}-{row['mode']}-r{round_}"
                            row["raw"] = store_samples(folder, name, records)
                            append_row(folder / FILE, row)
                            rows.append(row)
    return rows


@contextmanager
def _systems(spec: EngineSpec, workers: int, timeout: float) -> Iterator[dict[str, Target]]:
    with ExitStack() as stack:
        systems = {}
        for mode in OURS:
            server = stack.enter_context(ServerProcess.of_mode(mode, server_arguments(None, spec, workers)))
            systems[mode] = Target(functools.partial(connect, server.endpoint, timeout), (server.pid,))
        yield systems


def _round(
    params: ScalingParams, round_: int, group: Sequence[Point], systems: dict[str, Target], session: LoadSession
) -> Iterator[tuple[Row, list[ClientRecord]]]:
    """Measure every point of a group with every mode once, in an order of this round's own."""
    blocks = [(point, mode) for point in group for mode in systems]
    random.Random(f"{params.seed}/{group[0].value}/{round_}").shuffle(blocks)  # noqa: S311 - an order, not a secret
    for point, mode in blocks:
        shares = _shares(point, point.requests(params))
        figures, records = run_block(session, mode, systems[mode].pids, shares, f"{point.axis} {point.value}")
        row = {
            "run": params.run,
            "round": round_,
            "mode": mode,
            **msgspec.structs.asdict(point),
            "service_time_ms": params.service_time_ms if point.axis == "workers" else 0.0,
            **figures,
        }
        yield row, records


def _shares(point: Point, requests: int) -> list[Share]:
    """Cut the requests into the clients' shares: none dropped, sizes even."""
    counts = np.diff(np.linspace(0, requests, point.clients + 1).astype(int)).tolist()
    return [Share.whole(Alike(count, point.words, point.batch)) for count in counts]
