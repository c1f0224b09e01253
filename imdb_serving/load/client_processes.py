"""Client processes: each drives its share of the load, and all start together."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from time import monotonic, perf_counter_ns, sleep
from types import TracebackType
from typing import Any

from imdb_serving import processes
from imdb_serving.clients.base import Client
from imdb_serving.errors import ServingError
from imdb_serving.load.closed_loop import NOTHING, ClientRecord, FailedRequest, Share, Workload, cpu_seconds
from imdb_serving.load.open_loop import drive_share
from imdb_serving.processes import pin

START_SECONDS = 60.0
LONGEST_SECONDS = 1e6
"""Of a wait; twice as long is more than the kernel takes."""

TOGETHER_NS = 5_000_000
"""Clients start at a moment in the near future, because the message reaches them one after another."""

PRELOAD = [
    "imdb_serving.load.client_processes",
    "imdb_serving.load.workload",
    "imdb_serving.clients.connect",
    "imdb_serving.clients.http",
    "imdb_serving.clients.sockets",
    "imdb_serving.clients.zeromq",
    "imdb_serving.foreign.client",
]

Connect = Callable[[], Client]


def prepare_processes() -> None:
    """Start to load what client processes need, in the background, so that a later session starts at once."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([processes.__name__, *PRELOAD])
    processes.prepare_fork_server()
    forkserver.ensure_running()


def end_processes() -> None:
    """End what `prepare_processes` started, when no session is open, so that a long-lived kernel keeps nothing of it.

    Python has no public way; without it the process ends with this one.
    """
    server = getattr(forkserver, "_forkserver", None)
    stop, pid = getattr(server, "_stop", None), getattr(server, "_forkserver_pid", None)
    if stop is not None:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)  # or it would wait, to see whether this process ends
        stop()


class LoadSession:
    """Client processes that stay: each holds a client of every target, and works through shares on command.

    Blocks against several targets can so be interleaved without paying for new processes and connections.

    >>> with LoadSession({"rpc": connect}, clients=2, request_timeout=5) as session:  # doctest: +SKIP
    ...     records = session.run("rpc", shares)

    The connects and the shares must be picklable.
    """

    def __init__(
        self,
        targets: Mapping[str, Connect],
        clients: int,
        request_timeout: float,
        cores: Sequence[int] = (),
        processes: int = 0,
        workloads: Sequence[Workload] = (),
    ) -> None:
        """Take how to connect to each target, the number of clients, and one request's deadline.

        Each client is a process; with fewer `processes` each has several, which send from threads of their own.
        Clients stay on the `cores`, if any are named: each process on one of them, where there are enough. The
        processes have the `workloads` from the start, so that shares of these are sent without them.
        """
        self._targets, self._workloads = dict(targets), tuple(workloads)
        self._count = min(processes or clients, clients)
        self._threads = -(-clients // self._count) if clients else 0
        few = self._count <= len(cores)
        self._cores = [[core] for core in cores][: self._count] if few else [list(cores)] * self._count
        self._request_timeout = request_timeout
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._lost: dict[int, ServingError | None] = {}
        self._used = False
        self._shares: list[Sequence[Share]] = []

    @property
    def request_timeout(self) -> float:
        return self._request_timeout

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def __enter__(self) -> LoadSession:
        """Start the client processes and wait until all are connected, or have said why not."""
        self._start()
        return self

    def _start(self) -> None:
        prepare_processes()
        context = multiprocessing.get_context("forkserver")
        try:
            for number in range(self._count):
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                process = context.Process(
                    target=_client_process,
                    args=(theirs, self._targets, self._threads, self._workloads, self._cores[number]),
                    name=f"client-{number}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._processes.append(process)
            self._receive(range(self._count), START_SECONDS)
        except BaseException:
            self.close()
            raise

    def run(self, target: str, shares: Sequence[Share]) -> list[ClientRecord]:
        """Have the first clients work through one share each, all started together; return their records in order.

        A client process that dies, or never connected, leaves records in which all requests failed. No wait is longer
        than the requests' deadlines allow. Clients lost in a block are started again for the next one.
        """
        self.hand_out(target, shares)
        return self.go(perf_counter_ns() + TOGETHER_NS)

    def hand_out(self, target: str, shares: Sequence[Share]) -> None:
        """Give the first clients one share each, to begin with `go`."""
        if self._used and self._lost:
            self.close()
            self._start()
        self._used = True
        self._shares = [shares[number :: self._count] for number in range(min(self._count, len(shares)))]
        for number, own in enumerate(self._shares):
            self._tell(number, (target, [self._without_kept(share) for share in own]))
        self._receive(range(len(self._shares)), START_SECONDS)

    def go(self, start_ns: int) -> list[ClientRecord]:
        """Have the clients begin at that moment, and return their records; see `run`."""
        for number in range(len(self._shares)):
            self._tell(number, start_ns)
        every = [share for own in self._shares for share in own]
        longest = max((share.longest_seconds(self._request_timeout) for share in every), default=0.0)
        found = self._receive(range(len(self._shares)), longest + START_SECONDS)
        records: list[Any] = [None] * len(every)
        for number, own in enumerate(self._shares):
            lost = self._lost.get(number)
            records[number :: self._count] = found.get(number) or [_lost(share, lost) for share in own]
        return records

    def _without_kept(self, share: Share) -> tuple[Share, int | None]:
        """Return a share as it is sent, and the number of its workload among those that the processes have."""
        for number, workload in enumerate(self._workloads):
            if workload is share.workload:
                return replace(share, workload=NOTHING), number
        return share, None

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(START_SECONDS)
        self._pipes, self._processes, self._lost = [], [], {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, number: int, word: Any) -> None:
        if number in self._lost:
            return
        try:
            self._pipes[number].send(word)
        except OSError:
            self._lost[number] = None

    def _receive(self, numbers: Iterable[int], seconds: float) -> dict[int, Any]:
        """Receive one object from each client; one that died or is late is lost."""
        waiting = {self._pipes[number]: number for number in numbers if number not in self._lost}
        received: dict[int, Any] = {}
        deadline = monotonic() + min(seconds, LONGEST_SECONDS)
        while waiting and (readable := wait(list(waiting), max(0.0, deadline - monotonic()))):
            for pipe in [pipe for pipe in waiting if pipe in readable]:
                number = waiting.pop(pipe)
                try:
                    word = pipe.recv()
                except (EOFError, OSError):
                    word = None
                    self._lost[number] = None
                if isinstance(word, ServingError):
                    self._lost[number] = word
                else:
                    received[number] = word
        self._lost.update(dict.fromkeys(waiting.values()))
        return received


def run_load(connect: Connect, shares: Sequence[Share], request_timeout: float) -> list[ClientRecord]:
    """Run one client process for each share, all started together, and return their records in order."""
    with LoadSession({"": connect}, len(shares), request_timeout) as session:
        return session.run("", shares)


def _lost(share: Share, error: ServingError | None) -> ClientRecord:
    """Return the record of a share that was not sent, or whose process died with its samples."""
    code, why = (error.code, f"not sent: {error}") if error else ("internal", "the client process died")
    return ClientRecord(
        failures=[FailedRequest(share.position(number), code, why) for number in range(share.expected())]
    )


def end_with_peer(descriptor: int) -> None:
    """End this process when the other end of its pipe is closed: its parent has ended, or was killed."""
    end = select.poll()
    end.register(descriptor, 0)  # asked for nothing, it tells of the end
    end.poll()
    os._exit(1)


def _client_process(
    pipe: Connection,
    targets: Mapping[str, Connect],
    count: int,
    workloads: Sequence[Workload],
    own_cores: Sequence[int],
) -> None:
    """Connect to all targets, then for each block: take the shares, wait for the start, hand back the records."""
    pin(own_cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its clients
    threading.Thread(target=end_with_peer, args=(pipe.fileno(),), name="parent", daemon=True).start()
    with pipe, ExitStack() as stack:
        try:
            clients = {
                name: [stack.enter_context(connect()) for _ in range(count)] for name, connect in targets.items()
            }
            for every in clients.values():
                for client in every:
                    client.hello()  # so that no request pays for the connection
            pipe.send(None)
            while True:
                target, sent = pipe.recv()
                shares = [share if n is None else replace(share, workload=workloads[n]) for share, n in sent]
                pipe.send(None)
                start_ns = pipe.recv()
                sleep(max(0, start_ns - perf_counter_ns()) / 1e9)
                pipe.send(_drive_all(clients[target], shares, start_ns))
                for client in clients[target]:
                    client.rest()
        except ServingError as error:
            pipe.send(error)
        except EOFError:
            return  # the parent has no more to do, or has given up


def _drive_all(clients: Sequence[Client], shares: Sequence[Share], start_ns: int) -> list[ClientRecord]:
    """Have each client work through its share, side by side; they divide the process's CPU time evenly."""
    if len(shares) == 1:
        return [drive_share(clients[0], shares[0], start_ns)]
    cpu = cpu_seconds()
    with ThreadPoolExecutor(len(shares)) as threads:
        records = list(threads.map(drive_share, clients, shares, [start_ns] * len(shares)))
    each = (cpu_seconds() - cpu) / len(records)
    for record in records:
        record.cpu_s = each
    return records
