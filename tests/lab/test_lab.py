"""The lab without a browser: a real server, real clients, and hands that only say what they want."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import server_that_runs
from waiting import wait_until

from imdb_serving.errors import ConfigError, RequestTimeout, ServerUnavailable
from imdb_serving.lab import Lab, panels
from imdb_serving.lab.controller import State
from imdb_serving.lab.controls import Controls
from imdb_serving.lab.live import numbers
from imdb_serving.lab.settings import Settings
from imdb_serving.lab.testbed import Stretch
from imdb_serving.measurement.cpu_meter import Usage
from imdb_serving.measurement.ledger import Ledger

MakeLab = Callable[..., Lab]
LAB_SECONDS = 90.0


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[MakeLab]:
    """A function that makes a lab, which is stopped behind the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Lab:
            lab = Lab(**{"engine": "none", "most_clients": 4, "outputs": str(tmp_path), **settings})
            stack.callback(lab.stop)
            return lab

        yield make


def running() -> dict[psutil.Process, str]:
    """The children that this process still has, and theirs, with their commands."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ends just now
            found[process] = " ".join(process.cmdline())
    return found


def children() -> list[str]:
    """The commands of the servers and clients that this process still has; resource trackers are Python's own."""
    return [words for words in running().values() if "resource_tracker" not in words]


def test_a_setting_lands_and_clients_change_under_load(make_lab: MakeLab) -> None:
    lab = make_lab(clients=1)
    first = lab.hold()
    endpoint = lab.endpoint
    lab.set(clients=3, batch=2)
    second = lab.hold()
    assert lab.endpoint == endpoint  # the same server
    assert [row.cell.client_threads for row in (first, second)] == [1, 3]
    assert all(row.answered and not row.failed_requests for row in (first, second))
    assert "answers" not in {finding.gate for row in (first, second) for finding in row.findings}
    assert lab.settings.batch == second.cell.batch == 2
    assert set(lab.rows()["client_threads"]) == {1, 3}
    assert len(lab.dots()) == 2
    now = lab.live.now()
    assert now is not None
    assert now.throughput > 0
    assert {"prepro", "queue", "op1", "reply"} <= set(now.stages_us)


def test_an_open_loop_is_offered_at_its_rate(make_lab: MakeLab) -> None:
    lab = make_lab(arrivals="poisson", rate=200.0, clients=1)
    row = lab.hold()
    assert row.figures.offered == pytest.approx(200.0)
    assert row.requests == pytest.approx(600, rel=0.35)  # three seconds of Poisson arrivals
    assert row.unsent == 0


def test_another_server_replaces_the_one_that_runs(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.start()
    assert wait_until(lambda: lab.endpoint, LAB_SECONDS)
    first = lab.endpoint
    lab.set(mode="socket", server_threads=1)
    assert wait_until(lambda: lab.endpoint.startswith("socket://"), LAB_SECONDS)
    assert first.startswith("tcp://")
    assert len([words for words in children() if " serve " in f"{words} "]) == 1


def test_stop_leaves_nothing_running_and_start_begins_anew(make_lab: MakeLab) -> None:
    before = children()
    lab = make_lab()
    for _ in range(2):
        lab.start()
        assert wait_until(lambda: lab.state is State.RUNNING, LAB_SECONDS)
        lab.stop()
        assert lab.state is State.STOPPED
        assert lab.endpoint == ""
        assert [words for words in children() if words not in before] == []


def test_one_lab_runs_at_a_time(make_lab: MakeLab) -> None:
    first, second = make_lab(), make_lab(mode="socket")
    first.start()
    assert wait_until(lambda: first.endpoint, LAB_SECONDS)
    second.start()
    assert wait_until(lambda: second.endpoint, LAB_SECONDS)
    assert first.state is State.STOPPED


def test_a_taken_port_is_told_with_what_to_do(make_lab: MakeLab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lab = make_lab(port=taken.getsockname()[1])
        with pytest.raises(ServerUnavailable, match="port"):
            lab.hold()
        assert lab.state is State.FAILED
        assert "port" in lab.message
    lab.set(port=0)
    assert lab.hold().answered


def test_a_missing_model_is_told_with_the_command_that_makes_it(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(engine="onnxruntime", model=str(tmp_path / "none"))
    with pytest.raises(ServerUnavailable, match=r"imdb-serving train --net cnn --out /"):
        lab.hold()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"client": 2}, "unknown parameter 'client'; did you mean 'clients'", id="mistyped"),
        pytest.param({"engine": "padle"}, "unknown engine|engine: ", id="no engine"),
        pytest.param({"clients": 0}, "clients: must be at least 1", id="no client"),
        pytest.param({"clients": 5}, "clients: at most 4", id="too many clients"),
        pytest.param({"batch": 3}, "batch: expected one of 1, 2, 4", id="odd batch"),
        pytest.param({"arrivals": "poisson", "rate": 0.0}, "rates: expected different numbers above 0", id="no rate"),
        pytest.param({"engine": "folded", "net": "bow"}, "the folded engine runs cnn", id="engine and net"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(make_lab: MakeLab, changes: dict[str, Any], words: str) -> None:
    lab = make_lab()
    before = lab.settings
    with pytest.raises(ConfigError, match=words):
        lab.set(**changes)
    assert lab.settings == before


def test_a_server_that_is_killed_is_told_and_can_be_started_again(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.start()
    assert wait_until(lambda: lab.state is State.RUNNING, LAB_SECONDS)
    (server,) = [process for process, words in running().items() if "serve" in words.split()[:4]]
    server.kill()
    assert wait_until(lambda: lab.state is State.FAILED, LAB_SECONDS)
    assert "the server has ended" in lab.message
    assert "press Start" in lab.message
    lab.start()
    assert wait_until(lambda: lab.state is State.RUNNING, LAB_SECONDS)


def test_a_setting_that_does_not_land_in_time_is_told(make_lab: MakeLab) -> None:
    lab = make_lab()
    with pytest.raises(RequestTimeout, match=r"has no dot after 0\.1 s"):
        lab.hold(timeout=0.1)


def test_a_review_is_explained_word_by_word(make_lab: MakeLab, bundle: Path) -> None:
    lab = make_lab(engine="onnxruntime", model=str(bundle), mode="flask")
    with pytest.raises(ServerUnavailable, match="press Start"):
        lab.explain("good")
    lab.start()
    assert wait_until(lambda: lab.endpoint, LAB_SECONDS)
    told = lab.explain("A wonderful film, not xyzzyx!")
    assert [word.word for word in told.words] == ["a", "wonderful", "film", ",", "not", "xyzzyx", "!"]
    assert [word.known for word in told.words] == [True] * 5 + [False, True]
    assert (told.of, told.likeliest == "positive") == ("positive", told.probability > 0.5)
    assert any(abs(word.change) > 1e-6 for word in told.words)
    page = panels.explained(told)
    assert "[xyzzyx]" in page
    assert "op1" in page
    long = lab.explain("good " * 600)
    assert (len(long.words), long.more) == (512, 88)


def test_the_widgets_follow_the_lab(make_lab: MakeLab, bundle: Path) -> None:
    lab = make_lab(clients=1, model=str(bundle))
    controls = Controls(lab)
    assert "nothing runs" in controls.live.value
    controls.start.click()
    assert wait_until(lambda: "reviews/s" in controls.live.value, LAB_SECONDS)
    assert controls.start.disabled
    assert "ready: the server answers at tcp://" in controls.message.value
    controls.clients.value = 2
    assert wait_until(lambda: "<title" in controls.trace.value, LAB_SECONDS)
    assert lab.settings.clients == 2
    assert "op1" in controls.stages.value
    assert wait_until(lambda: "reads no text" in controls.explained.value, LAB_SECONDS)
    controls.engine.value = "folded"
    controls.net.value = "bow"
    assert "the folded engine runs cnn" in controls.message.value
    assert lab.settings.net == "cnn"
    controls.engine.value = "none"
    assert "the folded engine" not in controls.message.value
    assert (lab.settings.engine, lab.settings.net) == ("none", "bow")  # what was refused comes true with the rest
    controls.stop.click()
    assert "stopped: nothing runs" in controls.message.value
    assert controls.stop.disabled
    assert "nothing runs" in controls.live.value


SOMEONES_REQUEST = {
    "request_path": "/predict",
    "request_body": '{"text": {{ text | tojson }}}',
    "answer": "scores[1]",
}


def test_a_server_of_someone_else_is_under_load(make_lab: MakeLab) -> None:
    with server_that_runs.running() as url:
        lab = make_lab(mode="http", engine="", server_url=url, **SOMEONES_REQUEST)
        first = lab.hold()
        assert lab.endpoint == url
        lab.set(clients=3)
        second = lab.hold()
        with pytest.raises(ConfigError, match="`samples`"):
            lab.set(batch=2)  # its body has room for one
        lab.stop()
        assert server_that_runs.is_listening(int(url.rpartition(":")[2])), "it was not ours to stop"
    assert [(row.cell.server, row.cell.client_threads) for row in (first, second)] == [
        (url.removeprefix("http://"), 2), (url.removeprefix("http://"), 3)
    ]  # fmt: skip
    assert all(row.answered and not row.failed_requests for row in (first, second))
    assert not {"answers", "errors"} & {finding.gate for row in (first, second) for finding in row.findings}
    assert first.figures.server_cpu_us
    now = lab.live.now()
    assert now is not None
    assert now.server is not None
    assert "remote" in now.stages_us
    assert "127.0.0.1:" in lab.dots()[0].cell.server


def test_a_command_is_started_and_its_end_told(make_lab: MakeLab) -> None:
    command = f"{sys.executable} {server_that_runs.SOMEONES} {{{{ port }}}}"
    lab = make_lab(mode="http", engine="", server_command=command, **SOMEONES_REQUEST)
    lab.start()
    assert wait_until(lab.live.now, LAB_SECONDS), lab.message
    server = next(process for process, words in running().items() if words.startswith(command.partition(" {{")[0]))
    server.kill()
    assert wait_until(lambda: lab.state is State.FAILED, LAB_SECONDS)
    assert "the server has ended" in lab.message or "no server" in lab.message


def test_a_url_is_typed_into_the_page(make_lab: MakeLab) -> None:
    lab = make_lab(clients=1)
    controls = Controls(lab)
    assert controls.request.layout.display == "none"
    controls.mode.value = "http"
    assert "needs server.command, or server.url" in controls.message.value
    assert controls.request.layout.display == "flex"
    controls.request_path.value = SOMEONES_REQUEST["request_path"]
    controls.request_body.value = SOMEONES_REQUEST["request_body"]
    controls.answer.value = SOMEONES_REQUEST["answer"]
    with server_that_runs.running() as url:
        controls.server_url.value = url
        assert (lab.settings.mode, lab.settings.engine, controls.engine.value) == ("http", "", "")
        controls.start.click()
        assert wait_until(lambda: "remote" in controls.stages.value, LAB_SECONDS), controls.message.value
        assert wait_until(lambda: "imdb-serving probe" in controls.explained.value, LAB_SECONDS)
        controls.mode.value = "socket"
        assert lab.settings.engine == controls.engine.value == "onnxruntime"
        controls.stop.click()


def test_what_a_server_takes_is_not_known_where_nobody_sees_its_processes() -> None:
    known, unknown = (numbers([Stretch(Settings(), [], Usage(seconds=1.0, is_known=known))]) for known in (True, False))
    assert (known.server, unknown.server) == (0.0, None)
    assert "?" in panels.live(unknown, [])


def test_a_page_that_is_gone_stops_the_server(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdb_serving.lab.controls.AWAY_SECONDS", 0.5)
    lab = make_lab()
    controls = Controls(lab)
    lab.start()
    assert wait_until(lambda: lab.state is State.RUNNING, LAB_SECONDS)
    # Nobody has looked yet: a script, or papermill.
    assert not wait_until(lambda: lab.state is not State.RUNNING, 1.0)
    controls._heartbeat.echo.value += 1
    assert wait_until(lambda: lab.state is State.STOPPED, LAB_SECONDS)
    assert "the page was closed" in lab.message
    assert "the page was closed" in controls.message.value


def test_what_was_measured_is_saved_to_a_ledger(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab()
    lab.hold()
    assert "rows appended to " in lab.save()
    rows = Ledger(tmp_path / "lab").rows()
    assert rows[0].cell.series == "lab"
    assert (tmp_path / "lab" / rows[0].raw).is_file()
