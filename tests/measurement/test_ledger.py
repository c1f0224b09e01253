"""The ledger: append-only, whole lines only, raw samples beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from imdb_serving.cell import Cell, Row
from imdb_serving.errors import DataError
from imdb_serving.load.closed_loop import ClientRecord, FailedRequest
from imdb_serving.measurement.ledger import FILE, Ledger, newest, read_samples


def row(clients: int = 1, **changes: Any) -> Row:
    cell = Cell(engine="none", server_threads=2, client_threads=clients, series=changes.pop("series", "grid"))
    values: dict[str, Any] = {"run": "run-a", "key": cell.key, "cell": cell, "round": 1, "began": "now"}
    return Row(**values | {"seed": 1, "card": "card", **changes})


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


def clients_of(ledger: Ledger) -> list[int]:
    return [one.cell.client_threads for one in ledger.rows()]


def test_rows_come_back_as_written_and_in_that_order(ledger: Ledger) -> None:
    written = [ledger.append(row(clients, error="größer als ‰"), [record(3)]) for clients in (4, 1, 2)]
    assert ledger.rows() == written
    assert len(ledger.path.read_bytes().splitlines()) == 3
    assert msgspec.structs.replace(written[0], raw="") == row(4, error="größer als ‰")


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_short_is_told_and_the_next_row_is_intact(ledger: Ledger, cut: int) -> None:
    for clients in (1, 2):
        ledger.append(row(clients), [record(1)])
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[: -cut - 1])
    survivors = clients_of(ledger)
    assert survivors == [1]
    ledger.append(row(4), [record(1)])
    assert clients_of(ledger) == [1, 4]
    assert ledger.read().skipped == ["ledger.jsonl, line 2: cut short, or no row at all"]


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (b"\xff\xfe\n", "cut short, or no row at all"),
        (b"null\n", "cut short, or no row at all"),
        (b"[1]\n", "cut short, or no row at all"),
        (b'{"schema": 99}\n', "a row of schema 99; this version reads 2"),
        (b'{"schema": 1, "mode": "rpc"}\n', "a row of schema 1; this version reads 2"),
        (b'{"schema": 2, "run": 7}\n', "damaged: "),
    ],
)
def test_lines_that_are_no_row_are_skipped_and_told(ledger: Ledger, junk: bytes, why: str) -> None:
    ledger.append(row(1), [])
    with ledger.path.open("ab") as stream:
        stream.write(junk)
    ledger.append(row(2), [])
    assert clients_of(ledger) == [1, 2]
    (said,) = ledger.read().skipped
    assert said.startswith(f"ledger.jsonl, line 2: {why}")


def test_a_row_of_an_older_version_has_the_engine_by_its_present_name(ledger: Ledger) -> None:
    ledger.append(row(1), [])
    content = ledger.path.read_bytes()
    assert b'"engine":"none"' in content
    ledger.path.write_bytes(content.replace(b'"engine":"none"', b'"engine":"null"'))
    assert [one.cell.engine for one in ledger.rows()] == ["none"]


def test_the_latest_run_is_the_one_that_wrote_last(ledger: Ledger) -> None:
    for run, clients in (("a", 1), ("b", 1), ("b", 2), ("a", 2)):
        ledger.append(row(clients, run=run), [])
    assert [(one.run, one.cell.client_threads) for one in ledger.latest_run()] == [("a", 1), ("a", 2)]


def test_a_failed_cell_that_was_tried_again_counts_once() -> None:
    first, again = row(status="failed", error="gone"), row(status="ok")
    assert newest([first, row(2), again]) == [row(2), again]
    assert newest([again, first]) == [again]  # what was measured stays
    assert len(newest([row(round=1), row(round=2)])) == 2


def test_no_ledger_and_no_row_are_errors_that_say_what_to_do(ledger: Ledger) -> None:
    with pytest.raises(DataError, match=r"no ledger at .*; run `imdb-serving sweep` first"):
        ledger.read()
    assert ledger.rows() == []
    ledger.folder.mkdir()
    (ledger.folder / FILE).write_text('{"cut', encoding="utf-8")
    with pytest.raises(DataError, match="no complete row"):
        ledger.latest_run()


def test_raw_samples_have_one_row_a_request(ledger: Ledger) -> None:
    lost = ClientRecord(failures=[FailedRequest(0, "timeout", "late")])
    kept = ledger.append(row(3), [record(4), lost, record(2, 100)])
    samples = read_samples(ledger.folder, kept.raw)
    assert list(samples.columns) == ["client", "position", "start_ns", "prepro_ns", "total_ns"]
    assert samples["client"].tolist() == [0, 0, 0, 0, 2, 2]
    assert samples["position"].tolist() == [0, 1, 2, 3, 0, 1]
    assert samples["start_ns"].tolist() == [0, 1, 2, 3, 100, 101]
    assert samples["total_ns"].tolist() == [1, 3, 5, 7, 1, 3]
    assert list(read_samples(ledger.folder, kept.raw, ["total_ns"]).columns) == ["total_ns"]


def test_a_cell_without_an_answer_can_be_stored(ledger: Ledger) -> None:
    kept = ledger.append(row(status="failed"), [])
    assert read_samples(ledger.folder, kept.raw).empty


def test_raw_samples_that_are_gone_or_damaged_are_told(ledger: Ledger) -> None:
    kept = ledger.append(row(), [record(1)])
    (ledger.folder / kept.raw).write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"cannot read the raw samples .*; measure the cell again"):
        read_samples(ledger.folder, kept.raw)
    with pytest.raises(DataError, match="cannot read"):
        read_samples(ledger.folder, "samples/gone.parquet")


def test_each_cell_and_round_has_raw_samples_of_its_own(ledger: Ledger) -> None:
    for series in ("grid", "twin"):
        for clients in (1, 2):
            for round_ in (1, 2):
                ledger.append(row(clients, round=round_, series=series), [record(1)])
    assert len({one.raw for one in ledger.rows()}) == 8
