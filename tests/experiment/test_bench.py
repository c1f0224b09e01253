"""Our servers beside others: every system in every round, the same reviews, answers checked, nothing left running."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("gunicorn")
pytest.importorskip("uvicorn")

from imdb_serving.cell import Finding, Row
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import BadRequest, ConfigError, DataError, ServerStartError, ServerUnavailable
from imdb_serving.experiment import bench
from imdb_serving.experiment.baselines import light_clients, servers
from imdb_serving.experiment.baselines.servers import JsonClient, SocketEchoClient, ZmqEchoClient
from imdb_serving.experiment.bench import BARE, LIGHT, WHAT, measure_bench, require_sound, systems_of
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.parameters import BenchParams
from imdb_serving.protocol import wire
from imdb_serving.protocol.requests import make_request
from imdb_serving.report import bench as shown
from imdb_serving.server_process import ServerSpec


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> tuple[Path, list[Row]]:
    """A small comparison with a real engine."""
    folder = tmp_path_factory.mktemp("bench")
    params = BenchParams(
        engine="folded", model=str(bundle), workers=2, client_threads=[1, 3], rounds=2, requests=12, run="one"
    )
    return folder, measure_bench(params, folder, lambda words: None)


def test_every_system_is_measured_in_every_round(measured: tuple[Path, list[Row]]) -> None:
    folder, rows = measured
    cells = {(row.cell.mode, row.cell.client_threads, row.round) for row in rows}
    expected = {(name, clients, r) for name in WHAT if name != BARE for clients in (1, 3) for r in (1, 2)}
    assert cells == expected | {(BARE, 2, 1), (BARE, 2, 2)}
    assert len(rows) == len(cells) == len(Ledger(folder).rows())
    assert {row.requests for row in rows} == {12}
    assert all(row.figures.throughput > 0 and row.figures.client_cpu_us and row.figures.p50_us for row in rows)
    assert all((folder / row.raw).is_file() for row in rows)
    unread = [row for row in rows if row.cell.mode.endswith("echo") or row.cell.mode in LIGHT]
    assert {row.difference for row in unread} == {None}
    assert all(row.difference < 1e-4 for row in rows if row not in unread)
    assert {row.cell.server_processes for row in rows} == {1, 2}


def test_the_seed_decides_the_order_within_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []

    def planned(blocks: object, rounds: int, order: str, *others: object) -> None:
        orders.append(order)
        raise InterruptedError

    monkeypatch.setattr(bench, "left_of", planned)
    for seed in (1, 1, 2):
        params = BenchParams(workers=1, client_threads=[1], seed=seed, run="one")
        with pytest.raises(InterruptedError):
            measure_bench(params, tmp_path, lambda words: None)
    assert orders[0] == orders[1] != orders[2]


def test_the_tables_name_every_system_and_set_ours_beside_its_like(measured: tuple[Path, list[Row]]) -> None:
    folder, _ = measured
    rows = shown.load(folder)
    words = shown.text(rows)
    for name in WHAT:
        assert words.count(f"\n  {name} ") == 2
    for own, other in shown.BESIDE.items():
        assert f"our {own} is " in words
        assert f" times {other}: " in words
    for mode in ("socket", "rpc"):
        assert f"our {mode} in 2 processes is " in words
    table = shown.figures(rows, 3)
    assert table.loc["rpc", "of rpc"] == pytest.approx(1)
    assert table.loc[BARE, "of bare"] == pytest.approx(1)
    charts = shown.charts(rows, "")
    figure = charts.figure(charts.note)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["1 client", "3 clients", "CPU of a request, 3 clients"]
    assert "engine folded" in figure.get_suptitle()


def test_ratios_are_those_of_the_rounds_and_not_of_the_means() -> None:
    rows = pd.DataFrame(
        [
            {"mode": system, "client_threads": 8, "round": round_, "throughput": rate}
            for round_, (ours, other) in enumerate([(100, 50), (300, 100)])
            for system, rate in (("rpc", ours), ("zmq-echo", other))
        ]
    )
    assert shown.ratio(rows, 8, "rpc", "zmq-echo")[0] == pytest.approx(2.5)


def test_more_cores_are_computed_from_the_cpu_time_of_a_request() -> None:
    shared = {"client_threads": 8, "server_cpu_us": 200.0, "throughput": 1.0}
    rows = pd.DataFrame(
        [
            {"mode": mode, "round": round_, **shared, **(changes or {})}
            for round_ in (1, 2, 3)
            for mode, changes in (
                ("rpc", None),
                ("socket", None),
                (BARE, {"client_threads": 2, "throughput": 20_000.0}),
            )
        ]
    )
    assert shown.on_cores(rows, 8, "socket", 48).mean == pytest.approx(48 / 200e-6)
    assert shown.on_cores(rows, 8, "rpc", 1).mean == pytest.approx(1 / 200e-6)
    assert shown.on_cores(rows, 8, "rpc", 48).mean == pytest.approx(1 / 100e-6)  # one process takes all in
    rows.loc[rows["round"] == 2, "server_cpu_us"] = 0.0
    assert shown.on_cores(rows, 8, "socket", 48).mean == pytest.approx(48 / 200e-6)
    rows["server_cpu_us"] = 0.0
    assert np.isnan(shown.on_cores(rows, 8, "socket", 48).mean)


def test_wrong_answers_are_no_speed(measured: tuple[Path, list[Row]]) -> None:
    row = next(row for row in measured[1] if row.cell.mode == "rpc")
    require_sound(row)
    require_sound(msgspec.structs.replace(row, findings=(Finding("alone", "others used 0.9 cores"),)))
    wrong = msgspec.structs.replace(row, findings=(Finding("answers", "one is off by 1.0e-02"),))
    with pytest.raises(DataError, match="rpc, engine folded, 1 client: answers: one is off by"):
        require_sound(msgspec.structs.replace(wrong, cell=msgspec.structs.replace(row.cell, client_threads=1)))
    with pytest.raises(DataError, match=r"rpc, .*: 3 of 12 requests failed"):
        require_sound(msgspec.structs.replace(row, error="3 of 12 requests failed"))


def test_a_baseline_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = servers.Baseline("", lambda workers, port: ["-c", "raise SystemExit('no such thing')"], JsonClient, True)
    with (
        pytest.raises(ServerStartError, match="did not start: no such thing"),
        servers.running(broken, 1, "none", None),
    ):
        pytest.fail("it cannot run")


@pytest.mark.parametrize("kind", [JsonClient, SocketEchoClient, ZmqEchoClient])
def test_a_baseline_that_is_gone_is_told(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdb_serving.experiment.baselines.servers.BaselineClient.timeout", 0.2)
    with pytest.raises(ServerUnavailable), kind(servers._free_port()) as client:
        client.ask(np.array([1], dtype=np.int64))


def test_an_engine_that_holds_the_lock_has_no_choice_of_processes() -> None:
    assert not set(systems_of(BenchParams(engine="paddle"))) & set(LIGHT)
    assert "light-socket-2" not in systems_of(BenchParams(workers=1))
    assert set(systems_of(BenchParams())) == set(WHAT)


@pytest.mark.parametrize("mode", ["rpc", "socket"])
def test_a_light_client_tells_what_is_wrong(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.array([1, 2, 3], dtype=np.int64)
    right, wrong = make_request([{"words": words}], ("prediction",)), make_request([{"words": words}], ("no such",))
    monkeypatch.setattr(light_clients, "TIMEOUT_MS", 2000.0)
    messages = [wire.encode_request(request, 1, 5000.0) for request in (right, wrong)]
    with (
        ServerSpec(mode, EngineSpec("none")).process() as server,
        light_clients.light_client(server.endpoint) as client,
    ):
        assert client.hello().engine == "none"
        for _ in range(light_clients.CHECK_EVERY):
            assert [stage.name for stage in client.call(messages[0]).stages] == ["exchange"]
        for _ in range(light_clients.CHECK_EVERY - 1):
            client.call(messages[1])
        with pytest.raises(BadRequest, match="no such"):
            client.call(messages[1])
        server.stop()
        with pytest.raises(ServerUnavailable, match="does not answer"):
            client.call(messages[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"engine": "nul"}, "unknown value 'nul'"),
        ({"rounds": 1}, "an interval needs at least 2"),
        ({"client_threads": [100], "requests": 50}, "too few for so many clients"),
        ({"workers": 0}, "workers: must be at least 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BenchParams(**wrong)
