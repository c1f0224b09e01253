"""Cells that are compared are measured on machines alike; those that are not are named, with what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from imdb_serving.cluster.survey import FILE, Survey, choose, difference, read_survey, write_survey
from imdb_serving.errors import ConfigError, DataError


def survey(**cards: str) -> Survey:
    """Nodes by name, each with the card of one model; without a model it is the machine's letter."""
    return Survey({name: {"": card[0], "model": card} for name, card in cards.items()}, dict.fromkeys(cards, 4.0))


def test_servers_and_clients_are_of_the_largest_group_that_is_alike() -> None:
    found = survey(a="x1", b="y1", c="y1", d="y1")
    assert choose(found, ["a", "b", "c", "d"], "model", 1, 1) == (["b", "c", "d"], ["b", "c", "d"])
    assert choose(found, ["a", "b", "c", "d"], "model", 1, 0) == (["b", "c", "d"], ["b", "c", "d"])


def test_where_too_few_are_alike_servers_are_and_so_are_clients() -> None:
    found = survey(a="x1", b="y1", c="y1", d="z1", e="z1")
    assert choose(found, list("abcde"), "model", 2, 2) == (["b", "c"], ["d", "e"])
    assert choose(found, list("abc"), "model", 2, 1) == (["b", "c"], ["a"])


def test_servers_whose_engine_runs_otherwise_are_not_alike_and_clients_are() -> None:
    found = survey(a="x1", b="x2", c="x3")
    assert choose(found, list("abc"), "model", 1, 2) == (["a"], ["b", "c"])


def test_nodes_that_ray_was_told_of_otherwise_are_not_alike() -> None:
    found = survey(a="x1", b="x1")
    found.cpus["b"] = 2.0
    with pytest.raises(ConfigError, match="needs 2 nodes, 2 of them with servers and alike; there are 2, 1 of them"):
        choose(found, ["a", "b"], "model", 2, 0)


def test_nodes_that_are_gone_or_were_not_looked_at_are_not_chosen() -> None:
    found = survey(a="x1", b="x1", c="x1")
    assert choose(found, ["c", "new"], "model", 1, 0) == (["c"], ["c"])
    with pytest.raises(ConfigError, match="there are 2, 1 of them alike"):
        choose(found, ["c", "new"], "model", 1, 1)


def test_what_is_known_is_kept_beside_the_ledger(tmp_path: Path) -> None:
    assert read_survey(tmp_path) == Survey()
    write_survey(tmp_path / "new", survey(a="x1"))
    assert read_survey(tmp_path / "new") == survey(a="x1")
    (tmp_path / FILE).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_survey(tmp_path)


def test_the_difference_of_two_machines_is_said() -> None:
    one = {"cpu": "A", "cores": 8, "packages": {"numpy": "2"}, "engines": {"paddle": {"variant": "plain"}}}
    other = {"cpu": "B", "cores": 8, "packages": {"numpy": "3"}, "engines": {"paddle": {"variant": "onednn"}}}
    assert difference(one, other) == ("cpu B instead of A, numpy 3 instead of 2, engine paddle onednn instead of plain")
    assert "not known instead of plain" in difference(one, one | {"engines": {}})
    assert difference(one, one) == "the CPUs that Ray was told of"
