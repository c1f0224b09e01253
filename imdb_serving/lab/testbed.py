"""The lab's testbed: its settings, one server, the client processes around it, and short stretches of load."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from imdb_serving.cell import CLOSED, LAB, Cell, plural
from imdb_serving.clients.connect import connect
from imdb_serving.config import engine_name
from imdb_serving.errors import BundleError, ConfigError
from imdb_serving.experiment.grid import inputs_of
from imdb_serving.load.client_processes import LoadSession, end_processes, prepare_processes
from imdb_serving.load.closed_loop import ClientRecord, Share
from imdb_serving.load.open_loop import arrival_times
from imdb_serving.load.workload import ReviewWorkload
from imdb_serving.measurement.cpu_meter import CpuMeter, Usage
from imdb_serving.measurement.deployment import MEASURING, start_round
from imdb_serving.measurement.ledger import Ledger, exclusive, new_run, outputs_folder
from imdb_serving.measurement.measure import Round
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.parameters.checks import check_rates
from imdb_serving.model.bundle import find_server_dir
from imdb_serving.server_process import ServerProcess

BATCHES = (1, 2, 4, 8, 16, 32)
LINES = 512
"""How many different reviews are sent, over and over: whole batches of every size."""

FOLDER = "lab"
"""Below the outputs folder."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One position of all controls. `clients`, `batch`, `arrivals` and `rate` change under load; the rest is a server.

    `rate` is in requests a second and counts where `arrivals` is not `closed`. `port` 0 is any that is free; `outputs`
    is the folder in which `lab` is made, empty for the project's.
    """

    mode: str = "rpc"
    engine: str = "onnxruntime"
    net: str = "cnn"
    model: str = ""
    server_threads: int = 2
    clients: int = 2
    batch: int = 1
    arrivals: str = CLOSED
    rate: float = 500.0
    port: int = 0
    outputs: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "engine", engine_name(self.engine))

    @property
    def server(self) -> tuple[object, ...]:
        """The settings that need a new server when they change."""
        return self.mode, self.engine, self.net, self.model, self.server_threads, self.port

    @property
    def server_words(self) -> str:
        return f"{self.mode}, engine {self.engine}, {plural(self.server_threads, 'server thread')}"

    @property
    def params(self) -> GridParams:
        """The same as the parameters of a grid run; raises `ConfigError` for what cannot be."""
        if self.batch not in BATCHES:
            raise ConfigError(f"batch: expected one of {', '.join(map(str, BATCHES))}, got {self.batch}")
        if self.clients < 1:
            raise ConfigError(f"clients: must be at least 1, got {self.clients}")
        rates = [] if self.arrivals == CLOSED else [self.rate]
        check_rates(self.arrivals, rates)
        return GridParams(
            series=LAB,
            mode=self.mode,
            engine=self.engine,
            net=self.net,
            model=self.model,
            server_threads=self.server_threads,
            client_threads=[self.clients],
            batch=self.batch,
            arrivals=self.arrivals,
            rates=rates,
            samples=LINES,
            sweep=FOLDER,
            outputs=self.outputs,
        )

    @property
    def cell(self) -> Cell:
        """The cell of these settings; raises `ConfigError` for impossible ones."""
        return self.params.cells()[0]


CLOSED_SECONDS, OPEN_SECONDS = 0.25, 1.0
"""How long a stretch lasts. In an open loop requests pile up and melt away; that takes longer than a quarter second."""

TIMEOUT = 5.0

Workloads = Mapping[int, ReviewWorkload]
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


class Testbed:
    """A running server and its clients, up to `most_clients` of them; made by `open_testbed`."""

    def __init__(
        self, settings: Settings, server: ServerProcess, session: LoadSession, workloads: Workloads, most_clients: int
    ) -> None:
        """Take a running server, its clients, and the reviews as a workload for each batch size."""
        self.settings = settings
        self.most_clients = most_clients
        self._workloads = workloads
        self.server = server
        self._session = session
        self._meter = CpuMeter([server.pid], session.pids, fixed=True)
        self._sent = 0
        self._rng = np.random.default_rng()

    @property
    def endpoint(self) -> str:
        """Where the server answers."""
        return self.server.endpoint

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
        return Stretch(settings, records, self._meter.read())

    def _open(self, settings: Settings, workload: ReviewWorkload) -> list[ClientRecord]:
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
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(inputs_of, params, ledger.folder)
            server = stack.enter_context(params.server.process(port=settings.port))
            inputs = reading.result()
        targets = {"": functools.partial(connect, server.endpoint, TIMEOUT)}
        workloads = {batch: ReviewWorkload(inputs.lines, "ids", None, batch=batch) for batch in BATCHES}
        session = LoadSession(targets, most_clients, TIMEOUT, workloads=tuple(workloads.values()))
        stack.enter_context(session)
        yield (
            Testbed(settings, server, session, workloads, most_clients),
            replace(context, lines=inputs.lines, reference=inputs.reference),
        )


def _require_model(settings: Settings) -> None:
    folder = settings.params.server.model
    if folder and not find_server_dir(folder).is_dir():
        raise BundleError(
            f"no model at {folder}; train it, which takes some minutes: "
            f"imdb-serving train --net {settings.net} --out {folder}"
        )
