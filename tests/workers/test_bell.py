"""A bell ends a wait, the next one if nobody waits."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from imdb_serving.workers.bell import Bell


def test_a_ring_ends_a_wait_or_the_next_one() -> None:
    bell = Bell()
    threading.Timer(0.05, bell.ring).start()
    assert bell.wait(20)
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0.01)
    bell.close()


def test_another_descriptor_ends_a_wait() -> None:
    reader, writer = os.pipe()
    bell = Bell(reader)
    os.write(writer, b"x")
    started = time.monotonic()
    assert not bell.wait(60)
    assert time.monotonic() - started < 30
    bell.close()
    os.close(reader)
    os.close(writer)


def test_ringing_never_blocks_nor_fails() -> None:
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    assert bell.wait(0)
    bell.close()
    bell.ring()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_a_signal_handler_may_ring() -> None:
    bell = Bell()
    previous = signal.signal(signal.SIGALRM, lambda *_: bell.ring())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert bell.wait(20)
    finally:
        signal.signal(signal.SIGALRM, previous)
        bell.close()
