"""Client processes: each drives its share of the load, and all start together."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from time import monotonic, perf_counter_ns, sleep
from types import TracebackType
from typing import Any

from imdb_serving import processes
from imdb_serving.clients.base import Client
from imdb_serving.errors import ServingError
from imdb_serving.load.closed_loop import ClientRecord, FailedRequest, Workload
from imdb_serving.load.open_loop import drive_either
from imdb_serving.processes import pin

START_SECONDS = 60.0
TOGETHER_NS = 5_000_000
"""The clients are told a moment in the near future at which to start: the word reaches them one after another."""

PRELOAD = [
    "imdb_serving.load.client_processes",
    "imdb_serving.load.timed_share",
    "imdb_serving.load.workload",
    "imdb_serving.clients.connect",
    "imdb_serving.clients.http",
    "imdb_serving.clients.sockets",
    "imdb_serving.clients.zeromq",
]

Connect = Callable[[], Client]
Drive = Callable[[Any, Any], ClientRecord]


def prepare_processes() -> None:
    """Start loading what client processes need, in the background; a session that starts later starts at once."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([processes.__name__, *PRELOAD])
    processes.prepare()
    forkserver.ensure_running()


def end_processes() -> None:
    """End what `prepare_processes` started, when no session is open: a kernel that lives on is to hold nothing of it.

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
        drive_share: Drive = drive_either,
        cores: Sequence[int] = (),
    ) -> None:
        """Take how to connect to each target, the number of client processes, and one request's deadline.

        `drive_share` is what a process does with a client and its share. A share with `starting_at` is told the moment
        at which all start. Clients stay on the `cores`, if any are named: each on one of them, where there are enough.
        """
        self._targets, self._drive = dict(targets), drive_share
        self._clients = clients
        self._cores = [[core] for core in cores][:clients] if clients <= len(cores) else [list(cores)] * clients
        self._request_timeout = request_timeout
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._lost: dict[int, ServingError | None] = {}
        self._used = False
        self._shares: Sequence[Sized] = ()

    @property
    def request_timeout(self) -> float:
        """One request's deadline in seconds."""
        return self._request_timeout

    @property
    def pids(self) -> list[int]:
        """The client processes' ids."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> LoadSession:
        """Start the client processes and wait until all are connected, or have said why not."""
        self._start()
        return self

    def _start(self) -> None:
        prepare_processes()
        context = multiprocessing.get_context("forkserver")
        try:
            for number in range(self._clients):
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                process = context.Process(
                    target=_client_process,
                    args=(theirs, self._targets, self._drive, self._cores[number]),
                    name=f"client-{number}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._processes.append(process)
            self._receive(range(self._clients), START_SECONDS)
        except BaseException:
            self.close()
            raise

    def run(self, target: str, shares: Sequence[Sized]) -> list[ClientRecord]:
        """Have the first clients work through one share each, all started together; returns their records in order.

        A client process that dies, or never connected, leaves a record in which all its requests failed; nothing is
        waited for longer than its requests' deadlines allow. Clients lost in a block are back for the next one.
        """
        self.hand_out(target, shares)
        return self.go(perf_counter_ns() + TOGETHER_NS)

    def hand_out(self, target: str, shares: Sequence[Sized]) -> None:
        """Give the first clients one share each, to begin with `go`."""
        if self._used and self._lost:
            self.close()
            self._start()
        self._used = True
        self._shares = shares
        for number, share in enumerate(shares):
            self._tell(number, (target, share))
        self._receive(range(len(shares)), START_SECONDS)

    def go(self, start_ns: int) -> list[ClientRecord]:
        """Have the clients begin at that moment, and return their records; see `run`."""
        shares = self._shares
        for number in range(len(shares)):
            self._tell(number, start_ns)
        longest = max(map(len, shares), default=0)
        records = self._receive(range(len(shares)), longest * self._request_timeout + START_SECONDS)
        return [records.get(number) or _lost(share, self._lost.get(number)) for number, share in enumerate(shares)]

    def close(self) -> None:
        """End the client processes."""
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
        deadline = monotonic() + seconds
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


def run_load(connect: Connect, shares: Sequence[Workload], request_timeout: float) -> list[ClientRecord]:
    """Run one client process a share, all started together, and return their records in order."""
    with LoadSession({"": connect}, len(shares), request_timeout) as session:
        return session.run("", shares)


def _lost(share: Sized, error: ServingError | None = None) -> ClientRecord:
    """Return the record of a share of which nothing was sent, or whose process died with all it had measured."""
    code, why = (error.code, f"not sent: {error}") if error else ("internal", "the client process died")
    return ClientRecord(failures=[FailedRequest(position, code, why) for position in range(len(share))])


def end_with_peer(descriptor: int) -> None:
    """End this process once the other end of its pipe is closed: who made it and was killed wants no more requests."""
    end = select.poll()
    end.register(descriptor, 0)  # asked for nothing, it tells of the end
    end.poll()
    os._exit(1)


def _client_process(
    pipe: Connection, targets: Mapping[str, Connect], drive_share: Drive, own_cores: Sequence[int]
) -> None:
    """Connect to all targets, then for each block: take the share, wait for the start signal, hand back the record."""
    pin(own_cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its clients
    threading.Thread(target=end_with_peer, args=(pipe.fileno(),), name="parent", daemon=True).start()
    with pipe, ExitStack() as stack:
        try:
            clients = {name: stack.enter_context(connect()) for name, connect in targets.items()}
            for client in clients.values():
                client.hello()  # so that no request pays for the connection
            pipe.send(None)
            while True:
                target, share = pipe.recv()
                pipe.send(None)
                start_ns = pipe.recv()
                sleep(max(0, start_ns - perf_counter_ns()) / 1e9)
                pipe.send(
                    drive_share(
                        clients[target], share.starting_at(start_ns) if hasattr(share, "starting_at") else share
                    )
                )
        except ServingError as error:
            pipe.send(error)
        except EOFError:
            return  # the parent has no more to do, or has given up
