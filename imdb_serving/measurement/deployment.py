"""What is started for a cell on this machine: a server and its clients. `cluster/deployment.py` does so on several."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from imdb_serving.cell import ECHO_MODES, FOREIGN, LOCAL_MODES, digest
from imdb_serving.clients.connect import connect
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.measurement import foreign
from imdb_serving.measurement.environment import identity, keep_card, keep_texts
from imdb_serving.measurement.ledger import Ledger, exclusive, outputs_folder
from imdb_serving.measurement.local_clients import BareClient, InprocClient
from imdb_serving.measurement.machine import usable_cores
from imdb_serving.measurement.measure import Round, Session, Target
from imdb_serving.measurement.models import bundle_there, model_id
from imdb_serving.measurement.parameters import GridParams, model_folder
from imdb_serving.measurement.texts import texts_in_words
from imdb_serving.server_process import ServerSpec

MEASURING = "measuring"
WAIT_SECONDS = 900.0
"""For another measurement in the same folder: two at once would measure each other."""


class Deployment(Protocol):
    """Where grid runs are measured: this machine, or nodes of a cluster."""

    def locked_folder(self, folder: Path) -> AbstractContextManager[None]:
        """Lock a sweep's folder for the block, so that no two runs measure at once; a cluster does not."""

    def start_round(self, params: GridParams, ledger: Ledger) -> Round:
        """Return what the cells of a run share: cards, and the identity of machine, code and model."""

    def reserved(self, params: GridParams) -> AbstractContextManager[None]:
        """Reserve the machines that a run needs for the block; raise `HostLost` when too few are left."""

    @property
    def client_cores(self) -> float:
        """The number of cores that clients can use."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The machines that have servers and clients now; empty on this machine."""

    def at_once(self, runs: Sequence[GridParams]) -> int:
        """Return how many of these runs can be measured at once."""

    def start_server(self, params: GridParams, stack: ExitStack) -> Target:
        """Start the server; raise `ServingError` or `OSError` when it does not start."""

    def start_clients(self, params: GridParams, target: Target, stack: ExitStack) -> Session:
        """Start as many clients as the greatest client count; raises the same."""


class LocalDeployment:
    """This machine."""

    nodes: tuple[str, ...] = ()

    @property
    def client_cores(self) -> float:
        return usable_cores()

    @contextmanager
    def locked_folder(self, folder: Path) -> Iterator[None]:
        with exclusive(folder, MEASURING, WAIT_SECONDS, "another measurement"):
            yield

    def start_round(self, params: GridParams, ledger: Ledger) -> Round:
        card = keep_card(ledger.folder, bundle_there(model_folder(params)))
        who = identity([card["id"]], model_id(params.server.model), params.seed, params.text_file)
        keep_texts(ledger.folder, texts_in_words(params))
        if params.mode == FOREIGN:
            who = digest(who, params.fingerprint)
        return Round(params.run, params.round, params.seed, card["id"], who, lines=())

    def reserved(self, _params: GridParams) -> AbstractContextManager[None]:
        """Do nothing: we are here."""
        return nullcontext()

    def at_once(self, _runs: Sequence[GridParams]) -> int:
        """Return 1: two would measure each other."""
        return 1

    def start_server(self, params: GridParams, stack: ExitStack) -> Target:
        if params.mode in LOCAL_MODES:
            return Target(local_client(params.server))
        if params.mode == FOREIGN:
            return foreign.start(params, outputs_folder(params), stack)
        if params.mode in ECHO_MODES:
            return foreign.start_echo(params, outputs_folder(params), stack)
        server = stack.enter_context(params.server.process())
        return Target(functools.partial(connect, server.endpoint, params.timeout, params.http_client), (server.pid,))

    def start_clients(self, params: GridParams, target: Target, stack: ExitStack) -> Session:
        return stack.enter_context(LoadSession({"": target.connect}, max(params.client_threads), params.timeout))


THIS_MACHINE = LocalDeployment()
start_round = THIS_MACHINE.start_round


def local_client(spec: ServerSpec) -> functools.partial[BareClient | InprocClient]:
    """Return how a client without a server is made."""
    return functools.partial(BareClient if spec.mode == "bare" else InprocClient, spec.engine, spec.model)
