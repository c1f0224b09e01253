"""Stretches of load made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from imdb_serving.lab.settings import LINES, Settings
from imdb_serving.lab.testbed import Stretch
from imdb_serving.load.closed_loop import ClientRecord, FailedRequest
from imdb_serving.load.workload import Result
from imdb_serving.measurement.cpu_meter import Usage
from imdb_serving.measurement.measure import Round
from imdb_serving.text.formats import Line

SETTINGS = Settings(engine="none", clients=1)
COLUMNS = ("prepro", "client_infer", "queue", "op1", "postpro", "total")
LINES_OF = [Line("made", number, f"3 {number} 8 {number % 2}") for number in range(1, LINES + 1)]
AROUND = Round("one", 1, 1, "", "", LINES_OF, reference=np.full((LINES, 2), 0.5))


def stretch(
    requests: int = 100, probability: float = 0.5, foreign: float = 0.0, lost: int = 0, **changes: Any
) -> Stretch:
    """A quarter of a second of one closed-loop client that is always at a request."""
    settings = msgspec.structs.replace(SETTINGS, **changes)
    each = 250_000_000 // requests
    row = [each // 10, each // 10 * 8, each // 10 * 2, each // 10 * 6, each // 10, each]
    record = ClientRecord(
        columns=COLUMNS,
        positions=[number % LINES for number in range(requests)],
        starts_ns=np.arange(requests) * each,
        durations=np.array([row] * requests, np.int64),
        outcomes=[[Result([1 - probability, probability], 1)] for _ in range(requests)],
        failures=[FailedRequest(0, "timeout", "no reply in 5 s")] * lost,
        window_ns=(0, 250_000_000),
        cpu_s=0.01,
    )
    return Stretch(settings, [record], Usage(server_s=0.1, client_s=0.05, busy_s=0.15 + foreign, seconds=0.25))
