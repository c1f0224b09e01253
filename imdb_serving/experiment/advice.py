"""Advice on a server of someone else: a first look at it, and the parameter file of a search that fits the machine."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import msgspec
import yaml

from imdb_serving.analysis.search import SHARE
from imdb_serving.cell import plural
from imdb_serving.experiment.estimate import CELL_SECONDS, RUN_SECONDS
from imdb_serving.foreign.client import ForeignClient
from imdb_serving.foreign.process import pids_of_port
from imdb_serving.measurement.bodies import Bodies, samples_of
from imdb_serving.measurement.cpu_meter import memory_mib, process_tree
from imdb_serving.measurement.foreign import check_first, reach
from imdb_serving.measurement.machine import free_memory, usable_cores
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.parameters.foreign import ALONE, COUNTS, SECTIONS, ForeignFields, names_of_command

LOOK_SAMPLES = 20
LOOK_SECONDS = 1.0
LEAST_REQUESTS, MOST_REQUESTS = 5, 200
"""Of the first look."""

WARM_UP = 3
"""The first requests of a look, of which nothing is made."""

MEMORY_SHARE = 0.7
"""Of the memory that is free, what workers may take."""

CLIENTS_A_CORE = 4
LEAST_CLIENTS = 8
"""The most clients that are measured, whatever the cores."""

MOST_SAMPLES = 2500
SAMPLES_A_CLIENT = 20
RUNS_A_CELL = 0.6
"""A search starts so many servers for each cell that it measures, or fewer."""


class FirstLook(NamedTuple):
    """What one worker showed: the seconds until it was ready and of a request, and its memory; None: not known."""

    start_s: float
    request_s: float
    memory_mib: float | None

    def __str__(self) -> str:
        memory = f", with {self.memory_mib:,.0f} MiB of memory" if self.memory_mib else ""
        return f"ready in {self.start_s:.1f} s{memory}; a request takes {self.request_s * 1000:.3g} ms"


class Thoroughness(NamedTuple):
    """How a grid is measured: rounds, the seconds of a cell with one client, the fewest samples, the counts' ratio."""

    rounds: int
    cell_s: float
    least_samples: int
    ratio: int


LEVELS = (
    Thoroughness(10, 1.0, 700, 2),
    Thoroughness(7, 1.0, 700, 2),
    Thoroughness(5, 1.0, 700, 2),
    Thoroughness(4, 0.5, 700, 2),
    Thoroughness(3, 0.5, 300, 2),
    Thoroughness(3, 0.5, 200, 4),
    Thoroughness(2, 0.3, 100, 4),
)
"""From the best down, of which the first that fits the time is taken."""


class Machine(NamedTuple):
    """What workers have: cores, and free memory in MiB."""

    cores: int
    memory_mib: float


def this_machine() -> Machine:
    """Return what workers have on this machine."""
    return Machine(max(1, int(usable_cores())), MEMORY_SHARE * free_memory() / 2**20)


def first_look(params: GridParams) -> FirstLook:
    """Start the server with one worker, or find the one that runs, and send it some requests, one at a time.

    Raises a `ServingError` at what a sweep would fail at.
    """
    one = msgspec.structs.replace(params, samples=LOOK_SAMPLES, client_threads=[1])
    with tempfile.TemporaryDirectory(prefix="imdb-serving-advise-") as folder, ExitStack() as stack:
        begun = monotonic()
        found = reach(one, Path(folder), stack)
        start_s = monotonic() - begun if found.server else 0.0
        check_first(found, one.batch)
        bodies = Bodies.of(one, Path(folder))
        samples = samples_of(one)
        each = [bodies.body([sample]) for sample in samples]
        with ForeignClient(found.call, one.timeout) as client:
            seconds = list(_timed(client, each))
        pids = (found.server.pid,) if found.server else pids_of_port(found.call.url)
        own = {found.server.pid} if found.server else set()  # the guard's
        memory = memory_mib([process for process in process_tree(pids) if process.pid not in own])
        return FirstLook(start_s, statistics.median(seconds), memory)


def _timed(client: ForeignClient, bodies: Sequence[Any]) -> Iterator[float]:
    begun = perf_counter()
    for number, body in enumerate(islice(cycle(bodies), WARM_UP + MOST_REQUESTS)):
        sent = perf_counter()
        ForeignClient.require_success(client.exchange(body))
        if number >= WARM_UP:
            yield perf_counter() - sent
        if number >= WARM_UP + LEAST_REQUESTS and perf_counter() - begun > LOOK_SECONDS:
            return


def counts_to(most: int, ratio: int = 2) -> list[int]:
    """Return counts from 1 up to the most, each `ratio` times the one before, the last of them the most.

    >>> counts_to(6)
    [1, 2, 4, 6]
    """
    steps = [ratio**power for power in range(int(math.log(most, ratio) + 1e-9) + 1)]
    return [*steps, most] if steps[-1] < most else steps


class SearchGrid(NamedTuple):
    """A grid to search: server threads by math threads, clients, and how each cell is measured."""

    threads: dict[int, list[int]]
    clients: list[int]
    samples: int
    rounds: int

    @property
    def servers(self) -> int:
        """How many servers it has, of different threads."""
        return sum(map(len, self.threads.values()))

    def seconds(self, look: FirstLook, cores: int) -> float:
        """Return about how long a search takes: the cells that it measures, and the servers that it starts for them."""
        cells = [
            self.samples * look.request_s / min(clients, threads, cores)
            for counts in self.threads.values()
            for threads in counts
            for clients in self.clients
        ]
        run_s = RUNS_A_CELL * (RUN_SECONDS + look.start_s)
        return SHARE * self.rounds * sum(cell + CELL_SECONDS + run_s for cell in cells)


def grid_within(seconds: float, look: FirstLook, used: Sequence[str], machine: Machine) -> SearchGrid:
    """Return the most thorough grid whose search takes so long at most, or else the least.

    `used` are the counts that the server's command uses, and a grid varies. Server threads times math threads are at
    most the cores, but for one count of server threads beyond them, which shows whether more would give more.
    """
    found = [_grid(level, look, used, machine) for level in LEVELS]
    return next((one for one in found if one.seconds(look, machine.cores) <= seconds), found[-1])


def _grid(level: Thoroughness, look: FirstLook, used: Sequence[str], machine: Machine) -> SearchGrid:
    cores = machine.cores
    fitting = max(1, int(machine.memory_mib / look.memory_mib)) if look.memory_mib else 2 * cores
    threads = {}
    for math_threads in counts_to(cores, level.ratio) if "math_threads" in used else [1]:
        most = 2 * cores if math_threads == 1 else cores // math_threads
        threads[math_threads] = counts_to(min(most, fitting), level.ratio) if "server_threads" in used else [1]
    clients = counts_to(max(LEAST_CLIENTS, CLIENTS_A_CORE * cores), level.ratio)
    least = max(level.least_samples, SAMPLES_A_CLIENT * clients[-1])
    samples = max(least, min(MOST_SAMPLES, round(level.cell_s / look.request_s, -2)))
    return SearchGrid(threads, clients, int(samples), level.rounds)


def counts_used(params: ForeignFields) -> list[str]:
    """Return the counts that the server's command and environment use."""
    return [name for name in COUNTS if name in names_of_command(params)]


def parameters(asked: Mapping[str, Any], grid: SearchGrid, timeout: float) -> dict[str, Any]:
    """Return the parameters of a search, as a file has them; `asked` are those of the server by their whole names."""
    values: dict[str, Any] = {"mode": "http"}
    values |= {name: asked[name] for name in ("engine", *ALONE) if name in asked}
    for section, names in SECTIONS.items():
        entries = {name: asked[f"{section}_{name}"] for name in names if asked.get(f"{section}_{name}")}
        values |= {section: entries} if entries else {}
    (math_threads, threads), *others = grid.threads.items()
    values |= {"server_threads": threads, "math_threads": math_threads, "client_threads": grid.clients}
    values |= {"samples": int(grid.samples), "rounds": grid.rounds, "search": True, "timeout": timeout}
    if others:
        values["also"] = [{"math_threads": count, "server_threads": threads} for count, threads in others]
    return values


def timeout_of(look: FirstLook, clients: int, least: float) -> float:
    """Return a request's deadline: several times what it waits behind all other clients at one worker."""
    return max(least, float(math.ceil(4 * clients * look.request_s)))


def text_of(values: Mapping[str, Any], head: str) -> str:
    """Return parameters as the text of a file, `head` as its comment."""
    lines = [f"# {line}" for line in head.splitlines()]
    for name, value in values.items():
        style = None if isinstance(value, list) else False  # a list's entries are in its line
        dumped = yaml.safe_dump(
            {name: value}, default_flow_style=style, sort_keys=False, width=10_000, allow_unicode=True
        )
        lines.append(dumped.rstrip("\n"))
    return "\n".join(lines) + "\n"


def words_of_grid(grid: SearchGrid, used: Sequence[str], look: FirstLook, machine: Machine) -> Iterator[str]:
    """Yield what is searched, in words."""
    if "server_threads" not in used:
        yield "neither command nor environment names {{ server_threads }}, so no number of workers is searched"
    cells = grid.servers * len(grid.clients)
    for math_threads, threads in grid.threads.items():
        listed = "".join(f"{count}, " for count in threads[:-1])
        yield f"{plural(math_threads, 'math thread')}: {listed}{plural(threads[-1], 'server thread')}"
    minutes = grid.seconds(look, machine.cores) / 60
    about = "about a minute" if minutes < 1.5 else f"about {minutes:.0f} minutes"
    yield f"each with {', '.join(map(str, grid.clients))} clients: {plural(cells, 'cell')}, {about}"
