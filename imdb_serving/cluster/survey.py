"""Which nodes of a cluster are alike, from their environment cards. Knows cards and node names; starts nothing.

Cells are compared only on machines that are alike. The survey is kept beside the ledger, so that the sweep's notebooks,
which are processes of their own, agree and do not disturb a node that is measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.config import whole_file
from imdb_serving.errors import ConfigError, DataError
from imdb_serving.measurement.environment import Card

FILE = "nodes.json"
UNLIKE = ("cpu", "architecture", "cores", "cores_allowed", "cpu_quota", "memory_gib", "system", "python", "code")


class Survey(msgspec.Struct):
    """What is known of nodes, by id: the ids of their cards, one for each model, and the CPUs that Ray reports.

    The card of no model, under the empty name, is that of a machine for clients.
    """

    cards: dict[str, dict[str, str]] = {}
    cpus: dict[str, float] = {}


def read_survey(folder: Path) -> Survey:
    """Return the survey beside a ledger; an empty one where there is none yet."""
    path = folder / FILE
    if not path.is_file():
        return Survey()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Survey)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}; remove it, and the nodes are surveyed again") from error


def write_survey(folder: Path, survey: Survey) -> None:
    """Keep what is known beside a ledger."""
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(survey), indent=1) + b"\n")


def choose(survey: Survey, alive: Sequence[str], model: str, servers: int, clients: int) -> tuple[list[str], list[str]]:
    """Return the nodes that may have servers, and those that may have clients only.

    All are alike where enough are. Else servers are alike, and so are clients. Raises `ConfigError` when there are not
    even so many.
    """
    by_server = _groups(survey, alive, model)
    for group in by_server:
        if len(group) >= servers + clients:
            return group, group
    for group in by_server:
        rest = [node for node in alive if node not in group]
        for others in _groups(survey, rest, ""):
            if len(group) >= servers and len(others) >= clients:
                return group, others
    alike = max((len(group) for group in by_server), default=0)
    raise ConfigError(
        f"cluster: a cell needs {servers + clients} nodes, {servers} of them with servers and alike; there are "
        f"{len(alive)}, {alike} of them alike; start more nodes, or set placement and server_nodes to fewer"
    )


def _groups(survey: Survey, nodes: Sequence[str], model: str) -> list[list[str]]:
    """Return the nodes by card and CPUs, the largest group first."""
    groups: dict[tuple[str, float], list[str]] = {}
    for node in nodes:
        if model in survey.cards.get(node, {}):
            groups.setdefault((survey.cards[node][model], survey.cpus[node]), []).append(node)
    return sorted(groups.values(), key=len, reverse=True)


def difference(one: Card, other: Card) -> str:
    """Return in words in what two machines differ, the second from the first."""
    words = [
        f"{name} {other.get(name)} instead of {one.get(name)}" for name in UNLIKE if one.get(name) != other.get(name)
    ]
    words += [
        f"{name} {theirs or 'none'} instead of {ours or 'none'}"
        for name in dict(one.get("packages", {})) | dict(other.get("packages", {}))
        if (ours := _of(one, "packages", name)) != (theirs := _of(other, "packages", name))
    ]
    kernels = {name: _kernel(one, name) for name in one.get("engines", {})}
    words += [
        f"engine {name} {_kernel(other, name) or 'not known'} instead of {kernel}"
        for name, kernel in kernels.items()
        if kernel != _kernel(other, name)
    ]
    return ", ".join(words) or "the CPUs that Ray was told of"


def _of(card: Card, part: str, name: str) -> Any:
    found: Mapping[str, Any] = card.get(part, {})
    return found.get(name)


def _kernel(card: Card, engine: str) -> str:
    found = _of(card, "engines", engine)
    return str(found["variant"]) if found else ""
