"""Request timelines from raw samples: when each stage began and ended; and their export as a trace. Draws nothing.

A raw sample holds when a request began and how long each stage took, in order, so a timeline is laid out from its
begin. The time between two stages (docs/method.md holds it below 50 µs) is not shown. Raw samples do not say which
worker ran a request: requests that ran at once are on different lanes, as few as possible. The export is Google's Trace
Event Format (2016), which Perfetto (ui.perfetto.dev) and chrome://tracing open.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from imdb_serving.analysis.cells import measured, valid
from imdb_serving.errors import DataError
from imdb_serving.measurement.ledger import read_samples
from imdb_serving.report import frames
from imdb_serving.timing import NETWORK, WAYS

CLIENT_STAGES = ("prepro", "encode", "decode", "postpro")
QUEUE = "queue"


class Part(NamedTuple):
    """One stage of a request, in nanoseconds of the host's clock."""

    name: str
    start_ns: int
    end_ns: int


class RequestTimeline(NamedTuple):
    """One request: its client, its number among that client's requests, and its stages in order."""

    client: int
    position: int
    parts: tuple[Part, ...]

    @property
    def start_ns(self) -> int:
        """When the request began."""
        return self.parts[0].start_ns

    @property
    def end_ns(self) -> int:
        """When the request ended."""
        return self.parts[-1].end_ns

    @property
    def served(self) -> tuple[Part, ...]:
        """The stages in a worker."""
        return tuple(part for part in self.parts if part.name not in {*CLIENT_STAGES, *WAYS, NETWORK, QUEUE})


def row_of(rows: pd.DataFrame, key: str) -> Any:
    """Return a cell's last sound round, else its last; the cell of the highest throughput where no key is given.

    Raises `DataError` when there is none.
    """
    grid = measured(frames.grid(rows))
    if not key and len(grid):
        sound = valid(grid) if len(valid(grid)) else grid
        key = str(sound.sort_values("throughput").iloc[-1]["key"])
    own = grid[grid["key"] == key]
    if own.empty:
        raise DataError("no cell was measured that could be traced")
    return (valid(own) if len(valid(own)) else own).iloc[-1]


def timelines(folder: Path, row: Any, count: int) -> list[RequestTimeline]:
    """Return `count` requests from the middle of a row's run, of all clients, by their start.

    Raises `DataError` when the raw samples are gone.
    """
    samples = read_samples(folder, str(row["raw"])).sort_values("start_ns").reset_index(drop=True)
    if samples.empty:
        raise DataError(f"{folder / str(row['raw'])} holds no request")
    first = max(0, (len(samples) - count) // 2)
    names = ["prepro", *row["stages"], "postpro"]
    chosen: Any = samples.iloc[first : first + count]
    return [_timeline_of(sample, names) for sample in chosen.to_dict("records")]


def median_timeline(folder: Path, row: Any) -> RequestTimeline:
    """Return a request of a row that took as long as half of them did."""
    samples = read_samples(folder, str(row["raw"])).sort_values("total_ns").reset_index(drop=True)
    if samples.empty:
        raise DataError(f"{folder / str(row['raw'])} holds no request")
    return _timeline_of(samples.iloc[len(samples) // 2].to_dict(), ["prepro", *row["stages"], "postpro"])


def _timeline_of(sample: Any, names: Sequence[str]) -> RequestTimeline:
    # An open loop's stamp is when a request was sent, so its prepro lies before.
    now = int(sample["start_ns"]) - (int(sample["prepro_ns"]) if "intended_ns" in sample else 0)
    parts = []
    for name in names:
        took = sum(int(sample.get(f"{one}_ns", 0)) for one in (WAYS if name == NETWORK else (name,)))
        parts.append(Part(name, now, now + took))
        now += took
    return RequestTimeline(int(sample["client"]), int(sample["position"]), tuple(parts))


def in_lanes(spans: Iterable[tuple[int, int]]) -> list[int]:
    """Return a lane for each span, in the order given, so that no two that overlap share one; few lanes are used."""
    ordered = sorted(enumerate(spans), key=lambda pair: pair[1])
    free_from: list[int] = []
    lanes = [0] * len(ordered)
    for place, (start, end) in ordered:
        lane = next((number for number, free in enumerate(free_from) if free <= start), len(free_from))
        if lane == len(free_from):
            free_from.append(end)
        free_from[lane] = end
        lanes[place] = lane
    return lanes


CLIENTS, WAITING, WORKERS = 1, 2, 3
NAMES = {CLIENTS: "clients", WAITING: "server: waiting", WORKERS: "server: workers"}

Event = dict[str, Any]


def write_trace(timelines: Sequence[RequestTimeline], path: Path, about: dict[str, Any]) -> None:
    """Write timelines as a JSON trace; `about` says what was traced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = {"traceEvents": list(events(timelines)), "displayTimeUnit": "ns", "otherData": about}
    path.write_text(json.dumps(trace) + "\n", encoding="utf-8")


def events(timelines: Sequence[RequestTimeline]) -> Iterator[Event]:
    """Yield all events; times are microseconds since the first request began."""
    begin = min(timeline.start_ns for timeline in timelines)
    lanes = in_lanes(
        (timeline.served[0].start_ns, timeline.served[-1].end_ns) if timeline.served else (0, 0)
        for timeline in timelines
    )
    waits = [next((part for part in timeline.parts if part.name == QUEUE), None) for timeline in timelines]
    waiting = in_lanes((part.start_ns, part.end_ns) if part else (0, 0) for part in waits)
    yield from _names(timelines, lanes, waiting)
    for number, (timeline, lane, wait, place) in enumerate(zip(timelines, lanes, waits, waiting, strict=True)):
        whole = Part(f"request {timeline.position}", timeline.start_ns, timeline.end_ns)
        yield _slice(whole, CLIENTS, timeline.client, begin, {"client": timeline.client, "position": timeline.position})
        for part in timeline.parts:
            if part.name in {*CLIENT_STAGES, *WAYS, NETWORK}:
                yield _slice(part, CLIENTS, timeline.client, begin)
        if wait and wait.end_ns > wait.start_ns:
            yield _slice(wait, WAITING, place, begin, {"request": number})
        for part in timeline.served:
            yield _slice(part, WORKERS, lane, begin, {"request": number})
        yield from _arrows(timeline, lane, number, begin)


def _names(timelines: Sequence[RequestTimeline], lanes: Sequence[int], waiting: Sequence[int]) -> Iterator[Event]:
    for pid, name in NAMES.items():
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}}
    rows = [
        (CLIENTS, "client", sorted({timeline.client for timeline in timelines})),
        (WAITING, "place", sorted(set(waiting))),
    ]
    for pid, name, numbers in [*rows, (WORKERS, "lane", sorted(set(lanes)))]:
        for number in numbers:
            yield {
                "ph": "M",
                "pid": pid,
                "tid": number,
                "name": "thread_name",
                "args": {"name": f"{name} {number + 1}"},
            }


def _slice(part: Part, pid: int, tid: int, begin: int, more: dict[str, Any] | None = None) -> Event:
    return {
        "ph": "X",
        "name": part.name,
        "cat": "request",
        "pid": pid,
        "tid": tid,
        "ts": (part.start_ns - begin) / 1000,
        "dur": (part.end_ns - part.start_ns) / 1000,
        "args": more or {},
    }


def _arrows(timeline: RequestTimeline, lane: int, number: int, begin: int) -> Iterator[Event]:
    """Yield the arrows from a client's send to the worker, and from the worker to the reply."""
    by_name = {part.name: part for part in timeline.parts}
    if not timeline.served or not set(WAYS) <= set(by_name):
        return
    send, reply = (by_name[name] for name in WAYS)
    first, last = timeline.served[0], timeline.served[-1]
    steps = [
        ("s", "there", CLIENTS, timeline.client, send.start_ns, 2 * number),
        ("f", "there", WORKERS, lane, first.start_ns, 2 * number),
        ("s", "back", WORKERS, lane, last.start_ns, 2 * number + 1),
        ("f", "back", CLIENTS, timeline.client, reply.start_ns, 2 * number + 1),
    ]
    for kind, name, pid, tid, at, flow in steps:
        yield {
            "ph": kind,
            "bp": "e",
            "name": name,
            "cat": "way",
            "id": flow,
            "pid": pid,
            "tid": tid,
            "ts": (at - begin) / 1000,
        }
