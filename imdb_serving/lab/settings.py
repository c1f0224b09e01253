"""The lab's settings: one position of all controls, and the grid run that they stand for. Starts nothing."""

from __future__ import annotations

import msgspec

from imdb_serving.cell import CLOSED, FOREIGN, LAB, Cell, plural
from imdb_serving.config import engine_name
from imdb_serving.errors import ConfigError
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.parameters.checks import check_rates
from imdb_serving.measurement.parameters.foreign import ForeignFields

BATCHES = (1, 2, 4, 8, 16, 32)
LINES = 512
"""How many different reviews are sent, over and over: whole batches of every size."""

ENGINE = "onnxruntime"
"""Of our servers where none is named."""

FOLDER = "lab"
"""Below the outputs folder."""


class Settings(ForeignFields, frozen=True, kw_only=True):
    """One position of all controls. `clients`, `batch`, `arrivals` and `rate` change under load; the rest is a server.

    `rate` is in requests a second and counts where `arrivals` is not `closed`. `port` 0 is any that is free; `outputs`
    is the folder in which `lab` is made, empty for the project's. Mode `http` is a server of someone else, of which
    `server_url`, `request_body` and the like say what it is; without an `engine`, what it runs is its own.
    """

    mode: str = "rpc"
    engine: str = ""
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
        engine = self.engine if self.engine or self.is_foreign else ENGINE
        msgspec.structs.force_setattr(self, "engine", engine_name(engine))

    @property
    def is_foreign(self) -> bool:
        """Whether the server is one of someone else."""
        return self.mode == FOREIGN

    @property
    def server(self) -> tuple[object, ...]:
        """The settings that need a new server when they change."""
        own = self.mode, self.engine, self.net, self.model, self.server_threads, self.port
        return (*own, self.description) if self.is_foreign else own

    @property
    def server_words(self) -> str:
        what = self.server_label if self.is_foreign else f"engine {self.engine}"
        return f"{self.mode}, {what}, {plural(self.server_threads, 'server thread')}"

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
            **(self.description if self.is_foreign else {}),
        )

    @property
    def cell(self) -> Cell:
        """The cell of these settings; raises `ConfigError` for impossible ones."""
        return self.params.cells()[0]
