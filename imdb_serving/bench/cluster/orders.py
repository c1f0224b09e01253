"""What a coordinator has a machine do: the words between the two, and how a machine's cores are shared out.

Plain values that travel; knows neither how they travel nor who carries them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imdb_serving.bench.load.session import Connect
from imdb_serving.engines.registry import EngineSpec


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Who a host is: its name, its cores that may be used, its clock, and what stands for its code."""

    name: str
    cores: tuple[int, ...]
    clock: str
    code: str
    pid: int


@dataclass(frozen=True, slots=True)
class ServerOrder:
    """A server to start: as `server_arguments` has it, at an address of the host, on these cores."""

    mode: str
    model: str
    engine: EngineSpec
    server_threads: int
    worker_kind: str
    pipeline: str
    address: str
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClientsOrder:
    """Clients to start: how each connects, how many, one request's deadline, and their cores."""

    connect: Connect
    clients: int
    timeout: float
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A method of a host, and its arguments."""

    method: str
    arguments: Sequence[Any] = ()


Outcome = tuple[bool, Any]
"""Whether a call came to its end, and what it returned or raised."""


def shared_cores(
    cores: Sequence[int], workers: int, math_threads: int, clients: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Share out one host's cores to its server and its clients; where they are too few, both have them all.

    Each client has one, the server the rest: workers' and the transport's.
    """
    if workers * math_threads + clients > len(cores):
        return tuple(cores), tuple(cores)
    return tuple(cores[:-clients]), tuple(cores[-clients:])
