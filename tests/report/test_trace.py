"""Traces: what Perfetto and Chrome are given."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_charts import with_samples

from imdb_serving.cell import GRID
from imdb_serving.cli import main
from imdb_serving.errors import DataError
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement import texts
from imdb_serving.measurement.ledger import read_samples
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.report.frames import rows_of
from imdb_serving.report.timelines import CLIENTS, NAMES, WORKERS, in_lanes, row_of, timelines
from imdb_serving.text.formats import Line

Event = dict[str, Any]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)), max_size=40))
def test_lanes_are_few_and_nothing_in_one_overlaps(spans: list[tuple[int, int]]) -> None:
    times = [(start, start + length) for start, length in spans]
    lanes = in_lanes(times)
    by_lane: dict[int, list[tuple[int, int]]] = {}
    for lane, time in zip(lanes, times, strict=True):
        by_lane.setdefault(lane, []).append(time)
    for own in by_lane.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(own)))
    at_once = max((sum(start <= at < end for start, end in times) for at, _ in times), default=0)
    assert len({lane for lane, (start, end) in zip(lanes, times, strict=True) if end > start}) <= max(at_once, 1) + 1


def test_a_life_is_its_stages_end_to_end(tmp_path: Path) -> None:
    rows = with_samples(tmp_path)
    found = timelines(tmp_path, row_of(rows, ""), 10)
    assert len(found) == 10
    assert [life.position for life in found] == list(range(495, 505))
    for life in found:
        assert all(before.end_ns == after.start_ns for before, after in pairwise(life.parts))
        assert [part.name for part in life.served] == ["parse", "handover", "op0", "op1", "op2"]


def test_without_raw_samples_there_is_an_error(tmp_path: Path) -> None:
    rows = with_samples(tmp_path)
    (tmp_path / rows["raw"].iloc[0]).unlink()
    with pytest.raises(DataError, match="cannot read the raw samples"):
        timelines(tmp_path, row_of(rows, ""), 10)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few requests over RPC and over Flask."""
    outputs = tmp_path_factory.mktemp("outputs")
    lines = [Line("made", number, "2 8 9 1") for number in range(1, 41)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: lines)
        for mode in ("rpc", "flask"):
            params = GridParams(
                mode=mode, engine="simulated", service_time_ms=2.0, server_threads=2, client_threads=[3], samples=40,
                sweep="small", run="one", outputs=str(outputs),
            )  # fmt: skip
            run_grid(params, lambda text: None)
    return outputs / "small"


def traced(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["trace", *map(str, arguments)])


def test_the_command_writes_what_perfetto_opens(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    done = traced(sweep, "--mode", "flask", "--requests", 30, "--out", out)
    assert done.exit_code == 0, done.output
    assert "ui.perfetto.dev" in done.output
    trace = json.loads(out.read_text(encoding="utf-8"))
    assert trace["otherData"]["cell"].startswith("flask, engine simulated")
    events: list[Event] = trace["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in slices} == set(NAMES)
    assert sum(event["name"].startswith("request ") for event in slices) == 30
    assert min(event["ts"] for event in slices) == 0
    assert {event["tid"] for event in slices if event["pid"] == CLIENTS} == {0, 1, 2}
    model = [event for event in slices if event["name"] == "op1"]
    assert all(event["pid"] == WORKERS for event in model)
    assert sorted(event["dur"] for event in model) == pytest.approx(sorted(times_in_op1(sweep, 30)), abs=1e-2)
    check_nesting(slices)
    check_arrows(events)


def times_in_op1(sweep: Path, requests: int) -> list[float]:
    """Microseconds in op1 of the requests in the middle of the Flask run, as its raw samples have them."""
    (raw,) = {row.raw for row in rows_of(sweep) if row.cell.mode == "flask" and row.cell.series == GRID}
    samples = read_samples(sweep, raw).sort_values("start_ns")
    first = (len(samples) - requests) // 2
    return list(samples["op1_ns"].iloc[first : first + requests] / 1000)


def check_nesting(slices: list[Event]) -> None:
    """Slices of a track are one inside another, or one after another, within a nanosecond's rounding."""
    tracks: dict[tuple[int, int], list[Event]] = {}
    for event in slices:
        tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for track in tracks.values():
        open_ends: list[float] = []
        for event in sorted(track, key=lambda event: (event["ts"], -event["dur"])):
            while open_ends and open_ends[-1] <= event["ts"] + 1e-3:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1] + 1e-2
            open_ends.append(end)


def check_arrows(events: list[Event]) -> None:
    starts = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    ends = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert len(starts) == 60
    assert all(starts[name] <= ends[name] for name in starts)


def test_a_cell_that_is_not_there_is_told_with_those_that_are(sweep: Path, tmp_path: Path) -> None:
    done = traced(sweep, "--engine", "paddle")
    assert done.exit_code == 2
    assert "no cell with engine paddle; there is" in done.output
    assert "simulated" in done.output
    assert traced(tmp_path).exit_code == 2
