"""The lab's testbed: one server, the client processes around it, and short stretches of load."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from imdb_serving.cell import CLOSED
from imdb_serving.clients.base import Client
from imdb_serving.clients.connect import connect
from imdb_serving.errors import BundleError, ConfigError
from imdb_serving.experiment.grid import inputs_of
from imdb_serving.foreign.client import ForeignClient
from imdb_serving.foreign.process import pids_of_port
from imdb_serving.lab.settings import BATCHES, Settings
from imdb_serving.load.client_processes import LoadSession, end_processes, prepare_processes
from imdb_serving.load.closed_loop import ClientRecord, Share, Workload
from imdb_serving.load.open_loop import arrival_times
from imdb_serving.measurement.bodies import Bodies
from imdb_serving.measurement.cpu_meter import CpuMeter, Usage
from imdb_serving.measurement.deployment import MEASURING, start_round
from imdb_serving.measurement.foreign import check_first, reach
from imdb_serving.measurement.ledger import Ledger, exclusive, new_run, outputs_folder
from imdb_serving.measurement.measure import Round
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.model import find_server_dir
from imdb_serving.server_process import ServerProcess

CLOSED_SECONDS, OPEN_SECONDS = 0.25, 1.0
"""How long a stretch lasts. In an open loop requests pile up and melt away; that takes longer than a quarter second."""

TIMEOUT = 5.0

Workloads = Mapping[int, Workload]
LOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of load: its settings, the clients' records, and the CPU usage."""

    settings: Settings
    records: list[ClientRecord]
    usage: Usage

    @property
    def failures(self) -> int:
        """How many requests got no answer."""
        return sum(len(record.failures) for record in self.records)


class Running(NamedTuple):
    """A server that answers: where, how clients connect to it, and its processes, if they are known.

    `ended` returns why it has ended, empty while it has not. The processes of a server that `changes` may come and go.
    """

    endpoint: str
    connect: Callable[[], Client]
    pids: tuple[int, ...]
    ended: Callable[[], str]
    changes: bool = False


class Testbed:
    """A running server and its clients, up to `most_clients` of them; made by `open_testbed`."""

    def __init__(
        self, settings: Settings, server: Running, session: LoadSession, workloads: Workloads, most_clients: int
    ) -> None:
        """Take a running server, its clients, and what is sent as a workload for each batch size."""
        self.settings = settings
        self.most_clients = most_clients
        self._workloads = workloads
        self.server = server
        self._session = session
        self._meter = CpuMeter(server.pids, session.pids, fixed=not server.changes)
        self._sent = 0
        self._rng = np.random.default_rng()

    def load(self, settings: Settings) -> Stretch:
        """Run one stretch of load under these settings, whose server must be this one."""
        self._meter.read()
        workload = self._workloads[settings.batch]
        if settings.arrivals == CLOSED:
            apart = len(workload) // settings.clients
            shares = [
                Share(workload, sys.maxsize, self._sent + number * apart, seconds=CLOSED_SECONDS)
                for number in range(settings.clients)
            ]
            records = self._session.run("", shares)
        else:
            records = self._open(settings, workload)
        self._sent += max((len(record.positions) for record in records), default=0)
        return Stretch(settings, records, self._meter.read(Usage(is_known=bool(self.server.pids))))

    def _open(self, settings: Settings, workload: Workload) -> list[ClientRecord]:
        count = max(1, int(self._rng.poisson(settings.rate * OPEN_SECONDS)))
        due = arrival_times(settings.arrivals, count / OPEN_SECONDS, count, int(self._rng.integers(1 << 31)))
        with tempfile.TemporaryDirectory(prefix="imdb-serving-") as place:
            share = Share(
                workload,
                count,
                self._sent,
                due_ns=due,
                tickets=Path(place) / "tickets",
                clients=self.most_clients,
                patience_ns=int(OPEN_SECONDS * 1e9),  # so that too high a rate cannot hold the controls for long
            )
            return self._session.run("", [share] * self.most_clients)


@contextmanager
def open_testbed(settings: Settings, most_clients: int) -> Iterator[tuple[Testbed, Round]]:
    """Start server and clients for the `with` block; give what its measurements share as well.

    Raises a `ServingError` that says what is in the way, and what to do about it.
    """
    params = msgspec.structs.replace(settings.params, run=new_run())
    _require_model(settings)
    ledger = Ledger(outputs_folder(params))
    with ExitStack() as stack:
        stack.enter_context(exclusive(ledger.folder, MEASURING, LOCK_SECONDS, "another lab or measurement"))
        stack.callback(end_processes)
        prepare_processes()
        context = start_round(params, ledger)
        if settings.is_foreign:
            server = _someones(params, ledger.folder, stack)
            inputs = inputs_of(params, ledger.folder)
        else:
            with ThreadPoolExecutor(1) as reader:
                reading = reader.submit(inputs_of, params, ledger.folder)
                server = _ours(stack.enter_context(params.server.process(port=settings.port)))
                inputs = reading.result()
        context = replace(context, **inputs._asdict())
        workloads = _workloads(settings, context, ledger.folder)
        session = LoadSession({"": server.connect}, most_clients, TIMEOUT, workloads=tuple(workloads.values()))
        stack.enter_context(session)
        yield Testbed(settings, server, session, workloads, most_clients), context


def _ours(server: ServerProcess) -> Running:
    def ended() -> str:
        return "" if server.running else server.errors() or "it said nothing"

    return Running(server.endpoint, functools.partial(connect, server.endpoint, TIMEOUT), (server.pid,), ended)


def _someones(params: GridParams, folder: Path, stack: ExitStack) -> Running:
    """Start a server of someone else, or find the one that runs; raise a `ServingError` when it is of no use."""
    found = reach(params, folder, stack)
    check_first(found, params.batch)
    server = found.server

    def ended() -> str:
        return "" if server is None or server.running else server.said().removeprefix("; ")

    pids = (server.pid,) if server else pids_of_port(found.call.url)
    return Running(found.call.url, functools.partial(ForeignClient, found.call, TIMEOUT), pids, ended, changes=True)


def _workloads(settings: Settings, context: Round, folder: Path) -> Workloads:
    """Return what is sent, for each batch size that there can be."""
    if not settings.is_foreign:
        return {batch: context.workload(context.lines, batch) for batch in BATCHES}
    found: dict[int, Workload] = {}
    for batch in BATCHES:
        with suppress(ConfigError):  # a body without `samples` has room for one
            params = msgspec.structs.replace(settings, batch=batch).params
            found[batch] = Bodies.of(params, folder).workload(context.lines, batch)
    return found


def _require_model(settings: Settings) -> None:
    folder = settings.params.server.model
    if folder and not find_server_dir(folder).is_dir():
        raise BundleError(
            f"no model at {folder}; train it, which takes some minutes: "
            f"imdb-serving train --net {settings.net} --out {folder}"
        )
