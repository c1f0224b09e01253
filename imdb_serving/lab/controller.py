"""The lab's controller: a thread that starts, loads, restarts and stops the server as asked. Knows no widget.

Callers only set what they want. Whatever goes wrong becomes a message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum

from imdb_serving.errors import ServerStartError, ServingError
from imdb_serving.lab.settings import Settings
from imdb_serving.lab.testbed import Stretch, Testbed, open_testbed
from imdb_serving.measurement.measure import Round

END_SECONDS = 60.0


class State(Enum):
    """What the controller is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


Said = Callable[[State, str], None]
Seen = Callable[[Stretch, Round], None]


class Controller:
    """Runs one testbed at a time. Its thread calls `said` at each change of state and `seen` after each stretch."""

    def __init__(self, settings: Settings, most_clients: int, said: Said, seen: Seen) -> None:
        """Take the first settings; nothing runs until `start`."""
        self._wanted = settings
        self._most_clients = most_clients
        self._said, self._seen = said, seen
        self._run, self._why = False, ""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.state = State.STOPPED
        self.message = ""
        self.endpoint = ""

    @property
    def settings(self) -> Settings:
        """The wanted settings."""
        return self._wanted

    def want(self, settings: Settings) -> None:
        """Set the wanted settings. They take effect with the next stretch, or with a new server."""
        with self._changed:
            self._wanted = settings
            self._changed.notify_all()

    def start(self) -> None:
        """Start the server and the load, in the controller's thread."""
        with self._changed:
            self._run = True
            if self._thread is None or not self._thread.is_alive():
                self._say(State.STARTING, self._wanted.server_words)  # at once: what failed before is over
                self._thread = threading.Thread(target=self._work, name="lab-controller", daemon=True)
                self._thread.start()

    def stop(self, wait: bool = False, why: str = "") -> None:
        """Stop server and clients; with `wait`, return when they have ended."""
        with self._changed:
            self._run, self._why = False, why
            thread = self._thread
            self._changed.notify_all()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(END_SECONDS)

    def _say(self, state: State, message: str = "") -> None:
        self.state, self.message = state, message
        self._said(state, message)

    def _work(self) -> None:
        while self._goes_on():
            settings = self._wanted
            self._say(State.STARTING, settings.server_words)
            try:
                with open_testbed(settings, self._most_clients) as (testbed, context):
                    self.endpoint = testbed.server.endpoint
                    self._say(State.RUNNING, self.endpoint)
                    self._load(testbed, context)
                    self.endpoint = ""
                    if not self._run:
                        self._say(State.STOPPING)
            except (ServingError, OSError) as error:
                self.endpoint = ""
                self._fail(error)
                return

    def _goes_on(self) -> bool:
        """Return whether the thread should go on. If not it ends, and the next `start` makes another."""
        with self._changed:
            if not self._run:
                self._thread = None
                self._say(State.STOPPED, self._why)
            return self._run

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._run, self._thread = False, None
            self._say(State.FAILED, str(error))

    def _load(self, testbed: Testbed, context: Round) -> None:
        """Load the server until it should stop, or another server is wanted."""
        while self._run and (wanted := self._wanted).server == testbed.settings.server:
            stretch = testbed.load(wanted)
            if why := testbed.server.ended():
                raise ServerStartError(f"the server has ended: {why}; press Start")
            self._seen(stretch, context)
