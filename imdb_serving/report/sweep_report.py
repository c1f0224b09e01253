"""A sweep's report in parts: each method returns charts, a table, or a line that says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from imdb_serving.analysis.choice import ZONE
from imdb_serving.analysis.selection import EFFICIENCY
from imdb_serving.report import costs, frames, ladder, open_loop, page, tables, verdict, ways
from imdb_serving.report.chart import Charts
from imdb_serving.report.charts import bars, latency, nodes, rungs, threads
from imdb_serving.report.drawn import Drawings
from imdb_serving.report.exports import write_cells
from imdb_serving.report.markup import Markup
from imdb_serving.report.verdict import Verdict

Part = Markup | Markdown | None
"""What a notebook's cell shows; None shows nothing, where a part has nothing to say."""


class Report:
    """The report of one sweep. What it has drawn is kept in the sweep's folder."""

    def __init__(self, folder: str | Path, zone: float = ZONE, select: str = "", *, figures: bool = False) -> None:
        """Read the newest run in a sweep's folder; raise `DataError` when there is none.

        `zone` is the shortfall from the best that is indifferent, as a share of the best. `select` is what a cell is
        chosen by, by default what the sweep's file says. With `figures` every chart is written as PNG, SVG and PDF too.
        """
        self.folder = Path(str(folder))
        self.rows = frames.load(self.folder)
        self.cells = frames.cells(self.rows)
        self._drawings = Drawings(self.folder, figures=figures)
        self._rungs, self._no_rungs = ladder.if_measured(self.folder)
        write_cells(self.rows, self.folder)
        self._charted = frames.charted(self.cells)
        self._verdict = verdict.verdict(self.rows, self.folder, zone, select)
        verdict.save(self._verdict, self.folder)

    def verdict(self) -> Verdict:
        """Return what to run, why, and how sure that is."""
        return self._verdict

    def what_to_run(self) -> Part:
        """Return what to run in each mode and with each engine, as a table; nothing where that cannot be told."""
        answer = self._verdict.answer
        if not answer.ways:
            return None
        shown = Markup(ways.show(answer.ways, by_cpu=answer.select == EFFICIENCY)._repr_html_())
        return page.joined([page.text(ways.caption(answer.zone)), shown])

    def setting(self) -> Markup:
        """Return what was measured, on which machine, and whether answers were right."""
        rows = self.rows
        return page.text(self._setting(), tables.answers(rows))

    def _setting(self) -> str:
        return f"{frames.setting(self.rows)} · {frames.machine_note(self.rows, self.folder)}"

    def _charts(self, name: str, title: str, draw: Callable[..., Charts], cells: pd.DataFrame | None) -> Markup:
        """Return charts of cells, or of rows alone, which are also the figure of this name where figures are wanted."""
        some = [self.rows, self.folder, *([] if cells is None else [cells])]
        return self._drawings.of(name, partial(draw, *some), f"{title} · {self._setting()}")

    def time(self) -> Part:
        """Return the time of a client's share against threads."""
        return self._charts("time-vs-threads", "Time against threads", threads.time, self._charted)

    def throughput(self) -> Part:
        """Throughput against threads, with bounds and the law."""
        return self._charts("throughput-vs-threads", "Throughput against threads", threads.throughput, self._charted)

    @property
    def _left_out(self) -> str:
        return frames.left_out(self.cells, self._charted)

    def overview(self) -> Part:
        """Return the heat map and which curves are drawn, where there are more of them than can be told apart."""
        if not self._left_out:
            return None
        return page.joined([self._heat_map(), page.text(f"The charts below show {self._left_out}")])

    def heat_map(self) -> Part:
        """Throughput by server threads and client threads."""
        return page.text("It stands above, before the curves.") if self._left_out else self._heat_map()

    def _heat_map(self) -> Markup:
        return self._charts("heat-map", "Throughput by threads", threads.heat, self.cells)

    def stages(self) -> Part:
        """Return the mean time of each stage of a request."""
        return self._charts("stages", "Where a request's time goes", bars.stages, frames.charted(self.cells, beside=0))

    def timeline(self) -> Part:
        """One request of the recommended cell, stage by stage."""
        key = self._verdict.key
        make = partial(latency.timeline, self.rows, self.folder, key)
        heading = f"A request of median length · {frames.machine_note(self.rows, self.folder)}"
        return self._drawings.of("one-request", make, heading, key)

    def latency(self) -> Part:
        """Return the share of requests that were answered by when."""
        return self._charts("latency", "Latency distribution", latency.ecdf, self._charted)

    def ladder(self) -> Part:
        """Return what each rung of the overhead ladder adds."""
        make = partial(rungs.additions, self._rungs, self.folder, self._no_rungs)
        return self._drawings.of("ladder", make, "", self._no_rungs)

    def ladder_table(self) -> Part:
        """Return the same as a table."""
        return None if self._rungs is None else page.folded("The ladder as a table", ladder.show(self._rungs))

    def published_gap(self) -> Part:
        """Return what the published Flask numbers measured, in words."""
        return None if self._rungs is None else _markdown(ladder.explain_gap(self._rungs))

    def published_gap_table(self) -> Part:
        """Return the same as a table."""
        if self._rungs is None:
            return None
        return page.folded("What the published Flask numbers measured", ladder.show_gap(self._rungs))

    def cost(self) -> Part:
        """Return the CPU time of a request by who took it."""
        return self._charts("cpu-time", "The best cell of each mode and engine", bars.cost, self.cells)

    def open_loop(self) -> Any:
        """Latency at each offered rate."""
        if not open_loop.any_measured(self.rows):
            return page.text("Not measured: set `arrivals` and `rates`.")
        return open_loop.show(self.rows)

    def open_loop_chart(self) -> Part:
        """Latency against the offered rate."""
        if not open_loop.any_measured(self.rows):
            return None
        return self._charts("open-loop", "Open loop", open_loop.latency, None)

    def nodes(self) -> Part:
        """Throughput against the nodes that have servers."""
        if not nodes.any_measured(self.rows):
            return page.text("Not measured: set `cluster`, `placement` and `server_nodes` (docs/cluster.md).")
        return self._charts("nodes", "Throughput against nodes", nodes.nodes, None)

    def published(self) -> Part:
        """Return what the published RPC table says when it is analysed as ours."""
        return _markdown(tables.published_in_words())

    def published_tables(self) -> Part:
        """Ours in the published columns, and the published tables, over RPC and over Flask."""
        ours, theirs = tables.format_published, tables.format_reference
        name = "Ours, in the published columns (medians over the rounds)"
        parts = [
            page.folded(name, ours(tables.published_columns(self._charted))),
            page.folded("The published RPC table", theirs(tables.published_rpc())),
        ]
        if tables.has_http(self.cells):
            table = ours(tables.flask_columns(self._charted))
            parts.append(page.folded("Ours over Flask, in the published columns", table))
        return page.joined([*parts, page.folded("The published Flask table", theirs(tables.published_flask()))])

    def limits(self) -> Part:
        """Return what limits each cell, and the bounds and the law of each curve."""
        curve = costs.curves(self.rows, self._charted, self.folder)
        return page.joined(
            [
                page.text(self._left_out),
                page.folded(
                    "What limits each cell", costs.of_cells(self._charted, frames.cores(self.rows, self.folder))
                ),
                page.folded("Bounds and the law of each curve", costs.of_curves(curve)),
            ]
        )

    def failures(self) -> Part:
        """Return the cells that failed, or whose numbers cannot be believed, with the reasons."""
        return page.folded(tables.failures_in_words(self.rows), tables.styled(tables.failures(self.rows)))

    def environment(self) -> Part:
        """Return the machine and the software; on a cluster its machines, and how far their clocks are off."""
        rows = self.rows
        parts = [page.folded("The machine and the software", tables.facts(tables.environment(rows, self.folder)))]
        if words := tables.clocks(rows):
            parts.append(page.text(words))
        if len(machines := tables.machines(rows)):
            parts.append(page.folded("The machines of the cluster", tables.styled(machines)))
        return page.joined(parts)

    def data(self) -> Part:
        """Return how long it took, and links to the ledger, raw samples, executed notebooks and figures."""
        return page.joined([page.text(tables.time_spent(self.folder)), page.data_links(self.folder)])


def _markdown(words: str) -> Markdown:
    return Markdown(words)  # type: ignore[no-untyped-call]
