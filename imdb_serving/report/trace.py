"""A trace of requests in the Trace Event Format, which Perfetto (ui.perfetto.dev) and Chrome (chrome://tracing) open.

Three processes: the clients, what waits at the server, and its workers; arrows lead a request from one to the next.
Source: Trace Event Format, Google, 2016. Knows lives and no ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imdb_serving.report.lives import CLIENT_STAGES, QUEUE, Life, Part, in_lanes
from imdb_serving.timing import NETWORK, WAYS

CLIENTS, WAITING, WORKERS = 1, 2, 3
NAMES = {CLIENTS: "clients", WAITING: "server: waiting", WORKERS: "server: workers"}

Event = dict[str, Any]


def write_trace(lives: Sequence[Life], path: Path, about: dict[str, Any]) -> None:
    """Write the lives as JSON; `about` says what was traced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = {"traceEvents": list(events(lives)), "displayTimeUnit": "ns", "otherData": about}
    path.write_text(json.dumps(trace) + "\n", encoding="utf-8")


def events(lives: Sequence[Life]) -> Iterator[Event]:
    """Yield all events; times are microseconds since the first request began."""
    begin = min(life.start_ns for life in lives)
    lanes = in_lanes((life.served[0].start_ns, life.served[-1].end_ns) if life.served else (0, 0) for life in lives)
    waits = [next((part for part in life.parts if part.name == QUEUE), None) for life in lives]
    waiting = in_lanes((part.start_ns, part.end_ns) if part else (0, 0) for part in waits)
    yield from _names(lives, lanes, waiting)
    for number, (life, lane, wait, place) in enumerate(zip(lives, lanes, waits, waiting, strict=True)):
        whole = Part(f"request {life.position}", life.start_ns, life.end_ns)
        yield _slice(whole, CLIENTS, life.client, begin, {"client": life.client, "position": life.position})
        for part in life.parts:
            if part.name in {*CLIENT_STAGES, *WAYS, NETWORK}:
                yield _slice(part, CLIENTS, life.client, begin)
        if wait and wait.end_ns > wait.start_ns:
            yield _slice(wait, WAITING, place, begin, {"request": number})
        for part in life.served:
            yield _slice(part, WORKERS, lane, begin, {"request": number})
        yield from _arrows(life, lane, number, begin)


def _names(lives: Sequence[Life], lanes: Sequence[int], waiting: Sequence[int]) -> Iterator[Event]:
    for pid, name in NAMES.items():
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}}
    rows = [(CLIENTS, "client", sorted({life.client for life in lives})), (WAITING, "place", sorted(set(waiting)))]
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


def _arrows(life: Life, lane: int, number: int, begin: int) -> Iterator[Event]:
    """Lead from the client's send to its worker, and from there to its reply."""
    by_name = {part.name: part for part in life.parts}
    if not life.served or not set(WAYS) <= set(by_name):
        return
    send, reply = (by_name[name] for name in WAYS)
    first, last = life.served[0], life.served[-1]
    steps = [
        ("s", "there", CLIENTS, life.client, send.start_ns, 2 * number),
        ("f", "there", WORKERS, lane, first.start_ns, 2 * number),
        ("s", "back", WORKERS, lane, last.start_ns, 2 * number + 1),
        ("f", "back", CLIENTS, life.client, reply.start_ns, 2 * number + 1),
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
