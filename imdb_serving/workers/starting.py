"""What a server does before it can answer, while it says already that it is starting. Knows no transport."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from imdb_serving.errors import Starting

KEEP_SECONDS = 0.05
END_SECONDS = 5.0


class Starter:
    """Does something in a thread of its own; until it is done, `refusal` is what is answered."""

    def __init__(self, do: Callable[[], None]) -> None:
        """Take what is to be done; it may raise. Nothing is begun before `run`."""
        self._do = do
        self._begun = monotonic()
        self._errors: list[BaseException] = []
        self._is_done = False
        self._thread = threading.Thread(target=self._run, name="start", daemon=True)

    def _run(self) -> None:
        try:
            self._do()
        except BaseException as error:
            self._errors.append(error)

    def refusal(self) -> Starting | None:
        """Return what requests are answered while the server starts; None once it can answer them.

        The time until then is an estimate: as long again as it has taken.
        """
        return None if self._is_done else Starting(max(1.0, monotonic() - self._begun))

    def run(self, keep: Callable[[float], object], is_stopping: Callable[[], bool]) -> bool:
        """Do it, calling `keep` with some seconds over and over meanwhile; return False when it was stopped before.

        Raises what was raised.
        """
        self._thread.start()
        while self._thread.is_alive() and not is_stopping():
            keep(KEEP_SECONDS)
        if is_stopping():
            return False
        for error in self._errors:
            raise error
        self._is_done = True
        return True

    def join(self) -> None:
        """Wait some seconds for what was stopped."""
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)
