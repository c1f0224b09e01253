"""A waker ends a wait, the next one if nobody waits."""

from __future__ import annotations

import select
import signal
import threading

import pytest

from imdb_serving.server.readiness import Waker


def rings(waker: Waker, seconds: float) -> bool:
    """Wait for it; whether it was rung."""
    select.select([waker.descriptor], [], [], seconds)
    return waker.clear()


def test_a_ring_ends_a_wait_or_the_next_one() -> None:
    waker = Waker()
    threading.Timer(0.05, waker.wake).start()
    assert rings(waker, 20)
    waker.wake()
    waker.wake()
    assert rings(waker, 0)
    assert not rings(waker, 0.01)
    waker.close()


def test_ringing_never_blocks_nor_fails() -> None:
    waker = Waker()
    for _ in range(100_000):
        waker.wake()
    assert rings(waker, 0)
    waker.close()
    waker.wake()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_a_signal_handler_may_ring() -> None:
    waker = Waker()
    previous = signal.signal(signal.SIGALRM, lambda *_: waker.wake())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert rings(waker, 20)
    finally:
        signal.signal(signal.SIGALRM, previous)
        waker.close()
