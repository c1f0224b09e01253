"""A waker ends a wait, the next one if nobody waits."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from imdb_serving.server.readiness import Waker


def test_a_ring_ends_a_wait_or_the_next_one() -> None:
    waker = Waker()
    threading.Timer(0.05, waker.wake).start()
    assert waker.wait(20)
    waker.wake()
    waker.wake()
    assert waker.wait(0)
    assert not waker.wait(0.01)
    waker.close()


def test_another_descriptor_ends_a_wait() -> None:
    reader, writer = os.pipe()
    waker = Waker(reader)
    os.write(writer, b"x")
    started = time.monotonic()
    assert not waker.wait(60)
    assert time.monotonic() - started < 30
    waker.close()
    os.close(reader)
    os.close(writer)


def test_ringing_never_blocks_nor_fails() -> None:
    waker = Waker()
    for _ in range(100_000):
        waker.wake()
    assert waker.wait(0)
    waker.close()
    waker.wake()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_a_signal_handler_may_ring() -> None:
    waker = Waker()
    previous = signal.signal(signal.SIGALRM, lambda *_: waker.wake())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert waker.wait(20)
    finally:
        signal.signal(signal.SIGALRM, previous)
        waker.close()
