"""Whether a page still shows the lab: a number that only a page's own link can answer. Knows no lab and no server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import ipywidgets as widgets
from IPython.core.getipython import get_ipython

AWAY_SECONDS = 30.0
"""So long no page has to have answered until it counts as closed: a reload takes less."""

Soon = Callable[[Callable[[], None]], object]
"""Has something called when the kernel comes to it."""


def soon_in_kernel() -> Soon | None:
    """Return what the kernel's loop calls when no cell keeps it; None in a script, whose loops hear no page."""
    if getattr(get_ipython(), "kernel", None) is None:
        return None
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return None


class Pulse:
    """Asks with every beat; the page echoes what was asked, for as long as there is a page: the links are its own.

    What counts is how long a question waits, not how long ago an answer came: none are asked while nothing runs. Nor
    does time count in which the kernel could not have listened, because it was busy with a cell.
    """

    def __init__(self, soon: Soon | None, clock: Callable[[], float] = monotonic) -> None:
        """Build the two hidden widgets to be shown; `clock` returns seconds. Without `soon` all time counts."""
        hidden = widgets.Layout(display="none")
        self.asked, self.echo = widgets.IntText(1, layout=hidden), widgets.IntText(0, layout=hidden)
        self._link = widgets.jsdlink((self.asked, "value"), (self.echo, "value"))
        self.echo.observe(self._answered, "value")
        self._soon, self._clock = soon, clock
        self._seen = False  # never, where there is no page
        self._waits_since: float | None = None
        self._listens = True

    def beat(self) -> bool:
        """Ask once more; return whether a page that was there has not answered for `AWAY_SECONDS`. Any thread may."""
        now = self._clock()
        since = self._waits_since  # an answer may come at any line from here on
        if since is None or not self._listens:
            self._waits_since = since = now
        if self._listens and self._soon is not None:
            self._listens = False
            with suppress(RuntimeError):  # the kernel has ended
                self._soon(self._listened)
        self.asked.value += 1
        return self._seen and now - since > AWAY_SECONDS

    def rest(self) -> None:
        """Forget the question that waits: none was asked for a while, and a page that was reloaded cannot know it."""
        self._waits_since = None

    def forget(self) -> None:
        """Take it that there is no page, until one answers."""
        self._seen, self._waits_since = False, None

    def _answered(self, _change: object) -> None:
        self._seen, self._waits_since = True, None

    def _listened(self) -> None:
        self._listens = True
