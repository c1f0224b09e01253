"""An oracle: it writes sweep folders whose truth is known, through the package's own types, and judges what is said.

The noise is that of real sweeps: half of its variance belongs to the server process of a round, half to the cell, and
rounds drift as a whole. Rates follow from workers, cores and clients, so that bounds and utilisation mean something.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from imdb_serving.cell import AA_REPEAT, FAILED, Cell, Figures, Row, digest
from imdb_serving.experiment.plan import Plan, write_plan
from imdb_serving.measurement.ledger import append_line

CORES = 2
CLIENTS = (1, 2, 3, 4, 6, 8)
OP_US = {"paddle": 600.0, "folded": 60.0, "onnxruntime": 300.0}
WAY_US = {"rpc": 90.0, "flask": 160.0, "socket": 50.0}
CLIENT_US = 40.0
CPU_NOISE = 0.3
"""That of the CPU time a request, as a share of the throughput's: other processes' time is not in it."""
KIND = {"paddle": "process", "folded": "thread", "onnxruntime": "thread"}

Spot = tuple[str, str, int, int]
"""A cell: mode, engine, server threads, clients."""

LAYOUT: tuple[Spot, ...] = (
    *((mode, "paddle", servers, clients) for mode in ("rpc", "flask") for servers in (1, 2) for clients in CLIENTS),
    *(("rpc", "paddle", 4, clients) for clients in CLIENTS),
    *((mode, "folded", 1, clients) for mode in ("rpc", "socket", "flask") for clients in CLIENTS),
)
"""The cells of the default sweep."""


@dataclass(frozen=True)
class Truth:
    """What cells give: reviews a second, p99 and the server's CPU time a request in us, and the machine's cores."""

    rates: dict[Spot, float]
    p99_us: dict[Spot, float]
    cpu_us: dict[Spot, float]
    cores: float = CORES

    @property
    def best(self) -> float:
        """The highest rate."""
        return max(self.rates.values())

    def scaled(self, factors: dict[Spot, float]) -> Truth:
        """Return a truth in which some cells give more or less."""
        return replace(self, rates={spot: rate * factors.get(spot, 1.0) for spot, rate in self.rates.items()})


def truth_of(layout: Sequence[Spot] = LAYOUT, cores: float = CORES, op_us: dict[str, float] | None = None) -> Truth:
    """Return what workers, cores and clients allow; a little less where two of them are near each other."""
    rates, tails, taken = {}, {}, {}
    for spot in layout:
        mode, engine, servers, clients = spot
        op = (op_us or OP_US)[engine]
        whole = op + WAY_US[mode] + CLIENT_US
        limits = (clients * 1e6 / (whole + 60.0), servers * 1e6 / (op + 0.5 * WAY_US[mode]), cores * 1e6 / whole)
        rates[spot] = float(sum(limit**-6 for limit in limits) ** (-1 / 6)) * (1 - 0.003 * abs(servers - cores))
        tails[spot] = 2.5e6 * clients / rates[spot]
        taken[spot] = op + WAY_US[mode] * (0.8 + 0.2 / clients)  # a busy server waits less often
    return Truth(rates, tails, taken, cores)


@dataclass(frozen=True)
class Noise:
    """What lies between truth and rows: the standard deviation of a cell in a round, as a share, and its kind.

    `drift` is `line` (rounds become slower, evenly), `walk` (a random walk) or `none`; `heavy` has Student's tails of
    three degrees of freedom. `pair` multiplies the noise of the A/A pair's second.
    """

    sigma: float
    rounds: int = 3
    drift: str = "line"
    heavy: bool = False
    pair: float = 1.0


@dataclass
class Sweep:
    """A folder with a ledger, and the truth behind it."""

    folder: Path
    truth: Truth
    rows: list[Row] = field(default_factory=list)


Change = Callable[[Row], Row]


def write_sweep(folder: Path, truth: Truth, noise: Noise, seed: int, change: Change = lambda row: row) -> Sweep:
    """Write a sweep's folder: plan, card and ledger. `change` may spoil rows."""
    rows = rows_of(truth, noise, seed, change)
    sweep = Sweep(folder, truth, rows)
    keys = {row.key: row.cell for row in rows if row.cell.series == "grid"}
    folder.mkdir(parents=True, exist_ok=True)
    write_plan(folder, Plan("run", noise.rounds, keys, "params/default.yaml"))
    (folder / "cards").mkdir(exist_ok=True)
    card = {"cores_allowed": math.ceil(truth.cores), "cpu_quota": truth.cores, "wake_up_us": 30.0, "cores": 64}
    (folder / "cards" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "ledger.jsonl").unlink(missing_ok=True)
    append_line(folder / "ledger.jsonl", b"\n".join(msgspec.json.encode(row) for row in rows))
    return sweep


def rows_of(truth: Truth, noise: Noise, seed: int, change: Change = lambda row: row) -> list[Row]:
    """Return the rows of a sweep of all cells."""
    generator, of_cpu = np.random.default_rng(seed), np.random.default_rng([seed, 3])
    drifts = _drifts(noise, generator)
    rows = []
    for number in range(1, noise.rounds + 1):
        rows += _round(truth, noise, number, float(drifts[number - 1]), generator)
    return [change(_with_cpu(row, truth, float(of_cpu.normal(0, CPU_NOISE * noise.sigma)))) for row in rows]


def _with_cpu(row: Row, truth: Truth, off: float) -> Row:
    taken = truth.cpu_us[spot_of(row.cell)] * math.exp(off)
    return msgspec.structs.replace(row, figures=msgspec.structs.replace(row.figures, server_cpu_us=taken))


def _drifts(noise: Noise, generator: np.random.Generator) -> Any:
    if noise.drift == "line":
        return np.linspace(-0.5, 0.5, noise.rounds) * noise.sigma
    if noise.drift == "walk":
        return np.cumsum(generator.normal(0, noise.sigma / 2, noise.rounds))
    return np.zeros(noise.rounds)


def _round(truth: Truth, noise: Noise, number: int, drift: float, generator: np.random.Generator) -> list[Row]:
    rows = []
    servers: dict[Any, Any] = {}
    pair = next((spot[:3] for spot in truth.rates if spot[2] == 2), next(iter(truth.rates))[:3])
    for series, spots in (("grid", list(truth.rates)), (AA_REPEAT, [s for s in truth.rates if s[:3] == pair])):
        for spot in spots:
            scale = noise.sigma / math.sqrt(2) * (noise.pair if series == AA_REPEAT else 1.0)
            server = servers.setdefault((series, *spot[:3]), generator.normal(0, scale, 2))
            draw = generator.standard_t(3, 2) / math.sqrt(3) if noise.heavy else generator.normal(0, 1, 2)
            off = server + draw * scale
            rate, p99_us = truth.rates[spot] * math.exp(drift + off[0]), truth.p99_us[spot] * math.exp(off[1] - drift)
            rows.append(row_of(spot, number, rate, p99_us, series))
    return rows


def row_of(spot: Spot, number: int, rate: float, p99_us: float, series: str = "grid") -> Row:
    """Return the row of a cell in a round that gave this."""
    mode, engine, servers, clients = spot
    cell = Cell(
        series=series, mode=mode, engine=engine, server_threads=servers, client_threads=clients,
        worker_kind=KIND[engine], endpoint="tcp", samples=750,
    )  # fmt: skip
    op, way = OP_US[engine], WAY_US[mode]
    total = clients * 1e6 / rate
    means = {
        "prepro": 10.0, "client_infer": total - 20.0, "encode": 10.0, "send": way / 2, "op0": 2.0, "op1": op,
        "op2": 2.0, "queue": max(total - op - way - 50.0, 0.0), "reply": way / 2, "decode": 10.0, "postpro": 10.0,
        "total": total,
    }  # fmt: skip
    figures = Figures(
        wall_s=1.0, window_s=1.0, throughput=rate, request_rate=rate, mean_us=total, p50_us=total, p99_us=p99_us,
        server_cpu_us=op + way, front_cpu_us=way, client_cpu_us=CLIENT_US, in_flight=float(clients), load_before=0.1,
        load_after=0.2,
    )  # fmt: skip
    return Row(
        run="run", key=digest(cell), cell=cell, round=number, began=f"{number:04}", seed=1, card="card", requests=750,
        answered=750, answers=engine, accuracy=0.9, stages=tuple(means)[2:-2], means_us=means,
        sums_s={name: value * 750 / clients / 1e6 for name, value in means.items()}, figures=figures,
    )  # fmt: skip


def spot_of(place: Any) -> Spot:
    """Return the cell that an answer names."""
    return place.mode, place.engine, place.server_threads, place.client_threads


def failing(spot: Spot) -> Change:
    """Make every round of a cell fail."""

    def change(row: Row) -> Row:
        if spot_of(row.cell) != spot or row.cell.series != "grid":
            return row
        return Row(
            run=row.run, key=row.key, cell=row.cell, round=row.round, began=row.began, seed=1, card=row.card,
            status=FAILED, error="ServerUnavailable: gone",
        )  # fmt: skip

    return change


def slowed(spot: Spot, number: int, factor: float) -> Change:
    """Make one round of a cell slower than it was, as an intruder does that no gate saw."""

    def change(row: Row) -> Row:
        if spot_of(row.cell) != spot or row.round != number or row.cell.series != "grid":
            return row
        figures = row.figures
        rate = figures.throughput * factor
        return msgspec.structs.replace(
            row, figures=msgspec.structs.replace(figures, throughput=rate, request_rate=rate)
        )

    return change
