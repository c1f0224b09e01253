"""The offset of another host's clock is never further from the truth than its bound; `send` and `reply` neither."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from far_server import serving
from hypothesis import given
from hypothesis import strategies as st
from loads import lines_of

from imdb_serving.cell import Cell
from imdb_serving.clients.base import Client
from imdb_serving.clients.connect import connect
from imdb_serving.clients.http_connection import header_of
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.measurement.measure import Round, Target, measure
from imdb_serving.protocol import json_bodies
from imdb_serving.protocol.requests import make_request
from imdb_serving.timing import CLOCK_ID, DRIFT, ClockFilter, Exchange

AHEAD_SECONDS = 4321
JOURNEYS = st.tuples(*[st.integers(0, 10**7)] * 3, st.integers(0, 10**9))


@given(
    offset=st.integers(-(10**18), 10**18),
    drift=st.floats(-DRIFT / 1.1, DRIFT / 1.1),
    journeys=st.lists(JOURNEYS, min_size=1, max_size=30),
)
def test_the_truth_is_within_the_bound_however_unlike_the_journeys(
    offset: int, drift: float, journeys: list[tuple[int, int, int, int]]
) -> None:
    """Each journey has its own length, and the other clock runs faster or slower than ours."""
    clocks, now = ClockFilter(), 0

    def there(ours: int) -> int:
        return offset + ours + int(ours * drift)

    for way_there, way_back, work, pause in journeys:
        sent, received = now, now + way_there + work + way_back
        inside = Exchange(sent, there(sent + way_there), there(sent + way_there + work), received)
        clocks.learn("there", inside)
        reference = sent + way_there - inside.arrived_there_ns
        assert abs(clocks.offset_ns - reference) <= clocks.bound_ns(received) + 2  # of rounding to whole nanoseconds
        assert clocks.bound_ns(received) <= inside.bound_ns
        now = received + pause


def test_an_exchange_of_long_journeys_changes_nothing_until_the_better_one_is_old() -> None:
    clocks = ClockFilter()
    clocks.learn("there", Exchange(0, 1_000_005, 1_000_005, 10))
    clocks.learn("there", Exchange(100, 1_000_900, 1_000_900, 1_100))
    assert (clocks.offset_ns, clocks.bound_ns(1_100)) == (-1_000_000, 6)
    late = 60 * 10**9  # what two quartzes may drift apart in a minute is 3 ms
    assert clocks.bound_ns(late) == 6 + int((late - 10) * DRIFT)
    clocks.learn("there", Exchange(late, late + 1_000_600, late + 1_000_600, late + 1_000))
    assert (clocks.offset_ns, clocks.bound_ns(late + 1_000)) == (-1_000_100, 501)


def test_another_clock_begins_anew() -> None:
    clocks = ClockFilter()
    clocks.learn("one", Exchange(0, 5, 5, 10))
    clocks.learn("two", Exchange(20, 10_000, 10_000, 120))
    assert (clocks.offset_ns, clocks.bound_ns(120)) == (-9_930, 51)


def test_ones_own_clock_is_not_off() -> None:
    assert ClockFilter().bound_ns(10**12) == 0


def _can_have_time_namespaces() -> bool:
    unshare = ["unshare", "--time", "--monotonic", "1", "--fork", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(unshare, capture_output=True, check=False).returncode


needs_time_namespaces = pytest.mark.skipif(
    not _can_have_time_namespaces(), reason="no time namespace of one's own here: needs Linux 5.6, util-linux and root"
)


def serving_by_another_clock(*command: str) -> AbstractContextManager[str]:
    """The endpoint of a server in a time namespace: a host with another clock, whose offset is known."""
    apart = ["unshare", "--time", "--monotonic", str(AHEAD_SECONDS), "--fork", "--kill-child"]
    return serving([*apart, sys.executable, "-m", "imdb_serving", *command])


@needs_time_namespaces
@pytest.mark.parametrize(
    "command",
    [("serve", "--port", "0"), ("serve", "--endpoint", "socket://127.0.0.1:0"), ("flask", "--port", "0")],
)
def test_send_and_reply_of_a_server_with_another_clock_are_within_their_bounds(command: tuple[str, ...]) -> None:
    with serving_by_another_clock(*command) as endpoint, connect(endpoint, 10.0) as client:
        _check(client)


@needs_time_namespaces
def test_a_row_tells_journeys_apart_only_where_they_are_longer_than_their_bound() -> None:
    with serving_by_another_clock("serve", "--port", "0") as endpoint:
        reach = functools.partial(connect, endpoint, 10.0)
        with LoadSession({"": reach}, 1, 10.0) as session:
            around = Round("one", 1, 1, "", "", lines_of(100))
            row, (record,) = measure(Cell(samples=100), around, session, "", Target(reach))
    assert row.clock_bound_us
    assert row.clock_bound_us == pytest.approx(record.clock_bounds_ns.mean() / 1000)
    assert row.figures.residual_us is not None
    assert row.figures.residual_us < 50
    means = {name: record.durations[:, record.columns.index(name)].mean() / 1000 for name in ("send", "reply")}
    if min(means.values()) < row.clock_bound_us:
        assert row.stages == ("encode", "network", "queue", "op0", "op1", "op2", "decode")
        assert row.means_us["network"] == pytest.approx(sum(means.values()))
    else:
        assert row.stages == ("encode", "send", "queue", "op0", "op1", "op2", "reply", "decode")
        assert row.means_us["send"] == pytest.approx(means["send"])


def _check(client: Client) -> None:
    for _ in range(50):
        reply = client.call(make_request(({"words": [1, 2, 3]},), ("prediction",)))
        record: Any = reply.record
        stages = {stage.name: stage for stage in reply.stages}
        if hasattr(record, "head"):
            server, clock = json_bodies.parse_timing(header_of(record.head, b"server-timing"))
        else:
            server, clock = record.answer.stages(), record.answer.clock
        assert clock != CLOCK_ID
        assert clock.startswith(CLOCK_ID.partition("/")[0])
        arrived, left = (stamp - AHEAD_SECONDS * 10**9 for stamp in (server[0].start_ns, server[-1].end_ns))
        assert abs(stages["send"].end_ns - arrived) <= reply.clock_bound_ns
        assert abs(stages["reply"].start_ns - left) <= reply.clock_bound_ns
        assert stages["send"].end_ns >= stages["send"].start_ns
        assert stages["reply"].end_ns >= stages["reply"].start_ns


def test_the_clock_of_a_host_has_the_name_that_all_its_processes_see() -> None:
    there = subprocess.run(
        [sys.executable, "-c", "from imdb_serving.timing import CLOCK_ID; print(CLOCK_ID)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert there.stdout.strip() == CLOCK_ID
