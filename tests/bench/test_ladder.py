"""The ladder and the session of clients behind it: interleaved targets, complete rows, equal answers."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from loads import Positions, lines_of, shares_of

from imdb_serving.bench import ladder
from imdb_serving.bench.ladder import ASIDE, FILE, RUNGS, run_ladder
from imdb_serving.bench.ledger import read_rows
from imdb_serving.bench.local import BareClient, InprocClient, JsonClient
from imdb_serving.bench.parameters import LadderParams
from imdb_serving.bench.session import LoadSession
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import DataError
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.lines import Line
from imdb_serving.transports.connect import connect

NULL = EngineSpec("null")
LOCAL = {"bare": BareClient, "inproc": InprocClient, "json": JsonClient}


@pytest.fixture
def made_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up lines, so that no test reads the whole set."""
    monkeypatch.setattr(ladder, "measurement_lines", lambda samples, seed, vocabulary: lines_of(samples))


def test_every_rung_is_measured_in_every_round_with_the_same_answers(tmp_path: Path, made_lines: None) -> None:
    params = LadderParams(engines=["null"], rounds=2, requests=3, server_threads=2, run="one")
    rows = run_ladder(params, tmp_path, lambda text: None)
    cells = {(row["rung"], row["client_threads"], row["round"]) for row in rows}
    assert len(rows) == len(cells) == (len(RUNGS) + 1) * 2 * 2
    assert {row["requests"] for row in rows if row["client_threads"] == 2} == {6}
    for clients in (1, 2):
        chosen = [row for row in rows if row["client_threads"] == clients]
        assert len({row["answers"] for row in chosen}) == 1
    orders = [[(row["rung"], row["client_threads"]) for row in rows if row["round"] == round_] for round_ in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
    assert len(read_rows(tmp_path / FILE)) == len(rows)
    assert all((tmp_path / row["raw"]).is_file() for row in rows)
    assert {ASIDE, *RUNGS} == {row["rung"] for row in rows}


def test_a_rung_whose_requests_fail_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_lines: None) -> None:
    bad = [Line("made", number, "9 1 2 0") for number in range(1, 13)]  # says nine words, has two
    monkeypatch.setattr(ladder, "measurement_lines", lambda samples, seed, vocabulary: bad)
    params = LadderParams(engines=["null"], rounds=2, requests=3, server_threads=2)
    with pytest.raises(DataError, match=r"rung .*, engine null: "):
        run_ladder(params, tmp_path, lambda text: None)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("name", LOCAL)
def test_local_clients_give_the_served_answer(name: str, bundle: Path) -> None:
    feed = {"words": [8, 233, 52]}
    with ServerProcess([str(bundle), "--server-threads", "1"]) as server, connect(server.endpoint) as client:
        served = client.predict(feed)["prediction"]
    with LOCAL[name](EngineSpec("paddle"), bundle) as local:
        assert local.predict(feed)["prediction"].tolist() == served.tolist()


def test_bare_counts_the_engine_alone() -> None:
    workload = shares_of(lines_of(1), 1)[0]
    reply = BareClient(NULL, None).call(workload.prepare(0))
    assert [stage.name for stage in reply.stages] == ["op1"]
    assert [stage.name for stage in InprocClient(NULL, None).call(workload.prepare(0)).stages] == ["op0", "op1", "op2"]


def test_blocks_against_several_targets_are_interleaved_by_the_same_clients(null_server: ServerProcess) -> None:
    targets = {
        "rpc": functools.partial(connect, null_server.endpoint),
        "inproc": functools.partial(InprocClient, NULL, None),
    }
    with LoadSession(targets, 2, 5.0) as session:
        for target, clients in [("rpc", 2), ("inproc", 1), ("rpc", 1), ("inproc", 2)]:
            records = session.run(target, [Positions(5)] * clients)
            assert [len(record.positions) for record in records] == [5] * clients
            assert ("queue" in records[0].columns) == (target == "rpc")


def test_a_client_that_dies_loses_its_block_and_is_back_for_the_next(null_server: ServerProcess) -> None:
    with LoadSession({"rpc": functools.partial(connect, null_server.endpoint)}, 2, 5.0) as session:
        first = session.run("rpc", [Positions(5, at=3), Positions(5)])
        again = session.run("rpc", [Positions(4), Positions(4)])
    assert [(len(record.positions), len(record.failures)) for record in first] == [(0, 5), (5, 0)]
    assert [(len(record.positions), len(record.failures)) for record in again] == [(4, 0), (4, 0)]


def test_a_target_that_cannot_be_reached_fails_every_request_with_the_reason() -> None:
    with LoadSession({"http": functools.partial(connect, "http://127.0.0.1:9")}, 1, 1.0) as session:
        (record,) = session.run("http", [Positions(2)])
    assert [failure.code for failure in record.failures] == ["unavailable"] * 2
    assert "not sent: no server answers at http://127.0.0.1:9" in record.failures[0].message
