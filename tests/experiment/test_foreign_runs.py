"""Servers of someone else, measured as our own are: from a command or a URL to rows that can be believed, or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from server_that_runs import SOMEONES, running
from waiting import wait_until

from imdb_serving.cell import CALIBRATION, Row
from imdb_serving.errors import ServingError
from imdb_serving.experiment.grid import run_grid
from imdb_serving.foreign.process import free_port
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.parameters import GridParams

TEXTS = '{"texts": {{ samples | map(attribute="text") | list | tojson }}}'
JSON = '{"text": {{ text | tojson }}}'


def params(folder: Path, *faults: str, **changes: Any) -> GridParams:
    values: dict[str, Any] = {
        "mode": "http",
        "server_command": f"{{{{ python }}}} {SOMEONES} {{{{ port }}}}",
        "server_environment": {"FAULT": ",".join(faults)},
        "server_ready_seconds": 20.0,
        "request_path": "/predict",
        "request_body": JSON,
        "answer": "scores[1]",
        "samples": 60,
        "client_threads": [1, 3],
        "server_threads": 1,
        "outputs": str(folder),
    }
    return GridParams(**values | changes)


def measured(folder: Path, *faults: str, **changes: Any) -> list[Row]:
    return run_grid(params(folder, *faults, **changes), lambda _line: None)


def one(folder: Path, *faults: str, **changes: Any) -> Row:
    (row,) = measured(folder, *faults, **{"client_threads": [2]} | changes)
    return row


def gates(row: Row) -> set[str]:
    """The gates that a row did not pass, less those that a busy machine fails."""
    return {finding.gate for finding in row.findings} - {"alone", "clients", "little", "stages", "throttled"}


def test_a_command_is_measured_as_a_server_of_ours_is(tmp_path: Path) -> None:
    rows = measured(tmp_path, samples=1200)  # for the CPU time, which is counted in hundredths of a second
    assert [row.error for row in rows] == ["", ""]
    assert [(row.cell.server, row.cell.client_threads, row.answered) for row in rows] == [
        ("someones_server", 1, 1200),
        ("someones_server", 3, 1200),
    ]
    for row in rows:
        assert row.stages == ("encode", "remote", "decode")
        assert gates(row) == set()
        assert row.difference == 0.0
        assert row.accuracy is None  # the model is not ours
        assert row.figures.server_cpu_us
        assert row.figures.server_memory_mib
        assert row.means_us["prepro"] > 0  # what rendering takes, though it is not in the window
        parts = sum(row.means_us[name] for name in ("prepro", "client_infer", "postpro"))
        assert row.means_us["total"] == pytest.approx(parts, rel=0.01)
    calibrated = [row for row in Ledger(tmp_path / "adhoc").rows() if row.cell.series == CALIBRATION]
    assert {row.cell.client_threads for row in calibrated} == {1, 3}
    assert all(row.figures.of_ceiling for row in rows)


def test_the_servers_output_is_kept_and_says_where_it_is(tmp_path: Path) -> None:
    row = one(tmp_path, "die")
    assert "no such model: I end" in row.error
    (log,) = (tmp_path / "adhoc" / "servers").glob("*.log")
    assert str(log) in row.error


@pytest.mark.parametrize(
    ("faults", "changes", "words"),
    [
        ("deaf", {"server_ready_seconds": 0.5}, "was not ready in 0.5 s"),
        ("text", {}, "the answer is not JSON"),
        ("redirect", {}, "status 307, to /elsewhere; write that as the path"),
        ("refuse", {}, "status 429: too many"),
        ("", {"answer": "scores[7]"}, "finds nothing in the answer; the answer begins with"),
        ("", {"batch": 3, "request_body": TEXTS, "answer": "scores[0]"}, "expected a list of 3 values, one a sample"),
    ],
)  # fmt: skip
def test_what_is_of_no_use_fails_before_any_load(
    tmp_path: Path, faults: str, changes: dict[str, Any], words: str
) -> None:
    row = one(tmp_path, faults, **changes)
    assert row.answered == 0 or not words
    assert words in row.error


def test_failures_are_counted_by_kind_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    row = one(tmp_path, "sometimes,garbled", samples=200)
    assert {"errors"} <= gates(row)
    assert "status 429" in row.error
    assert "unreadable" in row.error
    assert row.failed_requests == row.requests - row.answered > 10


def test_a_connection_that_is_closed_without_an_answer_is_a_failure(tmp_path: Path) -> None:
    row = one(tmp_path, "close", samples=200)
    assert "closed the connection without an answer" in row.error
    assert 0 < row.failed_requests < 50


def test_a_server_that_answers_the_same_input_differently_is_told(tmp_path: Path) -> None:
    row = one(tmp_path, "random", passes=2)
    assert gates(row) == {"answers"}
    assert "the first one to the same input" in row.why
    again = one(tmp_path, "random")
    assert gates(again) == {"answers"}


def test_a_batch_is_one_request_with_an_answer_for_each(tmp_path: Path) -> None:
    row = one(
        tmp_path,
        batch=4,
        request_body=TEXTS,
        answer="scores[*][1]",
        passes=2,
        samples=16,
    )
    assert (row.error, row.answered, row.requests) == ("", 32, 8)
    assert row.difference == 0.0


def test_rows_of_a_file_are_sent(tmp_path: Path) -> None:
    data = tmp_path / "own.csv"
    data.write_text("title,body\n" + "".join(f"t{n},{'x' * n}\n" for n in range(1, 21)), encoding="utf-8")
    body = '{"text": {{ (row.title ~ row.body) | tojson }}}'
    row = one(tmp_path, data=str(data), request_body=body)
    assert (row.error, row.answered, row.difference) == ("", 60, 0.0)
    kept = tmp_path / "adhoc" / "answers"
    values = msgspec.json.decode(next(kept.glob("answers-*.json")).read_bytes())
    assert sorted(set(values.values())) == pytest.approx(sorted({(len(f"t{n}") + n) / 97 for n in range(1, 21)}))
    data.write_text("title,body\na,b\n", encoding="utf-8")  # another content has answers of its own
    assert one(tmp_path, data=str(data), request_body=body).difference == 0.0
    assert len(list(kept.glob("answers-*.json"))) == 2
    data.write_text("title,lead\na,b\n", encoding="utf-8")
    assert "own.csv has the columns title, lead; say which has the text" in one(tmp_path, data=str(data)).error
    assert one(tmp_path, data=str(data), text_column="lead", samples=3, client_threads=[1]).error == ""
    mixed = tmp_path / "own.jsonl"
    mixed.write_text('{"text": "a"}\n{"text": 3, "n": 1}\n', encoding="utf-8")
    assert "own.jsonl, line 2: text is 3, and no text" in one(tmp_path, data=str(mixed)).error


def test_without_an_expression_status_200_is_an_answer(tmp_path: Path) -> None:
    row = one(tmp_path, answer="")
    assert (row.error, row.answered, row.difference) == ("", 60, 0.0)


def test_an_open_loop_sends_at_its_times(tmp_path: Path) -> None:
    row = one(tmp_path, arrivals="poisson", rates=[100.0], samples=100)
    assert (row.error, row.answered) == ("", 100)
    assert row.figures.service_p50_us


@pytest.mark.parametrize(
    ("faults", "changes", "words"),
    [
        ("hang", {"timeout": 0.2}, "no reply"),
        ("", {"server_ready": "/nowhere"}, "/nowhere answered with status 404"),
        ("", {"protocol": "oip", "server_model": "other", "request_body": ""},
         "/v2/models/other answered with status 404; is server.model its name?"),
    ],
)  # fmt: skip
def test_one_that_runs_and_is_of_no_use_is_told_at_once(
    tmp_path: Path, faults: str, changes: dict[str, Any], words: str
) -> None:
    with running(FAULT=faults) as url:
        row = one(tmp_path, server_command="", server_environment={}, server_url=url, **changes)
    assert row.answered == 0
    assert words in row.error


def test_a_server_that_runs_already_is_found_by_its_port_and_left_running(tmp_path: Path) -> None:
    with running() as url:
        row = one(tmp_path, server_command="", server_url=url, samples=1200)
        again = one(tmp_path / "again", server_command="", server_url=url)
    assert (row.error, again.error) == ("", "")
    assert row.figures.server_cpu_us
    assert row.cell.server == url.removeprefix("http://")


def test_a_url_where_nobody_is_is_told(tmp_path: Path) -> None:
    row = one(tmp_path, server_command="", server_url=f"http://127.0.0.1:{free_port('127.0.0.1')}")
    assert "no server answers" in row.error
    assert "server.command" in row.error


@pytest.mark.parametrize("faults", ["token", "token,tell,sometimes"])
def test_what_comes_from_the_environment_is_nowhere(
    tmp_path: Path, faults: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret-t0ken")
    headers = {"Authorization": "Bearer {{ env.TOKEN }}"}
    row = one(tmp_path, faults, request_headers=headers, samples=200)
    assert row.answered
    monkeypatch.setenv("OTHER", "wr0ng-t0ken")
    wrong = one(tmp_path / "wrong", "token", request_headers={"Authorization": "Bearer {{ env.OTHER }}"})
    assert 'status 401: {"error": "who are you, Bearer ***?"}' in wrong.error
    said = msgspec.json.encode([row, wrong]) + b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )
    assert b"-t0ken" not in said


def test_an_engine_of_ours_is_compared_with(tmp_path: Path) -> None:
    """This one answers other probabilities than the engine that it is said to run."""
    row = one(tmp_path, engine="none")
    assert gates(row) == {"answers"}
    assert "leave `engine` out" in row.why
    assert row.accuracy is not None


def test_a_server_with_tls_is_measured_by_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ceiling is the library's: calibrated with it, and lower."""
    monkeypatch.setenv("SSL_CERT_FILE", str(SOMEONES.with_name("for_tests_only.pem")))
    url = f"https://127.0.0.1:{free_port('127.0.0.1')}"
    row = one(tmp_path, "tls", server_command=f"{{{{ python }}}} {SOMEONES} {url.rpartition(':')[2]}", server_url=url)
    assert (row.error, row.answered, row.cell.endpoint) == ("", 60, "https")
    assert row.figures.of_ceiling
    failed = one(tmp_path, "tls", "sometimes", server_url=url, samples=200,
                 server_command=f"{{{{ python }}}} {SOMEONES} {url.rpartition(':')[2]}")  # fmt: skip
    assert "status 429" in failed.error


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{free_port('127.0.0.1')}"
    row = one(tmp_path, "tls", server_command=f"{{{{ python }}}} {SOMEONES} {url.rpartition(':')[2]}", server_url=url,
              server_ready_seconds=2.0)  # fmt: skip
    assert "no server that can be trusted" in row.error
    assert "certificate verify failed" in row.error


def test_a_proxy_that_the_environment_names_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(FAULT="proxy") as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        row = one(tmp_path, server_command="", server_url="http://far.invalid:81", server_remote=True)
    assert (row.error, row.answered) == ("", 60)
    assert row.figures.server_cpu_us is None
    first = next((tmp_path / "adhoc" / "answers").glob("answers-*.json")).read_text()
    assert set(first.strip("{}").replace('"', "").split(",")) == {f"{n}:0.25" for n in range(60)}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("kind", "batch", "answer"), [
    ("texts", 1, "outputs[0].data[1]"), ("words", 1, "outputs[0].data[1]"), ("words", 4, "outputs[0].data[1::2]"),
])  # fmt: skip
def test_the_open_inference_protocol_is_spoken(
    tmp_path: Path, kind: str, batch: int, answer: str, *, binary: bool
) -> None:
    row = one(
        tmp_path, kind, protocol="oip", server_model="scores", request_body="", request_path="/", answer=answer,
        request_binary=binary, batch=batch, samples=24, passes=2,
    )  # fmt: skip
    assert (row.error, row.answered, row.difference) == ("", 48, 0.0)
    first = next((tmp_path / "adhoc" / "answers").glob("answers-*.json")).read_bytes()
    values = msgspec.json.decode(first)
    assert len(values) == 24
    assert len(set(values.values())) > 5


def test_the_published_bodies_are_spoken_with_our_own_server_as_anyones(tmp_path: Path) -> None:
    for batch in (1, 3):
        row = one(
            tmp_path, protocol="paddle", request_body="", request_path="/", answer="", batch=batch, engine="none",
            server_command="imdb-serving flask --engine none --server-threads {{ server_threads }} --port {{ port }}",
            samples=30,
        )  # fmt: skip
        assert (row.error, row.answered, row.difference) == ("", 30, 0.0)


def test_a_missing_variable_fails_the_cells_with_its_name(tmp_path: Path) -> None:
    row = one(tmp_path, request_headers={"X": "{{ env.NOT_THERE_AT_ALL }}"})
    assert "env.NOT_THERE_AT_ALL" in row.error


def test_a_run_that_failed_leaves_no_process(tmp_path: Path) -> None:
    import psutil

    one(tmp_path, "text")
    assert wait_until(
        lambda: not [p for p in psutil.Process().children(recursive=True) if "guard.py" in " ".join(p.cmdline())]
    )


def test_errors_of_this_room_are_ours() -> None:
    from imdb_serving.errors import UnexpectedAnswer

    assert issubclass(UnexpectedAnswer, ServingError)
