"""What runs behind the lab's page: a controller, live statistics and held settings. Knows no widget."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from imdb_serving.cell import FOREIGN, Cell, Row
from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import ConfigError, RequestTimeout, ServerUnavailable
from imdb_serving.lab.controller import Controller, State
from imdb_serving.lab.live import Dot, HeldSettings, LiveStatistics
from imdb_serving.lab.settings import Settings
from imdb_serving.lab.testbed import TIMEOUT, Stretch
from imdb_serving.lab.word_attribution import Explained, explain
from imdb_serving.measurement.ledger import Ledger, outputs_folder
from imdb_serving.measurement.measure import Round
from imdb_serving.measurement.models import opened
from imdb_serving.measurement.parameters import from_notebook, model_folder

if TYPE_CHECKING:
    import pandas as pd

MOST_CLIENTS = 16

Listener = Callable[[str], None]

_LABS: weakref.WeakSet[LabSession] = weakref.WeakSet()
"""Those of this process that were started."""


os.register_at_fork(after_in_child=_LABS.clear)  # a forked process must not end its parent's


@atexit.register
def _stop_all() -> None:
    """End everything in order before the interpreter exits."""
    for lab in list(_LABS):
        lab.stop()


class LabSession:
    """A server under load, controlled by widgets or by calls.

    Takes the first `Settings` by name, and `most_clients`, the number of client processes that are started. Nothing
    runs before `start` or `show`. Nothing is left running after `stop`, or when the kernel or the page ends.
    """

    def __init__(self, *, most_clients: int = MOST_CLIENTS, **settings: Any) -> None:
        """Check the settings; raise `ConfigError`, with the nearest name, for one that cannot be."""
        self.most_clients = most_clients
        self.live = LiveStatistics()
        self._held = HeldSettings()
        self._lock = threading.Condition()
        self._listeners: list[Listener] = []
        self._controller = Controller(self._checked(Settings(), settings), most_clients, self._said, self._saw)

    @property
    def settings(self) -> Settings:
        """The settings that the controls show."""
        return self._controller.settings

    @property
    def state(self) -> State:
        """The controller's state."""
        return self._controller.state

    @property
    def message(self) -> str:
        """The state in words: the server's address, or what is wrong."""
        return self._controller.message

    @property
    def endpoint(self) -> str:
        """Where the server answers; empty while none does."""
        return self._controller.endpoint

    def start(self) -> None:
        """Start the server and the load; returns at once. Another lab of this kernel is stopped: one at a time."""
        for other in [lab for lab in _LABS if lab is not self]:
            other.stop()
        _LABS.add(self)
        self._controller.start()

    def stop(self) -> None:
        """End load, clients and server, and wait until they are gone."""
        self._controller.stop(wait=True)

    def leave(self, why: str) -> None:
        """Stop server and clients without waiting, and show the reason."""
        self._controller.stop(why=why)

    def set(self, **changes: Any) -> None:
        """Change settings, as the controls do: `lab.set(clients=8)`; raise `ConfigError` for what cannot be."""
        self._controller.want(self._checked(self.settings, changes))

    def _checked(self, settings: Settings, changes: dict[str, Any]) -> Settings:
        if changes.get("mode", settings.mode) == FOREIGN != settings.mode:
            changes = {"engine": ""} | changes  # what it runs is its own, unless one says so
        wanted = from_notebook(Settings, "lab", **(msgspec.structs.asdict(settings) | changes))
        wanted.params  # noqa: B018 - checks all of it
        if wanted.clients > self.most_clients:
            raise ConfigError(
                f"clients: at most {self.most_clients}, got {wanted.clients}; Lab(most_clients=...) has more"
            )
        return wanted

    def hold(self, timeout: float = 60.0) -> Row:
        """Wait until the present setting has been held long enough, and return its row; start the server if none runs.

        Raises `RequestTimeout` when that takes longer than `timeout` seconds, `ServerUnavailable` with the reason when
        the lab fails or is stopped meanwhile.
        """
        cell, deadline = self.settings.cell, monotonic() + timeout
        before = self._landed(cell)
        self.start()
        with self._lock:
            while (after := self._landed(cell)) == before:
                if self.state in {State.FAILED, State.STOPPED}:
                    raise ServerUnavailable(self.message or "the lab was stopped")
                if monotonic() > deadline:
                    raise RequestTimeout(f"{cell.label()} has no dot after {timeout:g} s; hold it for longer")
                self._lock.wait(0.5)
        return after[-1]

    def _landed(self, cell: Cell) -> list[Row]:
        with self._lock:
            return [row for row in self._held.judged if row.cell == cell]

    def rows(self) -> pd.DataFrame:
        """Return what was measured as a table, a row for each time a setting was held for some seconds."""
        with self._lock:
            return self._held.rows()

    def dots(self) -> list[Dot]:
        """Return a dot for each setting that was held long enough."""
        with self._lock:
            return self._held.dots()

    def save(self) -> str:
        """Append what was measured since the last time, raw samples included, to `outputs/lab/ledger.jsonl`."""
        ledger = Ledger(self._folder)
        with self._lock:
            count = self._held.save(ledger)
        return f"{count} rows appended to {ledger.path}"

    @property
    def _folder(self) -> Path:
        return outputs_folder(self.settings.params)

    def explain(self, review: str) -> Explained:
        """Ask the running server for a review's class, and what each word does to it; raises a `ServingError`."""
        settings, endpoint = self.settings, self.endpoint
        if not endpoint:
            raise ServerUnavailable("no server runs; press Start")
        if settings.is_foreign:
            raise ConfigError(
                "a server of someone else is asked in its own words; `imdb-serving probe` shows an answer"
            )
        if not facts_of(settings.engine).needs_model:
            raise ConfigError(f"engine {settings.engine} reads no text; choose another")
        tokenizer = opened(model_folder(settings.params)).tokenizer
        if tokenizer is None:
            raise ConfigError("this model reads whole texts; there are no words of them to leave out")
        with connect(endpoint, TIMEOUT) as client:
            return explain(client, tokenizer, review)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with `state`, `stretch` or `dot` at every change, in the controller's thread."""
        self._listeners.append(listener)

    def _tell(self, what: str) -> None:
        for listener in self._listeners:
            listener(what)

    def _said(self, state: State, _message: str) -> None:
        if state is State.STARTING:
            self.live.clear()
            with self._lock:
                self._held.leave()
        self._tell("state")
        with self._lock:
            self._lock.notify_all()

    def _saw(self, stretch: Stretch, context: Round) -> None:
        self.live.add(stretch)
        with self._lock:
            row = self._held.add(stretch, context)
            if self._held.full:
                self._held.save(Ledger(self._folder))
            self._lock.notify_all()
        self._tell("stretch")
        if row is not None:
            self._tell("dot")
