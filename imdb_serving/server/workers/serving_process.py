"""A serving process, from within: threads that take requests, and one that listens to the supervisor.

It holds every connection under the supervisor's number, and learns of them over a pair of sockets, which has no name
that could be left behind. When the supervisor dies, the process reads end of file there and ends at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Sequence
from time import monotonic

from imdb_serving import logs, processes
from imdb_serving.processes import HeapTrimmer
from imdb_serving.server.workers.carrier import MakeCarrier
from imdb_serving.server.workers.handover import Handover
from imdb_serving.server.workers.pace import Pace
from imdb_serving.server.workers.ready_set import EpollReadySet
from imdb_serving.server.workers.scoreboard import CONNECTION_CELLS, GENERATION, Scoreboard
from imdb_serving.server.workers.worker import Worker

log = logging.getLogger(__name__)

OPEN, CLOSE, BEGIN, RELEASE, READY, FAILED = range(6)
TOLD = struct.Struct("<qqq")
MAX_TOLD = 1 << 14
LOST_SECONDS = 5.0
MOST_OF_PROCESS = 4
TIDY_SECONDS = 1.0


class Connections:
    """The connections that a process was given, by number."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._held: dict[int, tuple[int, socket.socket]] = {}
        self._changed = threading.Condition()

    def get(self, number: int) -> socket.socket:
        """Return a connection's socket; raise `OSError` when the supervisor does not give it in time."""
        wanted = self._board.connections[number * CONNECTION_CELLS + GENERATION]
        held = self._held.get(number)
        if held is not None and held[0] == wanted:
            return held[1]
        with self._changed:
            if not self._changed.wait_for(lambda: self._held.get(number, (-1,))[0] == wanted, LOST_SECONDS):
                raise OSError(f"connection {number} was not given to this process")
            return self._held[number][1]

    def open(self, number: int, generation: int, descriptor: int) -> None:
        """Take a connection, under the supervisor's number."""
        os.dup2(descriptor, number)
        os.close(descriptor)
        with self._changed:
            self._held[number] = generation, socket.socket(fileno=number)
            self._changed.notify_all()

    def close(self, number: int, generation: int) -> None:
        """Close one, unless its number is another's by now."""
        held = self._held.get(number)
        if held is not None and held[0] == generation:
            del self._held[number]
            held[1].close()


def serve(
    control: socket.socket,
    make: MakeCarrier,
    rows: Sequence[int],
    sizes: tuple[int, int, int],
    cores: Sequence[Sequence[int]],
) -> None:
    """Make the handlers, say so, then answer requests until the supervisor closes the conversation or dies."""
    processes.raise_descriptor_limit()
    _, files, _, _ = socket.recv_fds(control, 16, 4)
    workers, descriptors, work_number = sizes
    try:
        processes.pin(sorted({core for each in cores for core in each}))
        carriers = [make() for _ in rows]
    except Exception as error:
        _say(control, FAILED, f"{type(error).__name__}: {error}")
        return
    logs.set_up_as_told()
    _ignore_signals()
    os.dup2(files[2], work_number)  # an epoll knows it by this number
    board = Scoreboard(workers, descriptors, files[0])
    ready = EpollReadySet(files[1])
    handover = Handover.of_worker(socket.socket(fileno=work_number), socket.socket(fileno=files[3]))
    connections, pace = Connections(board), Pace(len(rows))
    threads = []
    for at, (row, carrier) in enumerate(zip(rows, carriers, strict=True)):
        worker = Worker(board.rows[row], board, ready, handover, connections.get, carrier, pace, at, MOST_OF_PROCESS)
        threads.append(threading.Thread(target=worker.run, name=f"server-thread-{row}", daemon=True))
    gc.collect()
    gc.freeze()  # what was loaded stays: else it would be looked through again and again
    _say(control, READY, "\n".join(getattr(carriers[0], "stage_names", ())))
    _listen(control, connections, pace, threads)
    os._exit(0)  # its threads wait for requests that nobody will send


def _listen(control: socket.socket, connections: Connections, pace: Pace, threads: Sequence[threading.Thread]) -> None:
    """Do what the supervisor says. The threads begin when it says so: it knows then whose rows they write."""
    heap = HeapTrimmer(monotonic())
    control.settimeout(TIDY_SECONDS)
    while True:
        try:
            words, found, _, _ = socket.recv_fds(control, TOLD.size, 1)
        except TimeoutError:
            heap.tidy(monotonic())
            continue
        except OSError:
            return
        if not words:
            return
        what, number, generation = TOLD.unpack(words)
        if what == OPEN and found:
            connections.open(number, generation, found[0])
        elif what == CLOSE:
            connections.close(number, generation)
        elif what == RELEASE:
            pace.release()
        elif what == BEGIN:
            for thread in threads:
                thread.start()


def _say(control: socket.socket, what: int, words: str) -> None:
    try:
        control.send(bytes([what]) + words.encode("utf-8", "replace")[: MAX_TOLD - 1])
    except OSError:
        log.debug("the supervisor has gone")


def _ignore_signals() -> None:
    """Leave Ctrl-C and SIGTERM to the server, in a process that was started with them blocked."""
    for number in (signal.SIGINT, signal.SIGTERM):  # frameworks set handlers of their own when loaded
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
