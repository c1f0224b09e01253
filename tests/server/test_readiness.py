"""What is ready is told as long as it is, whatever the system has for it."""

from __future__ import annotations

import os
import socket

from imdb_serving.server.readiness import EVENTS_A_TURN, READ, WRITE, Readiness


def test_what_is_ready_is_told_as_long_as_it_is_watched() -> None:
    readiness = Readiness()
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


def test_the_end_of_a_connection_is_something_to_read() -> None:
    readiness = Readiness()
    ours, theirs = socket.socketpair()
    with ours:
        readiness.watch(ours.fileno(), read=True, write=False)
        theirs.close()
        ((descriptor, event),) = readiness.ready()
        assert descriptor == ours.fileno()
        assert event & READ
    readiness.close()


def test_none_is_lost_when_many_are_ready_at_once() -> None:
    readiness, pipes = Readiness(), [os.pipe() for _ in range(EVENTS_A_TURN + 20)]
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


def test_each_has_its_turn_when_many_stay_ready() -> None:
    readiness, pipes = Readiness(), [os.pipe() for _ in range(2 * EVENTS_A_TURN + 5)]
    for reader, writer in pipes:
        readiness.watch(reader, read=True, write=False)
        os.write(writer, b"x")
    told = {descriptor for _ in range(4) for descriptor, _ in readiness.ready()}
    assert told == {reader for reader, _ in pipes}
    for reader, writer in pipes:
        readiness.forget(reader)
        os.close(reader)
        os.close(writer)
    readiness.close()
