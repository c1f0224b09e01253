"""The lab's widgets: controls above, four live panels below, and a heartbeat that tells whether a page shows them.

Widget callbacks and the controller run on other threads than cells, so nothing here touches `pyplot`, and every value
is set whole.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython

from imdb_serving.cell import CLOSED, FOREIGN, POISSON
from imdb_serving.engines.registry import ENGINES
from imdb_serving.errors import ServingError
from imdb_serving.lab import panels
from imdb_serving.lab.controller import State
from imdb_serving.lab.session import LabSession
from imdb_serving.lab.settings import BATCHES
from imdb_serving.lab.trace import trace_svg

AWAY_SECONDS = 30.0
"""So long no page has to have answered until it counts as closed: a reload takes less."""

Soon = Callable[[Callable[[], None]], object]
"""Has something called when the kernel comes to it."""


def soon_in_kernel() -> Soon | None:
    """Return a function that calls back from the kernel's event loop; None in a script, which has no page."""
    if getattr(get_ipython(), "kernel", None) is None:
        return None
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        return None


class Heartbeat:
    """Tells whether a page still shows the widgets: it sends numbers, which the page's own link echoes.

    A page is gone when a number has waited too long for its echo. Time in which nothing was sent does not count, nor
    time in which the kernel could not listen because it was running a cell.
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
        """Send the next number. Return whether a page that was there has been silent too long. Thread-safe."""
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
        """Drop the number that waits for its echo: none was sent for a while, and a reloaded page cannot know it."""
        self._waits_since = None

    def forget(self) -> None:
        """Assume that there is no page until one answers."""
        self._seen, self._waits_since = False, None

    def _answered(self, _change: object) -> None:
        self._seen, self._waits_since = True, None

    def _listened(self) -> None:
        self._listens = True


OF_REQUEST = ("server_url", "request_path", "request_body", "answer")
"""What is said of a server of someone else by hand; the rest, as headers or a command, when the lab is made."""

SET_BY_HAND = ("mode", "engine", "net", "server_threads", "clients", "batch", "arrivals", "rate", *OF_REQUEST)
MODES = ("rpc", "socket", "flask", FOREIGN)
NETS = ("bow", "cnn", "lstm", "gru")
THREADS = (1, 2, 3, 4, 6, 8, 12, 16)
REVIEW = "A wonderful film: the acting is superb, and the ending made me cry. Not boring at all!"


class Controls:
    """What `Lab.show` shows; `box` is the widget."""

    def __init__(self, lab: LabSession) -> None:
        """Build the widgets and follow the lab."""
        self._lab = lab
        self._refusal = ""
        self._settings_widgets()
        self._buttons()
        self._panels()
        self._heartbeat = Heartbeat(soon_in_kernel())
        self.box = self._laid_out()
        lab.listen(self._news)
        self._draw_state()

    def _settings_widgets(self) -> None:
        now = self._lab.settings
        loads = [("closed loop", CLOSED), ("open loop", POISSON)]
        threads = sorted({*THREADS, now.server_threads})
        self.mode = _one_of(MODES, now.mode, "mode", 130)
        self.engine = _one_of([*((name, name) for name in ENGINES), ("its own", "")], now.engine, "engine", 180)
        self.net = _one_of(NETS, now.net, "net", 110)
        self.server_threads = _one_of(threads, now.server_threads, "server threads", 155)
        most = self._lab.most_clients
        self.clients = widgets.BoundedIntText(now.clients, min=1, max=most, **_look("clients", 110))
        # The slider's handle has no name that a screen reader could tell; the number beside it has.
        self.slider = widgets.IntSlider(now.clients, 1, most, readout=False, layout=widgets.Layout(width="190px"))
        self._sliding = widgets.jslink((self.clients, "value"), (self.slider, "value"))
        self.batch = _one_of(BATCHES, now.batch, "batch", 95)
        self.arrivals = _one_of(loads, now.arrivals, "load", 150)
        self.rate = widgets.BoundedFloatText(now.rate, min=1, max=100_000, step=50, **_look("at requests/s", 180))
        self.rate.disabled = now.arrivals == CLOSED
        self.server_url = _text(now.server_url, "URL", "http://127.0.0.1:8000", "1 1 190px")
        self.request_path = _text(now.request_path, "path", "/predict", "0 1 150px")
        self.request_body = _text(now.request_body, "body", '{"text": {{ text | tojson }}}', "3 1 260px")
        self.answer = _text(now.answer, "answer", "scores[1]", "0 1 170px")
        for name in SET_BY_HAND:
            getattr(self, name).observe(self._set, "value")

    def _set(self, _change: Any) -> None:
        """Apply the controls that were changed, or show why they are refused."""
        self.rate.disabled = self.arrivals.value == CLOSED
        self._show_request()
        wanted = {name: getattr(self, name).value for name in SET_BY_HAND}
        try:
            self._lab.set(**{name: one for name, one in wanted.items() if one != getattr(self._lab.settings, name)})
            self._refusal = ""
            self.engine.value = self._lab.settings.engine  # a server of someone else runs its own
        except ServingError as error:
            self._refusal = str(error)
        self._draw_state()
        self._draw_trace()

    def _show_request(self) -> None:
        self.request.layout.display = "flex" if self.mode.value == FOREIGN else "none"
        self.net.disabled = self.mode.value == FOREIGN

    def _buttons(self) -> None:
        self.start = widgets.Button(description="Start", button_style="primary", layout=widgets.Layout(width="80px"))
        self.stop = widgets.Button(description="Stop", layout=widgets.Layout(width="80px"))
        self.start.on_click(lambda _button: self._lab.start())
        self.stop.on_click(lambda _button: self._lab.stop())
        self.message = widgets.HTML()
        self.review = widgets.Text(
            REVIEW, placeholder="type a review, press Enter", continuous_update=False, **_look("review", 0)
        )
        self.review.layout = widgets.Layout(width="auto", flex="1 1 auto")
        self.ask = widgets.Button(tooltip="Ask the server for this review's class", **_look("Ask", 60))
        self.ask.on_click(lambda _button: self._explain())
        self.review.observe(lambda _change: self._explain(), "value")

    def _panels(self) -> None:
        self.live = widgets.HTML(panels.live(None, []))
        self.stages = widgets.HTML(panels.stages(None))
        self.trace = widgets.HTML()
        self.explained = widgets.HTML()
        self._draw_trace()

    def _laid_out(self) -> widgets.VBox:
        first = widgets.HBox([self.mode, self.engine, self.net, self.server_threads, self.start, self.stop])
        second = widgets.HBox([self.clients, self.slider, self.batch, self.arrivals, self.rate, self.message])
        self.request = widgets.HBox([self.server_url, self.request_path, self.request_body, self.answer])
        for row in (first, self.request, second):
            row.layout.flex_flow = "row wrap"
        self._show_request()
        asking = widgets.HBox([self.review, self.ask])
        grid = widgets.GridBox(
            [self.live, self.trace, self.stages, widgets.VBox([asking, self.explained])],
            layout=widgets.Layout(grid_template_columns="minmax(0, 1fr) minmax(0, 1.1fr)", grid_gap="4px 20px"),
        )
        return widgets.VBox(
            [widgets.HTML(panels.STYLE), first, self.request, second, grid, self._heartbeat.asked, self._heartbeat.echo]
        )

    def _news(self, what: str) -> None:
        if what == "state":
            if self._lab.state is State.STARTING:
                self._heartbeat.rest()
                self.explained.value = ""  # that was another server's
            self._draw_state()
        elif what == "dot":
            self._draw_trace()
        else:
            self._draw_live()
            if self._heartbeat.beat():
                self._heartbeat.forget()
                self._lab.leave("the page was closed, so the server was stopped; press Start")

    def _draw_live(self) -> None:
        now = self._lab.live.now()
        self.live.value = panels.live(now, self._lab.live.history())
        self.stages.value = panels.stages(now)

    def _draw_trace(self) -> None:
        self.trace.value = panels.panel(
            "Time against threads: where you have been"
            if self._lab.settings.arrivals == CLOSED
            else "Latency at the offered rate",
            trace_svg(self._lab.dots(), self._lab.settings.cell),
        )

    def _draw_state(self) -> None:
        state, words = self._lab.state, self._lab.message
        told = {
            State.STOPPED: f"stopped: nothing runs. {words}".strip(),
            State.STARTING: f"starting: {words}; a second or two",
            State.RUNNING: f"ready: the server answers at {words}",
            State.STOPPING: "stopping",
            State.FAILED: words,
        }[state]
        refused = f"{self._refusal}. Still " if self._refusal else ""
        self.message.value = panels.message(refused + told, alert=bool(refused) or state is State.FAILED)
        if state is State.RUNNING and not self.explained.value:
            threading.Thread(target=self._explain, daemon=True).start()  # it waits for the server; the load must not
        self.start.disabled = state in {State.STARTING, State.RUNNING}
        self.stop.disabled = state in {State.STOPPED, State.FAILED}
        if state in {State.STOPPED, State.FAILED}:
            self.live.value, self.stages.value = panels.live(None, []), panels.stages(None)

    def _explain(self) -> None:
        try:
            self.explained.value = panels.explained(self._lab.explain(self.review.value))
        except (ServingError, OSError) as error:
            self.explained.value = panels.message(str(error), alert=not self._lab.settings.is_foreign)


def _look(label: str, width: int) -> dict[str, Any]:
    """Return a control's label and width in pixels."""
    plain = {} if label == "Ask" else {"style": {"description_width": "initial"}}
    return {"description": label, "layout": widgets.Layout(width=f"{width}px"), **plain}


def _text(value: str, label: str, example: str, flex: str) -> widgets.Text:
    look = _look(label, 0) | {"layout": widgets.Layout(width="auto", flex=flex)}
    return widgets.Text(value, placeholder=example, continuous_update=False, **look)


def _one_of(options: Any, value: Any, label: str, width: int) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, **_look(label, width))
