"""What is ready is told as long as it is, whatever the system has for it."""

from __future__ import annotations

import os
import select
import socket
import threading

import pytest

from imdb_serving.server.readiness import (
    EVENTS_A_TURN,
    READ,
    WRITE,
    EpollReadiness,
    Readiness,
    SelectorReadiness,
    make_readiness,
)

KINDS = [SelectorReadiness, *([EpollReadiness] if hasattr(select, "epoll") else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ready_is_told_as_long_as_it_is_watched(kind: type[SelectorReadiness]) -> None:
    readiness: Readiness = kind()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        readiness.watch(ours.fileno(), read=True, write=False)
        assert readiness.ready() == []
        theirs.sendall(b"x")
        assert readiness.ready() == [(ours.fileno(), READ)] == readiness.ready()
        readiness.watch(ours.fileno(), read=True, write=True)
        assert readiness.ready() == [(ours.fileno(), READ | WRITE)]
        readiness.watch(ours.fileno(), read=False, write=True)
        assert readiness.ready() == [(ours.fileno(), WRITE)]
        readiness.watch(ours.fileno(), read=False, write=False)
        assert readiness.ready() == []
        readiness.watch(ours.fileno(), read=True, write=False)
        readiness.forget(ours.fileno())
        readiness.forget(ours.fileno())
        assert readiness.ready() == []
    readiness.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_connection_is_something_to_read(kind: type[SelectorReadiness]) -> None:
    readiness: Readiness = kind()
    ours, theirs = socket.socketpair()
    with ours:
        readiness.watch(ours.fileno(), read=True, write=False)
        theirs.close()
        ((descriptor, event),) = readiness.ready()
        assert descriptor == ours.fileno()
        assert event & READ
    readiness.close()


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_lost_when_many_are_ready_at_once(kind: type[SelectorReadiness]) -> None:
    readiness, pipes = kind(), [os.pipe() for _ in range(EVENTS_A_TURN + 20)]
    for reader, writer in pipes:
        readiness.watch(reader, read=True, write=False)
        os.write(writer, b"x")
    observed: list[int] = []
    for _ in range(3):
        for descriptor, _ in readiness.ready():
            observed.append(descriptor)
            readiness.forget(descriptor)
    assert sorted(observed) == sorted(reader for reader, _ in pipes)
    for reader, writer in pipes:
        os.close(reader)
        os.close(writer)
    readiness.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_ends_a_wait_whoever_else_looks_meanwhile(kind: type[SelectorReadiness]) -> None:
    readiness: Readiness = kind()
    threading.Timer(0.05, readiness.wake).start()
    readiness.wait(60)
    readiness.wake()
    readiness.ready()
    readiness.wait(60)
    readiness.close()


def test_this_system_has_one() -> None:
    make_readiness().close()
