"""Machines as a coordinator sees them: calls as plain values, the process that takes them, sessions, CPU usage."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from time import monotonic, perf_counter_ns
from typing import Any

from imdb_serving.errors import HostLost
from imdb_serving.load.client_processes import START_SECONDS, Connect
from imdb_serving.load.closed_loop import ClientRecord, Share
from imdb_serving.measurement.cpu_meter import Usage
from imdb_serving.measurement.measure import Target
from imdb_serving.server_process import ServerSpec, end
from imdb_serving.timing import CLOCK_ID, ClockFilter, Exchange


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host's name, its usable cores, its clock, and the digest of its code."""

    name: str
    cores: tuple[int, ...]
    clock: str
    code: str
    pid: int


@dataclass(frozen=True, slots=True)
class ServerOrder:
    """A server to start at an address of the host, on these cores; its model's folder is the host's."""

    spec: ServerSpec
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


END_SECONDS = 30.0
"""A server among what ends with it may still be answering what it has accepted."""


class HostProcess:
    """`python -m imdb_serving.cluster.host`, from `start` to `stop`."""

    def __init__(self) -> None:
        """Start it; it is ready when it answers."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-m", "imdb_serving.cluster.host", str(descriptor)]
            # In a session of its own: Ctrl-C is the coordinator's to handle.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], start_new_session=True
            )
        self._pipe = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, call: Call, seconds: float) -> Outcome:
        """Send a call and return its outcome; raise `HostLost` when the process dies or is late."""
        deadline = monotonic() + seconds
        try:
            # `send` would leave a view on a BytesIO in the error's traceback, which the collector may finalise first.
            self._pipe.send_bytes(bytes(ForkingPickler.dumps(call)))
            if self._pipe.poll(max(0.0, deadline - monotonic())):
                outcome: Outcome = self._pipe.recv()
                return outcome
        except (EOFError, OSError) as error:
            raise HostLost(f"the process that measures there died ({error or type(error).__name__})") from error
        self.stop(0.0)  # its answer must not be taken for the next one's
        raise HostLost(f"no answer within {seconds:g} s")

    def stop(self, seconds: float = END_SECONDS) -> None:
        """Close the conversation, which ends the process and all that it started; what lasts longer is killed."""
        self._pipe.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(self._process, 1.0)


ASK_SECONDS = 60.0
EXCHANGES = 8
"""With a host's clock before a block of load; the quickest of them counts."""

TOGETHER_NS = 100_000_000
"""How far ahead the clients are told to begin: the word takes some milliseconds to the last of them."""


Wait = Callable[[], Any]
"""Waits for the outcome of a call; raises what it raised, or `HostLost`."""

Begin = Callable[[Call, float], Wait]
"""Has a host do something within so many seconds."""


class RemoteHost:
    """A host whose facts are known; `name` is its address in the cluster."""

    def __init__(self, name: str, address: str, begin: Begin) -> None:
        """Ask it."""
        self.name, self.address, self._begin = name, address, begin
        self.facts: HostFacts = self.ask("who")
        self._clocks = ClockFilter()

    def ask(self, method: str, *arguments: Any, seconds: float = ASK_SECONDS) -> Any:
        """Call it; raises what the call raises, or `HostLost`."""
        return self.begin(method, *arguments, seconds=seconds)()

    def begin(self, method: str, *arguments: Any, seconds: float) -> Wait:
        """Begin a call, and return a function that waits for its result."""
        return self._begin(Call(method, arguments), seconds)

    def behind_ns(self) -> int:
        """Return what to add to its clock's stamps to have this one's."""
        if self.facts.clock == CLOCK_ID:
            return 0
        for _ in range(EXCHANGES):
            sent = perf_counter_ns()
            clock, there = self.ask("now")
            self._clocks.learn(clock, Exchange(sent, there, there, perf_counter_ns()))
        return self._clocks.offset_ns


def at_once(hosts: Sequence[RemoteHost], method: str, *arguments: Sequence[Any], seconds: float) -> list[Any]:
    """Call several hosts in parallel, each with its own arguments; return their results in order."""
    begun = [
        host.begin(method, *(own[place] for own in arguments), seconds=seconds) for place, host in enumerate(hosts)
    ]
    return [wait() for wait in begun]


class RemoteSession:
    """Client processes on one or more hosts, in turn: as `LoadSession` is on one's own machine."""

    def __init__(
        self,
        hosts: Sequence[RemoteHost],
        cores: Sequence[Sequence[int]],
        connect: Connect,
        clients: int,
        timeout: float,
    ) -> None:
        """Start the clients: every host has its share of them, on these cores of it."""
        self._hosts, self.request_timeout = list(hosts), timeout
        counts = [len(range(place, clients, len(hosts))) for place in range(len(hosts))]
        orders = [
            ClientsOrder(connect, count, timeout, tuple(own)) for count, own in zip(counts, cores, strict=True) if count
        ]
        self._hosts = self._hosts[: len(orders)]  # with fewer clients than hosts, some have none
        at_once(self._hosts, "open_session", orders, seconds=2 * START_SECONDS)

    @property
    def pids(self) -> list[int]:
        """None here: they are other machines'."""
        return []

    def run(self, _target: str, shares: Sequence[Share]) -> list[ClientRecord]:
        """Have clients work through one share each, all started together; see `LoadSession.run`.

        Stamps are of this process's clock. Raises `HostLost` when one of the hosts is.
        """
        behind = [host.behind_ns() for host in self._hosts]
        every = len(self._hosts)
        dealt = [_dealt(shares, place, every) for place in range(every)]
        active = [place for place in range(every) if dealt[place]]
        hosts = [self._hosts[place] for place in active]
        at_once(hosts, "hand_out", [dealt[place] for place in active], seconds=2 * START_SECONDS)
        start_ns = perf_counter_ns() + TOGETHER_NS
        longest = max(share.longest_seconds(self.request_timeout) for share in shares) + 2 * START_SECONDS
        begins = [start_ns - behind[place] for place in active]
        found = at_once(hosts, "go", begins, seconds=longest)
        records: list[Any] = [None] * len(shares)
        for place, own in zip(active, found, strict=True):
            records[place::every] = [_here(record, behind[place]) for record in own]
        return records


def _dealt(shares: Sequence[Share], place: int, every: int) -> list[Share]:
    """Return one host's clients' shares.

    Clients of an open loop take turns at the same requests; hosts cannot, so each has every n-th of them.
    """
    return [
        share
        if share.due_ns is None
        else replace(
            share,
            first=place,
            step=every,
            due_ns=share.due_ns[place::every],
            clients=len(range(place, share.clients, every)),
        )
        for share in shares[place::every]
    ]


def _here(record: ClientRecord, behind_ns: int) -> ClientRecord:
    """Return a host's record with this process's stamps."""
    begun, ended = record.window_ns
    record.window_ns = (begun + behind_ns, ended + behind_ns) if ended else (begun, ended)
    record.starts_ns = record.starts_ns + behind_ns
    record.intended_ns = record.intended_ns + behind_ns
    return record


@contextmanager
def watching(hosts: Sequence[RemoteHost]) -> Iterator[Usage]:
    """Fill in the usage of the `with` block: all hosts' CPU time, and of strangers' what the worst host had."""
    usage = Usage()
    at_once(hosts, "watch", seconds=ASK_SECONDS)
    try:
        yield usage
    finally:
        _sum_up(usage, at_once(hosts, "watched", seconds=ASK_SECONDS))


def _sum_up(usage: Usage, hosts: Sequence[Usage]) -> None:
    usage.seconds = max(one.seconds for one in hosts)
    usage.server_s = sum(one.server_s for one in hosts)
    usage.client_s = sum(one.client_s for one in hosts)
    usage.throttled_s = max((one.throttled_s for one in hosts if one.throttled_s is not None), default=None)
    foreign = max(one.foreign_cores for one in hosts)
    usage.busy_s = usage.server_s + usage.client_s + foreign * usage.seconds
    usage.steal_s = max(one.steal_cores for one in hosts) * usage.seconds
    usage.load_before = max(one.load_before for one in hosts)
    usage.load_after = max(one.load_after for one in hosts)


@dataclass(frozen=True, slots=True)
class HostsTarget(Target):
    """What clients on hosts reach; its usage is that of all hosts."""

    hosts: tuple[RemoteHost, ...] = ()

    def watching(self, _clients: Sequence[int]) -> AbstractContextManager[Usage]:
        return watching(self.hosts)
