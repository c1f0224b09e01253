"""Our servers beside others: every system in every round, the same reviews, answers checked, nothing left running."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("gunicorn")
pytest.importorskip("uvicorn")

from imdb_serving.errors import ConfigError, DataError, ServerStartError, ServerUnavailable
from imdb_serving.experiment import comparison as bench
from imdb_serving.experiment.baselines import servers
from imdb_serving.experiment.baselines.servers import JsonClient, SocketEchoClient, ZmqEchoClient
from imdb_serving.experiment.comparison import BARE, FILE, WHAT, measure_comparison
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.load.workload import Result
from imdb_serving.measurement.ledger import read_rows
from imdb_serving.measurement.parameters import ComparisonParams
from imdb_serving.report import comparison as shown


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> tuple[Path, list[dict]]:
    """A small comparison with a real engine."""
    folder = tmp_path_factory.mktemp("bench")
    params = ComparisonParams(
        engine="folded", model=str(bundle), workers=2, client_threads=[1, 3], rounds=2, requests=12, run="one"
    )
    return folder, measure_comparison(params, folder, lambda words: None)


def test_every_system_is_measured_in_every_round(measured: tuple[Path, list[dict]]) -> None:
    folder, rows = measured
    cells = {(row["system"], row["client_threads"], row["round"]) for row in rows}
    expected = {(name, clients, r) for name in WHAT if name != BARE for clients in (1, 3) for r in (1, 2)}
    assert cells == expected | {(BARE, 2, 1), (BARE, 2, 2)}
    assert len(rows) == len(cells) == len(read_rows(folder / FILE))
    assert {row["requests"] for row in rows} == {12}
    assert all(row["throughput"] > 0 and row["client_cpu_us"] > 0 and row["p50_us"] > 0 for row in rows)
    assert all((folder / row["raw"]).is_file() for row in rows)


def test_the_tables_name_every_system_and_set_ours_beside_its_like(measured: tuple[Path, list[dict]]) -> None:
    folder, _ = measured
    rows = shown.load(folder)
    words = shown.text(rows)
    for name in WHAT:
        assert words.count(f"\n  {name} ") == 2
    for own, other in shown.BESIDE.items():
        assert f"our {own} is " in words
        assert f" times {other}: " in words
    table = shown.figures(rows, 3)
    assert table.loc["rpc", "of rpc"] == pytest.approx(1)
    assert table.loc[BARE, "of bare"] == pytest.approx(1)
    figure = shown.comparison_figure(rows, "")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["1 client", "3 clients", "CPU of a request, 3 clients"]
    assert "engine folded" in figure.get_suptitle()


def test_ratios_are_those_of_the_rounds_and_not_of_the_means() -> None:
    rows = pd.DataFrame(
        [
            {"system": system, "client_threads": 8, "round": round_, "throughput": rate}
            for round_, (ours, other) in enumerate([(100, 50), (300, 100)])
            for system, rate in (("rpc", ours), ("zmq-echo", other))
        ]
    )
    assert shown.ratio(rows, 8, "rpc", "zmq-echo")[0] == pytest.approx(2.5)


def record(*probabilities: float) -> ClientRecord:
    return ClientRecord(outcomes=[[Result(probability, 1)] for probability in probabilities])


def test_wrong_answers_are_no_speed() -> None:
    right, wrong = [record(0.25, 0.75)], [record(0.25, 0.76)]
    bench._check_answers([({"system": BARE}, right), ({"system": "rpc"}, right), ({"system": "zmq-echo"}, wrong)])
    with pytest.raises(DataError, match="rpc answers otherwise than the bare engine: by 1"):
        bench._check_answers([({"system": BARE}, right), ({"system": "rpc"}, wrong)])


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
        ComparisonParams(**wrong)
