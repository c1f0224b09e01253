"""Server workers: threads or processes that each own a handler and are spoken to over a pipe.

A pipe rather than a socket: it has no name that could be left behind, and when either side dies the other reads its
end at once. Exactly one request is with a worker at a time.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from time import monotonic, perf_counter_ns
from typing import Any, Literal

from imdb_serving.errors import ServerStartError, ServingError
from imdb_serving.messages import Handler
from imdb_serving.timing import Timeline
from imdb_serving.transports import wire

log = logging.getLogger(__name__)

MakeHandler = Callable[[], Handler]
WorkerKind = Literal["thread", "process"]
READY = b"ready"
STOP_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class Worker:
    """The server's side of one worker: its pipe, and its thread or process."""

    number: int
    connection: Connection
    runner: Any
    ready: bool = False

    def stop(self) -> None:
        """Close the pipe, which ends the worker's loop, and wait for it; a process that stays is killed."""
        self.connection.close()
        self.runner.join(STOP_SECONDS)
        if isinstance(self.runner, threading.Thread):
            return  # a daemon thread that is stuck ends with its process
        if self.runner.is_alive():
            log.warning("worker %d did not stop in %.0f s and is killed", self.number, STOP_SECONDS)
            self.runner.kill()
            self.runner.join(STOP_SECONDS)
        self.runner.close()

    def end(self) -> None:
        """End a worker that is dead or hangs: a process is killed at once; a thread ends with what it is doing."""
        if not isinstance(self.runner, threading.Thread):
            self.runner.kill()
        self.stop()


def start_worker(number: int, kind: WorkerKind, make_handler: MakeHandler, preload: Sequence[str]) -> Worker:
    """Start one worker; it says `READY` on its pipe once its handler is made, or why it could not be."""
    if kind == "thread":
        ours, theirs = multiprocessing.Pipe()
        runner: Any = threading.Thread(target=_work, args=(theirs, make_handler), name=f"worker-{number}", daemon=True)
        runner.start()
        return Worker(number, ours, runner)
    # The fork server has the modules of `preload` loaded, so workers start at once and share their memory.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    ours, theirs = context.Pipe()
    runner = context.Process(target=_work_process, args=(theirs, make_handler), name=f"worker-{number}", daemon=True)
    # Ctrl-C reaches the whole process group. Only the server acts on it, so workers never see it, not even while
    # they start: the signals are blocked around the start and ignored by the worker before it unblocks them.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    theirs.close()
    return Worker(number, ours, runner)


def await_ready(workers: Sequence[Worker], deadline: float) -> None:
    """Wait until all workers are ready; raise `ServerStartError` with the reason of one that failed or was too slow."""
    while waiting := [worker for worker in workers if not worker.ready]:
        readable = wait([worker.connection for worker in waiting], max(0.0, deadline - monotonic()))
        if not readable:
            raise ServerStartError(f"{len(waiting)} of {len(workers)} workers were not ready in time")
        for worker in waiting:
            if worker.connection in readable:
                read_ready(worker)


def read_ready(worker: Worker) -> None:
    """Read a starting worker's first word; raise `ServerStartError` unless it is `READY`."""
    try:
        word = worker.connection.recv_bytes()
    except (EOFError, OSError) as error:
        raise ServerStartError(f"worker {worker.number} died while starting") from error
    if word != READY:
        raise ServerStartError(f"worker {worker.number} could not start: {word.decode('utf-8', 'replace')}")
    worker.ready = True


def _work_process(connection: Connection, make_handler: MakeHandler) -> None:
    _work(connection, functools.partial(_make_undisturbed, make_handler))


def _make_undisturbed(make_handler: MakeHandler) -> Handler:
    """Make the handler, then ignore what the server alone acts on; frameworks set handlers of their own when loaded."""
    handler = make_handler()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    return handler


def _work(connection: Connection, make_handler: MakeHandler) -> None:
    """Make the handler, say so, then answer requests until the server closes the pipe or dies."""
    with connection:
        try:
            handler = make_handler()
        except Exception as error:
            _say(connection, f"{type(error).__name__}: {error}".encode())
            return
        _say(connection, READY)
        while True:
            try:
                message = connection.recv_bytes()
            except (EOFError, OSError):
                return
            _say(connection, _answer(handler, message))


def _say(connection: Connection, message: bytes) -> None:
    try:
        connection.send_bytes(message)
    except OSError:
        log.debug("the server closed the pipe before an answer was sent")


def _answer(handler: Handler, message: bytes) -> bytes:
    """Run the handler on one packed request; whatever goes wrong becomes a failure for its client."""
    received_ns, frames = wire.unpack(message)
    request_id = None
    try:
        header = wire.read_header(frames, max_bytes=len(message))
        request_id = header.id
        if not isinstance(header, wire.Predict):
            raise TypeError("only predictions are passed to workers")
        timeline = Timeline()
        timeline.add("queue", received_ns, perf_counter_ns())
        request = wire.decode_request(header, frames)
        answer = wire.encode_reply(handler(request, timeline), request_id)
    except ServingError as error:
        answer = wire.encode_failure(error, request_id)
    except Exception as error:
        log.exception("request %s failed", request_id)
        answer = wire.encode_failure(error, request_id)
    return wire.pack(0, answer)
