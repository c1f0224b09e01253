"""From raw samples to the figures of a cell. Runs behind the timed window, never inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from imdb_serving.bench.loadgen import ClientRecord
from imdb_serving.bench.workload import Result
from imdb_serving.timing import STAGES

PUBLISHED_COLUMNS = ("prepro", "client_infer", "op0", "op1", "op2", "postpro", "total")
"""The columns of the published tables, in their order."""

SERVING = ("handover", "op0", "op1", "op2")
"""The stages of the published Flask table's serving time: what Flask waits for, the ops and the way to them."""

COLUMNS = (*STAGES, "client_infer", "total")


def stage_sums(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return `<stage>_s`: seconds, summed over a client's requests and averaged over the clients, as published."""
    sums = dict.fromkeys(COLUMNS, 0.0)
    for record in records:
        for name, total in zip(record.columns, record.durations.sum(axis=0) / 1e9, strict=False):
            sums[name] = sums.get(name, 0.0) + float(total)
    return {f"{name}_s": total / max(len(records), 1) for name, total in sums.items()}


def stage_means(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return `<stage>_us`: the mean of every stage in microseconds a request, over all clients' requests."""
    requests = sum(len(record.positions) for record in records)
    return {
        name.removesuffix("_s") + "_us": seconds * len(records) * 1e6 / requests if requests else 0.0
        for name, seconds in stage_sums(records).items()
    }


def latency(records: Sequence[ClientRecord]) -> dict[str, float]:
    """Return the median, 95th and 99th percentile of `client_infer` in milliseconds, over all single requests."""
    parts = [record.durations[:, record.columns.index("client_infer")] for record in records if len(record.positions)]
    if not parts:
        return {}
    p50, p95, p99 = np.percentile(np.concatenate(parts), [50, 95, 99]) / 1e6
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def wall_seconds(records: Sequence[ClientRecord]) -> float:
    """Return the time from the first client's start to the last one's end; stamps of one host share a clock."""
    windows = [record.window_ns for record in records if record.window_ns[1]]
    if not windows:
        return 0.0
    return (max(end for _, end in windows) - min(start for start, _ in windows)) / 1e9


def serving_seconds(row: Any) -> Any:
    """Return the serving time of a cell's row, or of a table of them: summed over all requests of all clients."""
    return sum(row[f"{name}_s"] for name in SERVING) * row["client_threads"]


def answers_digest(results: Sequence[Result]) -> str:
    """Return the MD5 of all probabilities, in the order of the samples: cells that agree gave the same answers."""
    text = "".join(f"{result.probability:.6f}\n" for result in results)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def summarise(records: Sequence[ClientRecord], samples_answered: int) -> dict[str, float]:
    """Return all figures of one run: stage sums and means, percentiles, wall time and samples a second."""
    wall = wall_seconds(records)
    return {
        **stage_sums(records),
        "wall_s": wall,
        "throughput": samples_answered / wall if wall else 0.0,
        **latency(records),
        **stage_means(records),
    }
