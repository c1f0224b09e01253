"""From raw samples to the figures of one round. Runs behind the timed window, never inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdb_serving.analysis.intervals import certified
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.load.workload import Result
from imdb_serving.timing import NETWORK, REMOTE, WAYS

PUBLISHED_COLUMNS = ("prepro", "client_infer", "op0", "op1", "op2", "postpro", "total")
"""The columns of the published tables, in their order."""

AROUND = ("prepro", "client_infer", "postpro", "total")
"""The columns that every client has; between `client_infer` and `postpro` stand the stages."""

NS, US = 1e9, 1e3

LEAST_IN_WINDOW = 200
"""Requests. With so many, and ten of each client, a window counts in which all were at work, however short beside the
rest: some servers answer one connection several times as fast as others.
"""


def stage_names(records: Sequence[ClientRecord]) -> tuple[str, ...]:
    """Return the parts of `client_infer` as servers and clients named them, in order."""
    names = dict.fromkeys(name for record in records for name in record.columns if name not in AROUND)
    return tuple(names)


def stage_sums(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return seconds by column, summed over a client's requests and averaged over the clients, as published."""
    sums = dict.fromkeys((*AROUND[:2], *stage_names(records), *AROUND[2:]), 0.0)
    for record in records:
        for name, total in zip(record.columns, record.durations.sum(axis=0) / NS, strict=False):
            sums[name] += float(total)
    return {name: total / max(len(records), 1) for name, total in sums.items()}


def clock_bound_us(records: Sequence[ClientRecord]) -> float:
    """Return how far `send` and `reply` can be from the truth, the mean in microseconds; 0 on one host."""
    bounds = [record.clock_bounds_ns for record in records if len(record.clock_bounds_ns)]
    return float(np.concatenate(bounds).mean()) / US if bounds else 0.0


def together(values: dict[str, float]) -> dict[str, float]:
    """Return values by stage with `send` and `reply` as one, `network`: their sum is exact, whatever a clock says."""
    whole = sum(values.get(way, 0.0) for way in WAYS)
    return {
        NETWORK if name == WAYS[0] else name: whole if name == WAYS[0] else value
        for name, value in values.items()
        if name != WAYS[1]
    }


def stage_means(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return the mean of every column in microseconds a request, over all clients' requests."""
    requests = sum(len(record.positions) for record in records)
    return {
        name: seconds * len(records) * 1e6 / requests if requests else 0.0
        for name, seconds in stage_sums(records).items()
    }


def column(records: Sequence[ClientRecord], name: str) -> NDArray[np.int64]:
    """Return one column of all requests, in nanoseconds."""
    parts = [record.durations[:, record.columns.index(name)] for record in records if name in record.columns]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def wall_seconds(records: Sequence[ClientRecord]) -> float:
    """Return the time from the first client's start to the last one's end; stamps of one host share a clock."""
    windows = [record.window_ns for record in records if record.window_ns[1]]
    if not windows:
        return 0.0
    return (max(end for _, end in windows) - min(start for start, _ in windows)) / NS


def latency(records: Sequence[ClientRecord], whole: str = "client_infer") -> dict[str, float | None]:
    """Return the mean and the percentiles of one column in microseconds; None where too few requests stand behind."""
    times = column(records, whole) / US
    return percentiles(times) if len(times) else {}


def percentiles(times: NDArray[np.float64]) -> dict[str, float | None]:
    """Return the mean and the percentiles of times in microseconds."""
    tails = {f"p{name}_us": certified(times, quantile) for name, quantile in (("90", 0.9), ("95", 0.95), ("99", 0.99))}
    return {
        "mean_us": float(times.mean()),
        "p50_us": float(np.median(times)),
        **tails,
        "p999_us": certified(times, 0.999),
    }


def stage_gaps(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return the medians of what the stages leave out, in microseconds: of the whole request, and of `client_infer`.

    The first is the median of absolute values, so that gaps of both signs cannot hide each other.
    """
    answered = [record for record in records if len(record.positions)]
    if not answered:
        return {}
    inside = np.concatenate([record.durations[:, 2:-2].sum(axis=1) for record in answered])
    infer, total = column(answered, "client_infer"), column(answered, "total")
    around = column(answered, "prepro") + column(answered, "postpro")
    return {
        "residual_us": float(np.median(np.abs(total - around - inside))) / US,
        "unexplained_us": float(np.median(infer - inside)) / US,
    }


def over_blocks(blocks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the figures of blocks that were measured one after another: times add up, rates are means by time."""
    found = [block for block in blocks if block]
    if len(found) < 2:
        return found[0] if found else {}
    weights = [block["window_s"] for block in found]
    sums = {name: sum(block[name] for block in found) for name in ("wall_s", "window_s")}
    rates = {name: float(np.average([block[name] for block in found], weights=weights)) for name in found[0]}
    return rates | sums


def closed_loop(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return the rate (requests a second) while all clients were at work, that window, and how many were under way.

    Where that window is less than half of the time, and of few requests, it is all of the time.

    `in_flight` is X·R of Little's law, without its rounding at the window's edges: the time that requests spent within
    the window, divided by the window. With every client always at a request it is the number of clients.
    """
    answered = [record for record in records if len(record.positions)]
    if not answered:
        return {}
    begin = max(record.window_ns[0] for record in answered)
    end = min(record.window_ns[1] for record in answered)
    starts = np.concatenate([record.starts_ns for record in answered])
    ends = starts + column(answered, "total")
    wall, completed = wall_seconds(records) * NS, int(((ends > begin) & (ends <= end)).sum())
    least = max(LEAST_IN_WINDOW, 10 * len(answered))
    if end - begin < wall / 2 and completed < least:  # too little to be of any meaning: all there is
        begin, end = min(record.window_ns[0] for record in answered), max(record.window_ns[1] for record in answered)
        completed = int(((ends > begin) & (ends <= end)).sum())
    spent = float(np.clip(np.minimum(ends, end) - np.maximum(starts, begin), 0, None).sum())
    window = max(end - begin, 1)
    return {
        "wall_s": wall / NS,
        "window_s": window / NS,
        "request_rate": completed * NS / window,
        "in_flight": spent / window,
    }


def open_loop(records: Sequence[ClientRecord], rate: float) -> dict[str, float]:
    """Return the rates of an open loop.

    `achieved` is the rate at which answers came, over as long as requests were due: in a server that keeps up, the last
    answer is as far from the first as the last request was. Offered nothing (all at once), it is the rate of answers.
    """
    answered = [record for record in records if len(record.positions)]
    if not answered:
        return {}
    due = np.concatenate([record.intended_ns for record in answered])
    done = np.concatenate([record.starts_ns for record in answered]) + column(answered, "client_infer")
    spread = max(int(done.max() - done.min()), int(due.max() - due.min()), 1)
    window = max(int(done.max() - due.min()), 1)
    asked = rate or (len(done) - 1) * NS / spread
    return {
        "wall_s": wall_seconds(answered),
        "window_s": window / NS,
        "request_rate": len(done) * NS / window,
        "offered": rate,
        "achieved": asked * int(due.max() - due.min()) / spread if rate else len(done) * NS / window,
    }


def open_latency(records: Sequence[ClientRecord]) -> dict[str, float | None]:
    """Return the latencies of an open loop, from when a request was due; service times from when it was sent."""
    answered = [record for record in records if len(record.positions)]
    if not answered:
        return {}
    due = np.concatenate([record.intended_ns for record in answered])
    sent = np.concatenate([record.starts_ns for record in answered])
    service = column(answered, "client_infer")
    return {
        **percentiles((sent + service - due) / US),
        "service_p50_us": float(np.median(service)) / US,
        "service_p99_us": certified(service / US, 0.99),
    }


def serving_seconds(row: Any, stages: Sequence[str]) -> Any:
    """Return the published serving time of a cell's row, or of a table of them: what Flask waits for, all requests.

    Its stages are the ops and the way to them: all from `handover` to the last before `reply`.
    """
    ops = [name for name in stages if name not in NOT_SERVING]
    return sum(row[f"{name}_s"] for name in ops) * row["client_threads"]


NOT_SERVING = ("encode", *WAYS, NETWORK, REMOTE, "queue", "parse", "decode")
"""The stages of `client_infer` that are no op and not the way to one."""


def answers_digest(results: Sequence[Result]) -> str:
    """Return the MD5 of all probabilities, in the order of the samples: cells that agree gave the same answers."""
    text = "".join(" ".join(f"{share:.6f}" for share in result.shares) + "\n" for result in results)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
