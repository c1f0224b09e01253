"""The ladder and the session of clients behind it: interleaved targets, complete rows, equal answers."""

from __future__ import annotations

import functools
from pathlib import Path
from time import perf_counter_ns

import msgspec
import numpy as np
import pytest
from loads import lines_of, positions, shares_of

from imdb_serving.analysis.cells import frame
from imdb_serving.clients.connect import connect
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ConfigError, ServerStartError
from imdb_serving.experiment import beside, ladder
from imdb_serving.experiment.beside import PLAIN, servers_beside
from imdb_serving.experiment.ladder import ASIDE, RUNGS, run_ladder, rung_of
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.measurement import texts
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.local_clients import BareClient, InprocClient, JsonClient
from imdb_serving.measurement.measure import Round
from imdb_serving.measurement.parameters import LadderParams
from imdb_serving.protocol.json_bodies import PREDICTION_PATH
from imdb_serving.report.charts import rungs as charts
from imdb_serving.report.ladder import beside as beside_flask
from imdb_serving.report.ladder import rungs, text
from imdb_serving.report.serving_cost import _by_ladder, in_words
from imdb_serving.server_process import ServerProcess, ServerSpec
from imdb_serving.text.formats import Line

NULL = EngineSpec("none")
LOCAL = {"bare": BareClient, "inproc": InprocClient, "json": JsonClient}


@pytest.fixture
def made_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up lines, so that no test reads the whole set, and no web servers of others, which take seconds to start."""
    monkeypatch.setattr(beside, "_WEB_SERVERS", {})
    monkeypatch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: lines_of(samples))


def test_every_rung_is_measured_in_every_round_with_the_same_answers(tmp_path: Path, made_lines: None) -> None:
    params = LadderParams(
        engines=["none"], rounds=2, requests=3, server_threads=2, run="one", sweep="small", outputs=str(tmp_path)
    )
    rows = run_ladder(params, lambda text: None)
    cells = {(rung_of(row.cell), row.cell.client_threads, row.round) for row in rows}
    assert len(rows) == len(cells) == (len(RUNGS) + 1) * 2 * 2
    assert {row.error for row in rows} == {""}
    assert {row.requests for row in rows if row.cell.client_threads == 2} == {6, 12, 30}  # in one to five passes
    assert {row.difference for row in rows} == {0.0}
    orders = [[row.cell for row in sorted(rows, key=lambda row: row.order) if row.round == number] for number in (1, 2)]
    assert orders[0] != orders[1]
    assert set(orders[0]) == set(orders[1])
    assert all((tmp_path / "small" / row.raw).is_file() for row in rows)
    assert {ASIDE, *RUNGS} == {rung_of(row.cell) for row in rows}
    written = Ledger(tmp_path / "small").rows()
    assert len(written) == len(rows)
    # One more time with the same name, of which a row was lost: that one alone is measured again.
    path = tmp_path / "small" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert len(run_ladder(params, lambda text: None)) == len(rows)
    assert len(Ledger(tmp_path / "small").rows()) == len(rows)


def test_some_rungs_are_measured_in_rounds_of_their_own_with_the_bare_model_beside(
    tmp_path: Path, made_lines: None
) -> None:
    params = LadderParams(engines=["none"], rounds=2, requests=3, server_threads=2, run="one", outputs=str(tmp_path))
    run_ladder(params, lambda text: None)
    more, some = msgspec.structs.replace(params, server_threads=1), ["bare", "inproc", "socket"]
    rows = [row for row in run_ladder(more, lambda text: None, some, first_round=3) if row.round > 2]
    assert {(rung_of(row.cell), row.round) for row in rows} == {(rung, number) for rung in some for number in (3, 4)}
    assert {row.cell.client_threads for row in rows} == {1}
    # Three requests are too few for Little's law.
    rows = [msgspec.structs.replace(row, status="ok", findings=()) for row in Ledger(tmp_path / "ladder").rows()]
    table = frame(rows)
    cells = [
        {"mode": "socket", "engine": "none", "server_threads": count, "math_threads": 1, "server": ""}
        for count in (1, 2)
    ]
    costs = [_by_ladder(table, cell) for cell in cells]
    assert [cost.server_threads for cost in costs if cost] == [1, 2]
    assert costs[0] != costs[1]
    assert _by_ladder(table, {**cells[0], "math_threads": 2}) is None, "the ladder had one math thread"
    assert set(rungs(rows)["round"]) == {1, 2}, "the ladder itself is as it was"


def test_servers_of_others_stand_beside_flask_with_equal_answers(tmp_path: Path) -> None:
    pytest.importorskip("granian")
    server = {
        "engine": "none", "server_name": "another", "request_path": PREDICTION_PATH, "answer": "prediction[1]",
        "server_command": "{{ python }} -m imdb_serving flask --engine none --port {{ port }}",
        "request_body": '{"words": {{ ids }}, "fetch": ["prediction"]}',
    }  # fmt: skip
    ends = {**server, "server_name": "one that ends", "server_command": "{{ python }} -c 'exit(3)' {{ port }}"}
    params = LadderParams(
        engines=["none"], rounds=2, requests=3, run="one", outputs=str(tmp_path), servers=[server, ends]
    )
    said: list[str] = []
    rows = run_ladder(params, said.append)
    names = {row.cell.server for row in rows} - {""}
    assert {"another", "one that ends", f"{PLAIN}granian"} <= names
    assert {row.cell.server for row in rows if row.error} == {"one that ends"}
    assert {row.difference for row in rows if not row.error} == {0.0}
    assert any("FAILED one that ends, none: " in words and "ended at once" in words for words in said)
    measured = [row for row in rows if row.cell.server == "another"]
    assert {(row.cell.client_threads, row.round, row.cell.prepro) for row in measured} == {
        (clients, number, "before") for clients in (1, 2) for number in (1, 2)
    }
    sound = [msgspec.structs.replace(row, status="ok", findings=()) for row in rows if not row.error]
    table = rungs(sound)
    words = text(table)
    assert "Below the line: servers of others in place of flask" in charts.additions(table, tmp_path / "ladder").note
    added = beside_flask(table, ("none", 1)).loc["another"]
    one = [row for row in sound if row.cell.client_threads == 1]
    means = {name: np.mean([row.figures.p50_us for row in one if rung_of(row.cell) == name])
             for name in ("another", "rpc-tcp")}  # fmt: skip
    assert added["total"] == pytest.approx(means["another"])
    assert added["adds"] == pytest.approx(means["another"] - means["rpc-tcp"])
    assert f"{PLAIN}granian" in words
    assert "in place of flask; plain Flask: no visible queue" in words
    assert "in place of flask; requests made before" in words
    cost = _by_ladder(frame(sound), {"mode": "http", "server": "another", "engine": "none", "server_threads": 2,
                                     "math_threads": 1})  # fmt: skip
    assert cost
    assert cost.plain_flask.startswith(PLAIN)
    assert cost.parts == {}
    told = in_words(cost, "none")
    assert "Flask as it comes (no visible queue" in told or "What Flask as it comes" in told
    with pytest.raises(ConfigError, match="servers: unknown parameter 'sever_name'"):
        LadderParams(servers=[{"sever_name": "x"}])
    with pytest.raises(ConfigError, match="servers: name the `engine`"):
        LadderParams(servers=[{"server_name": "x"}])


def test_a_server_that_is_asked_otherwise_is_measured_anew(tmp_path: Path) -> None:
    own = Round("run", 1, 1, "card", "identity", lines_of(4))
    common = {"engine": "none", "server_name": "x", "server_url": "http://127.0.0.1:1"}

    def identity(**more: str) -> str:
        params = LadderParams(engines=["none"], requests=2, rounds=2, servers=[{**common, **more}])
        return servers_beside(params, "none", tmp_path)["x"].round(own, slice(0, 1)).identity

    assert identity(answer="a") == identity(answer="a") != identity(answer="b")


def test_a_rung_whose_requests_fail_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_lines: None
) -> None:
    bad = [Line("made", number, "9 1 2 0") for number in range(1, 13)]  # says nine words, has two
    monkeypatch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: bad)
    monkeypatch.setattr(ladder, "reference_answers", lambda *given: np.full((12, 2), 0.5))
    params = LadderParams(engines=["none"], rounds=2, requests=3, server_threads=2, outputs=str(tmp_path))
    said: list[str] = []
    rows = run_ladder(params, said.append)
    assert {row.status for row in rows} == {"failed"}
    assert any("FAILED rung bare, none, round 1: 15 of 15 requests failed" in words for words in said)


def test_an_engine_that_cannot_be_served_fails_all_its_rungs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_lines: None
) -> None:
    def refuse(*_: object) -> ServerProcess:
        raise ServerStartError("no port is left")

    monkeypatch.setattr(ServerSpec, "process", refuse)
    params = LadderParams(engines=["none"], rounds=2, requests=3, server_threads=2, outputs=str(tmp_path))
    rows = run_ladder(params, lambda text: None)
    assert len(rows) == (len(RUNGS) + 1) * 2
    assert {row.error for row in rows} == {"ServerStartError: no port is left"}


@pytest.mark.parametrize("name", LOCAL)
def test_local_clients_give_the_served_answer(name: str, bundle: Path) -> None:
    feed = {"words": [8, 233, 52]}
    with ServerProcess([str(bundle), "--server-threads", "1"]) as server, connect(server.endpoint) as client:
        served = client.predict(feed)["prediction"]
    with LOCAL[name](EngineSpec("paddle"), bundle) as local:
        assert local.predict(feed)["prediction"].tolist() == served.tolist()


def test_bare_counts_the_engine_alone() -> None:
    workload = shares_of(lines_of(1), 1)[0].workload
    reply = BareClient(NULL, None).call(workload.prepare(0))
    assert [stage.name for stage in reply.stages] == ["op0", "op1"]
    assert [stage.name for stage in InprocClient(NULL, None).call(workload.prepare(0)).stages] == ["op0", "op1", "op2"]


def test_what_json_costs_lies_in_stages() -> None:
    request = shares_of(lines_of(1), 1)[0].workload.prepare(0)
    begun = perf_counter_ns()
    stages = JsonClient(NULL, None).call(request).stages
    assert [stage.name for stage in stages] == ["encode", "parse", "op0", "op1", "op2", "reply", "decode"]
    stamps = [begun, *(stamp for stage in stages for stamp in (stage.start_ns, stage.end_ns)), perf_counter_ns()]
    assert stamps == sorted(stamps)


def test_blocks_against_several_targets_are_interleaved_by_the_same_clients(null_server: ServerProcess) -> None:
    targets = {
        "rpc": functools.partial(connect, null_server.endpoint),
        "inproc": functools.partial(InprocClient, NULL, None),
    }
    with LoadSession(targets, 2, 5.0) as session:
        for target, clients in [("rpc", 2), ("inproc", 1), ("rpc", 1), ("inproc", 2)]:
            records = session.run(target, [positions(5)] * clients)
            assert [len(record.positions) for record in records] == [5] * clients
            assert ("queue" in records[0].columns) == (target == "rpc")


def test_a_client_that_dies_loses_its_block_and_is_back_for_the_next(null_server: ServerProcess) -> None:
    with LoadSession({"rpc": functools.partial(connect, null_server.endpoint)}, 2, 5.0) as session:
        first = session.run("rpc", [positions(5, at=3), positions(5)])
        again = session.run("rpc", [positions(4), positions(4)])
    assert [(len(record.positions), len(record.failures)) for record in first] == [(0, 5), (5, 0)]
    assert [(len(record.positions), len(record.failures)) for record in again] == [(4, 0), (4, 0)]


def test_a_target_that_cannot_be_reached_fails_every_request_with_the_reason() -> None:
    with LoadSession({"http": functools.partial(connect, "http://127.0.0.1:9")}, 1, 1.0) as session:
        (record,) = session.run("http", [positions(2)])
    assert [failure.code for failure in record.failures] == ["unavailable"] * 2
    assert "not sent: no server answers at http://127.0.0.1:9" in record.failures[0].message
