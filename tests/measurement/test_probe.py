"""One request to a server of someone else, before a sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imdb_serving.cli import main
from imdb_serving.foreign.process import free_port
from imdb_serving.measurement.probe import numbers_in

SOMEONES = Path(__file__).parent.parent / "foreign" / "someones_server.py"
FILE = f"""
mode: http
server:
  command: '{sys.executable} {SOMEONES} {{{{ port }}}}'
  environment: {{FAULT: "FAULTS"}}
  ready_seconds: 20
request:
  path: /predict
  body: '{{"text": {{{{ text | tojson }}}}}}'
  headers: {{Authorization: "Bearer {{{{ env.TOKEN }}}}"}}
answer: scores[1]
server_threads: [1]
"""


def probe(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["probe", *arguments])


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret-t0ken")


def of_file(folder: Path, faults: str, *arguments: str) -> Result:
    path = folder / "own.yaml"
    path.write_text(FILE.replace("FAULTS", faults), encoding="utf-8")
    found = probe("--params", str(path), *arguments)
    assert "t0ken" not in found.output
    return found


def test_it_shows_what_was_sent_what_came_and_what_was_made_of_it(tmp_path: Path) -> None:
    found = of_file(tmp_path, "token")
    assert found.exit_code == 0, found.output
    assert "server: someones_server, http://127.0.0.1:" in found.output
    assert "request: POST /predict, " in found.output
    assert '{"text": "' in found.output
    assert "answer: status 200" in found.output
    assert "scores[1]: 0." in found.output
    assert found.output.endswith("this can be measured\n")


@pytest.mark.parametrize(
    ("faults", "more", "words"),
    [
        ("", ["--answer", "score[1]"], "score[1] finds nothing in the answer.*numbers in it: scores[0], scores[1]"),
        ("", ["--answer", "scores[["], "JMESPath"),
        ("text", [], "the answer is not JSON"),
        ("token", ["--header", "Authorization: Bearer other"], "status 401"),
        ("redirect", [], "status 307, to /elsewhere; write that as the path"),
        ("die", [], "no such model: I end"),
        ("", ["--body", "{{ txt }}"], "did you mean 'text'"),
        ("", ["--header", "nonsense"], "expected 'NAME: VALUE'"),
    ],
)  # fmt: skip
def test_it_says_what_to_mend(tmp_path: Path, faults: str, more: list[str], words: str) -> None:
    found = of_file(tmp_path, faults, *more)
    assert found.exit_code == 2
    before, _, after = words.partition(".*")
    assert before in found.output
    assert after in found.output


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    found = of_file(tmp_path, "", "--body", '{"text": "a", "more": "\x9b2J\x7f"}')
    assert '"more": ".2J."' in found.output
    assert "\x9b" not in found.output


def test_a_server_that_answers_differently_is_told(tmp_path: Path) -> None:
    found = of_file(tmp_path, "random")
    assert "answers the same input differently" in found.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a URL, or --params FILE"),
        ([f"http://127.0.0.1:{free_port('127.0.0.1')}"], "no server answers"),
        (["http://192.0.2.1"], "not this machine"),
        (["nonsense"], "server.url"),
        (["--params", "params/default.yaml"], "no grid has mode http"),
    ],
)
def test_without_a_server_it_says_so(arguments: list[str], words: str) -> None:
    found = probe(*arguments)
    assert (found.exit_code, words in found.output) == (2, True), found.output


def test_numbers_in_an_answer_are_found_with_their_expressions() -> None:
    body = b'{"a": [1, {"b c": 2.5}], "d": true, "e": "3", "f": {"g": 4}}'
    assert list(numbers_in(body)) == ["a[0]", 'a[1]."b c"', "f.g"]
    assert list(numbers_in(b"0.5")) == ["@"]
    assert list(numbers_in(b"<html>")) == []
