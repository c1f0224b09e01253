"""Live servers to measure cells against."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from loads import lines_of

from imdb_serving.cell import Cell, Row
from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.measurement.measure import Round, Target, measure
from imdb_serving.server_process import ServerSpec

SIMULATED = EngineSpec("simulated", service_time_ms=5.0)


@contextmanager
def served(
    mode: str,
    spec: EngineSpec,
    workers: int,
    clients: int,
    *,
    pipeline: str = "",
    timeout: float = 10.0,
    kind: str = "",
) -> Iterator[Any]:
    """Give a function that measures a cell against a live server: changes are the cell's, `number` is the round."""
    with ServerSpec(mode, spec, None, workers, pipeline=pipeline).process() as server:
        target = Target(functools.partial(connect, server.endpoint, timeout, kind or "keep-alive"), (server.pid,))
        with LoadSession({"": target.connect}, clients, timeout) as session:

            def measured(number: int = 1, **changes: Any) -> Row:
                cell = Cell(
                    mode=mode, engine=spec.name, net="", server_threads=workers, worker_kind="thread", endpoint="tcp",
                    client_kind=kind or "keep-alive", **changes,
                )  # fmt: skip
                lines = lines_of(cell.samples)
                context = Round("one", number, 1, "", "", lines, reference=np.full((len(lines), 2), 0.5))
                return measure(cell, context, session, "", target)[0]

            measured.connect = target.connect  # type: ignore[attr-defined]
            yield measured


def gates_of(row: Row) -> set[str]:
    return {finding.gate for finding in row.findings}
