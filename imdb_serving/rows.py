"""Rows of the ledger: one a cell and round, typed. Owns their fields and table; knows no file and no statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pandas as pd

from imdb_serving.cell import FIELDS, Cell

SCHEMA = 2

OK, INVALID, FAILED = "ok", "invalid", "failed"
"""Measured and sound; measured, but a gate says that the numbers mean something else; not measured."""


class Finding(msgspec.Struct, frozen=True):
    """What is wrong with a measurement: the gate it failed, what was seen, and what to do about it."""

    gate: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.gate}: {self.seen}" + (f"; {self.remedy}" if self.remedy else "")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one round of a cell gave. Times in microseconds are a request's, rates are a second's.

    `throughput` is in samples, `request_rate` in requests, both counted in the `window_s` in which all clients were at
    work; `wall_s` is from the first start to the last end. Percentiles are None where too few requests stand behind.
    `residual_us` is the median of |total - sum of its stages|, `unexplained_us` that of what `client_infer` spends
    outside its stages; `in_flight` the mean number of requests under way, for Little's law. In an open loop latencies
    run from the intended send time, `service_*` from the real one. `foreign_cores` and `steal_cores` are what others
    on this machine, and the hypervisor, took of the cores meanwhile; `of_ceiling` is the rate as a share of what these
    clients can send at most.
    """

    wall_s: float = 0.0
    window_s: float = 0.0
    throughput: float = 0.0
    request_rate: float = 0.0
    mean_us: float | None = None
    p50_us: float | None = None
    p90_us: float | None = None
    p95_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    service_p50_us: float | None = None
    service_p99_us: float | None = None
    residual_us: float | None = None
    unexplained_us: float | None = None
    in_flight: float | None = None
    offered: float | None = None
    achieved: float | None = None
    server_cpu_us: float | None = None
    client_cpu_us: float | None = None
    foreign_cores: float | None = None
    steal_cores: float | None = None
    load_before: float | None = None
    load_after: float | None = None
    of_ceiling: float | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one cell.

    `key` stands for the cell, the model, the code and the machine: rows of one key and round are the same measurement.
    `card` is the environment card's id. `requests` were to be sent; `answered` counts samples. `difference` is the
    greatest distance of an answer from the bare engine's. `stages` are the parts of `client_infer` as the server and
    the client named them, in order; `sums_s` are seconds summed over one client's requests and averaged over the
    clients, as published, `means_us` a request's mean, both with `prepro`, `client_infer`, `postpro` and `total` too.
    `clock_bound_us` is how far `send` and `reply` can be from the truth where the clocks of two hosts were compared,
    None on one host; where one of them is smaller than that, both stand together as `network`. On a cluster `nodes`
    says which machines had servers and clients, and `client_card` is the card of clients' machines unlike the servers'.
    """

    schema: int = SCHEMA
    run: str
    key: str
    cell: Cell
    round: int
    order: int = 0
    began: str
    seed: int
    card: str
    status: str = OK
    error: str = ""
    findings: tuple[Finding, ...] = ()
    requests: int = 0
    answered: int = 0
    failed_requests: int = 0
    unsent: int = 0
    answers: str = ""
    difference: float | None = None
    accuracy: float | None = None
    stages: tuple[str, ...] = ()
    sums_s: dict[str, float] = {}
    means_us: dict[str, float] = {}
    clock_bound_us: float | None = None
    figures: Figures = Figures()
    raw: str = ""
    client_card: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What is wrong, in words; empty when nothing is."""
        return "; ".join([*([self.error] if self.error else []), *map(str, self.findings)])


_OWN = [name for name in Row.__struct_fields__ if name not in {"cell", "figures", "sums_s", "means_us"}]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table: the cell's fields, the row's own, the figures, `<stage>_s` and `<stage>_us`.

    `cell` holds the cells themselves, `why` what is wrong. A stage that a row has not is NaN there.
    """
    return pd.DataFrame([_flat(row) for row in rows])


def _flat(row: Row) -> dict[str, Any]:
    return {
        **{name: getattr(row.cell, name) for name in FIELDS},
        **{name: getattr(row, name) for name in _OWN},
        "cell": row.cell,
        "why": row.why,
        **{name: _number(value) for name, value in msgspec.structs.asdict(row.figures).items()},
        **{f"{name}_s": value for name, value in row.sums_s.items()},
        **{f"{name}_us": value for name, value in row.means_us.items()},
    }


def _number(value: float | None) -> float:
    """Return a figure, NaN for none, so that a column of nothing is a column of numbers still."""
    return float("nan") if value is None else value
