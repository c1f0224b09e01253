"""Templates of commands and requests: what they may name, and what of them is never shown."""

from __future__ import annotations

import json

import pytest

from imdb_serving.errors import ConfigError
from imdb_serving.foreign.templates import Secrets, TextTemplate, hide


def test_a_command_is_rendered() -> None:
    template = TextTemplate(
        "run -w {{ server_threads }} -b {{ host }}:{{ port }}", "c", {"server_threads", "host", "port"}
    )
    assert template.render(server_threads=3, host="::1", port=8) == "run -w 3 -b ::1:8"
    assert template.names == {"server_threads", "host", "port"}


@pytest.mark.parametrize("text", ['say "no"', "ünï ☃", "a\nb\t\\", "</script>", "\ud800"])
def test_a_text_in_json_comes_back_as_it_was(text: str) -> None:
    body = TextTemplate('{"text": {{ text | tojson }}}', "b", {"text"}).render(text=text)
    assert json.loads(body) == {"text": text}


def test_words_for_a_shell_are_quoted() -> None:
    assert TextTemplate("run {{ model | quote }}", "c", {"model"}).render(model="a b") == "run 'a b'"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ server_thread }}", "place: unknown name 'server_thread'; did you mean 'server_threads'"),
        ("{{ server_threads", "place: .*line 1"),
        ("{{ server_threads | nonsense }}", "place: .*nonsense"),
        ("{% if %}", "place: "),
    ],
)
def test_what_is_no_template_is_refused_before_anything_starts(source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TextTemplate(source, "place", {"server_threads"})


@pytest.mark.parametrize(
    "source",
    ["{{ x.__class__.__mro__ }}", "{{ ''.__class__ }}", "{{ x.y.z }}", "{{ 1 / 0 }}", "{{ range(10**9) }}"],
)
def test_what_cannot_be_rendered_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="place: "):
        TextTemplate(source, "place", {"x"}).render(x=1)


def test_the_environment_is_read_and_remembered_for_hiding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    monkeypatch.setenv("EMPTY", "")
    secrets = Secrets()
    template = TextTemplate("Bearer {{ env.TOKEN }}{{ env['EMPTY'] }}", "place", ())
    assert template.render(env=secrets) == "Bearer s3cret"
    assert secrets.values == {"s3cret"}
    assert hide("it said s3cret, s3cret", secrets.values) == "it said ***, ***"


def test_a_value_that_contains_another_is_hidden_whole() -> None:
    assert hide("abcdef abc", {"abc", "abcdef"}) == "*** ***"


def test_a_variable_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"env\.NOT_THERE_AT_ALL: .*export"):
        TextTemplate("{{ env.NOT_THERE_AT_ALL }}", "place", ()).render(env=Secrets())
