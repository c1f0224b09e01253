"""A descriptor that is ready is told once, until it is armed again; whatever the system has for it."""

from __future__ import annotations

import os
import select
import socket

import pytest

from imdb_serving.workers.readiness import EVENTS_A_TURN, EpollReadiness, SelectorReadiness, make_readiness

KINDS = [SelectorReadiness, *([EpollReadiness] if hasattr(select, "epoll") else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ready_is_told_once_until_it_is_armed_again(kind: type[SelectorReadiness]) -> None:
    readiness = kind()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        readiness.arm(ours.fileno())
        assert readiness.ready() == []
        theirs.sendall(b"x")
        assert readiness.ready() == [(ours.fileno(), False)]
        assert readiness.ready() == []
        readiness.arm(ours.fileno())
        assert readiness.ready() == [(ours.fileno(), False)]
        readiness.arm(ours.fileno(), write=True)
        assert readiness.ready() == [(ours.fileno(), True)]
        readiness.arm(ours.fileno())
        readiness.forget(ours.fileno())
        readiness.forget(ours.fileno())
        assert readiness.ready() == []
    readiness.close()


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_lost_when_many_are_ready_at_once(kind: type[SelectorReadiness]) -> None:
    readiness, pipes = kind(), [os.pipe() for _ in range(EVENTS_A_TURN + 20)]
    for reader, writer in pipes:
        readiness.arm(reader)
        os.write(writer, b"x")
    told = [descriptor for _ in range(3) for descriptor, _ in readiness.ready()]
    assert sorted(told) == sorted(reader for reader, _ in pipes)
    for reader, writer in pipes:
        readiness.forget(reader)
        os.close(reader)
        os.close(writer)
    readiness.close()


def test_this_system_has_one() -> None:
    make_readiness().close()
