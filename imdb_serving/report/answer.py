"""The answer of a sweep as numbers: the types of `verdict.json`, whose JSON Schema is made from them."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from imdb_serving.analysis.bounds import Limit
from imdb_serving.analysis.intervals import Estimate

SCHEMA = 1
FILE = "verdict.json"


class Range(msgspec.Struct, frozen=True):
    """A value and the ends of its confidence interval, null where too little was measured for one."""

    value: float
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95

    @classmethod
    def of(cls, found: Estimate, confidence: float = 0.95) -> Range:
        """Return an estimate, its unknown ends as null."""
        low, high = (float(end) if math.isfinite(end) else None for end in (found.low, found.high))
        return cls(float(found.mean), low, high, confidence)

    def holds(self, value: float) -> bool:
        """Return True when the interval holds the value, or is not known."""
        return self.low is None or self.high is None or self.low <= value <= self.high


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which cell: `line` and `panel` say all that it differs in from others, thread counts aside.

    `setup` is the panel less its math threads, which are told only where they vary.
    """

    key: str
    mode: str
    server: str = ""
    engine: str
    line: str
    panel: str
    setup: str
    server_threads: int
    server_processes: int
    math_threads: int
    client_threads: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What serving adds to the bare model's time of a request, one client, in milliseconds.

    `parts` add up to `added`. `flask_adds` is what Flask costs beyond that, and `plain_flask_adds` what it costs beyond
    that on the fastest web server of others, `plain_flask`. `server_threads` are those of the measurement, `source` is
    `ladder` or `grid`.
    """

    bare_ms: float
    added: Range
    parts: dict[str, Range] = {}
    flask_adds: Range | None = None
    plain_flask: str = ""
    plain_flask_adds: Range | None = None
    server_threads: int = 0
    source: Literal["ladder", "grid"] = "ladder"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What to run in one mode and with one engine. Throughput in reviews a second, times in milliseconds.

    `server_cpu_us` is the server's CPU time a request, in microseconds, null where it could not be measured. `shown`
    tells whether its shortfall from the best of this mode and engine is shown to lie in the zone.
    """

    place: Place
    throughput: Range
    p99: Range | None
    p99_note: str
    cost: Cost | None
    server_cpu_us: Range | None
    limit: Limit
    shown: bool
    recommended: bool = False


class EngineGain(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine gives as a multiple of another, at the same mode, threads and clients, paired by round.

    `told` is `more`, `less`, or `cannot be told`. `thread_gain` is what more server threads give the `slower` engine,
    in the same mode and with as many clients: `thread_step` says from how many to how many.
    """

    engine: str
    other: str
    at: Place
    ratio: Range
    told: Literal["more", "less", "cannot be told"]
    agreement: str
    slower: str = ""
    thread_step: tuple[int, int] | None = None
    thread_gain: Range | None = None


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that may be the best at the edge of what was measured in its mode and with its engine.

    `measured` are the greatest counts that it reached, by axis: `server_threads`, `math_threads`, `client_threads`.
    More may give more.
    """

    place: Place
    measured: dict[str, int]
    command: str


class Doubtful(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that cannot be believed, why, and the most that it could give; null where nothing bounds it.

    `decides` tells whether it may be better than the chosen cell by more than the zone.
    """

    place: Place
    why: str
    most: float | None
    decides: bool


class Certainty(msgspec.Struct, frozen=True, kw_only=True):
    """How sure the answer is. A search measured `cells` of `searched`; else that is null, and all were measured.

    `noise` is the standard deviation of a cell in a round, as a share. `aa_difference` is the root mean square of the
    A/A pair's differences, `aa_check` whether that agrees with the noise: empty, `noisier` or `quieter`. `drift` is how
    far rounds lay off each other as a whole, also a share.
    """

    rounds: int
    cells: int
    valid: int
    searched: int | None = None
    unstable: list[Place]
    noise: float | None
    aa_pairs: int
    aa_difference: float | None
    aa_check: Literal["", "noisier", "quieter"]
    drift: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a sweep. `status` is `recommended` or `refused`; then nothing is recommended.

    `select` is what a cell is chosen by: `throughput`, a limit such as `p99: 20ms`, or `efficiency`, the least CPU time
    a request within 10 % of the best rate; then `shortfall` is how much less than its own the least may be.
    `shown` tells whether the recommended cell is shown to fall short of the best by no more than `zone`; `shortfall` is
    by how much it does, as a share of the best, with bounds that hold for all cells at once. `contenders` are the
    cells that may be the best, the best measured first. `rounds_needed` are about how many rounds would show it: 0
    where it is shown, null where too many.
    """

    schema: int = SCHEMA
    run: str = ""
    status: Literal["recommended", "refused"] = "refused"
    select: str = "throughput"
    shown: bool = False
    zone: float = 0.05
    recommended: Place | None = None
    best: Place | None = None
    best_throughput: float | None = None
    shortfall: Range | None = None
    contenders: list[Place] = []
    rounds_needed: int | None = None
    ways: list[Way] = []
    engines: list[EngineGain] = []
    edges: list[Edge] = []
    doubtful: list[Doubtful] = []
    certainty: Certainty | None = None
    lines: list[str] = []
    warnings: list[str] = []


def place_of(row: Any) -> Place:
    """Return which cell a row of the table is."""
    cell = row["cell"]
    told = {name: row[name] for name in ("key", "line", "panel", "setup")}
    names = ("mode", "server", "engine", "server_threads", "server_processes", "math_threads", "client_threads")
    return Place(**told, **{name: getattr(cell, name) for name in names})
