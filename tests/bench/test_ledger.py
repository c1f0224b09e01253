"""The ledger: append-only, whole lines only, raw samples beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdb_serving.bench.ledger import FILE, Ledger
from imdb_serving.bench.loadgen import ClientRecord, FailedRequest
from imdb_serving.errors import DataError


def row(clients: int = 1, **changes: Any) -> dict[str, Any]:
    cell = {
        "mode": "rpc",
        "engine": "null",
        "http_client": "keep-alive",
        "server_threads": 2,
        "client_threads": clients,
    }
    return {"run": "run-a", "round": 1, **cell, "status": "ok", **changes}


def record(requests: int, start: int = 0) -> ClientRecord:
    return ClientRecord(
        columns=("prepro", "total"),
        positions=list(range(requests)),
        starts_ns=np.arange(start, start + requests),
        durations=np.arange(2 * requests).reshape(-1, 2),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "sweep")


def test_rows_come_back_in_the_order_written(ledger: Ledger) -> None:
    written = [row(clients, note="größer als ‰") for clients in (4, 1, 2)]
    for one in written:
        ledger.append(one, [record(3)])
    read = ledger.rows()
    assert [{name: one[name] for name in written[0]} for one in read] == written
    assert len(ledger.path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_short_is_skipped_and_the_next_row_is_intact(ledger: Ledger, cut: int) -> None:
    for clients in (1, 2):
        ledger.append(row(clients), [record(1)])
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[: -cut - 1])
    survivors = [one["client_threads"] for one in ledger.rows()]
    assert survivors == [1] if cut > 1 else survivors
    ledger.append(row(4), [record(1)])
    assert [one["client_threads"] for one in ledger.rows()] == [*survivors, 4]


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"null\n", b"[1]\n", b'{"schema": 99}\n', b"\n\n"])
def test_lines_that_are_no_row_are_skipped(ledger: Ledger, junk: bytes) -> None:
    ledger.append(row(1), [])
    with ledger.path.open("ab") as stream:
        stream.write(junk)
    ledger.append(row(2), [])
    assert [one["client_threads"] for one in ledger.rows()] == [1, 2]


def test_the_latest_run_is_the_one_that_wrote_last(ledger: Ledger) -> None:
    for run, clients in (("a", 1), ("b", 1), ("b", 2), ("a", 2)):
        ledger.append(row(clients, run=run), [])
    assert [(one["run"], one["client_threads"]) for one in ledger.latest_run()] == [("a", 1), ("a", 2)]


def test_no_ledger_and_no_row_are_errors_that_say_what_to_do(ledger: Ledger) -> None:
    with pytest.raises(DataError, match=r"no ledger at .*; run `imdb-serving sweep` first"):
        ledger.rows()
    ledger.folder.mkdir()
    (ledger.folder / FILE).write_text('{"cut', encoding="utf-8")
    with pytest.raises(DataError, match="no complete row"):
        ledger.latest_run()


def test_raw_samples_have_one_row_a_request_and_need_no_pickle(ledger: Ledger) -> None:
    ledger.append(row(3), [record(4), ClientRecord(failures=[FailedRequest(0, "timeout", "late")]), record(2, 100)])
    with np.load(ledger.folder / ledger.rows()[0]["raw"], allow_pickle=False) as raw:
        assert raw["columns"].tolist() == ["prepro", "total"]
        assert raw["client"].tolist() == [0, 0, 0, 0, 2, 2]
        assert raw["position"].tolist() == [0, 1, 2, 3, 0, 1]
        assert raw["start_ns"].tolist() == [0, 1, 2, 3, 100, 101]
        assert raw["duration_ns"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3]]


def test_a_cell_without_an_answer_can_be_stored(ledger: Ledger) -> None:
    ledger.append(row(status="failed"), [])
    with np.load(ledger.folder / ledger.rows()[0]["raw"], allow_pickle=False) as raw:
        assert raw["columns"].size == 0


def test_each_cell_has_raw_samples_of_its_own(ledger: Ledger) -> None:
    for clients in (1, 2):
        for round_ in (1, 2):
            ledger.append(row(clients, round=round_), [record(1)])
    assert len({one["raw"] for one in ledger.rows()}) == 4
