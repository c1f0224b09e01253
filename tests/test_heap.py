"""The heap gives back what nobody uses, when it is time to and not before."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace

import psutil
import pytest

from imdb_serving import processes

MIB = 1 << 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
def test_free_pages_between_those_in_use_go_back_in_time() -> None:
    process = psutil.Process()
    tidy = processes.HeapTrimmer(100.0)
    blocks = [bytes([number % 251]) * 3_000 for number in range(40_000)]
    blocks = blocks[::100]  # every hundredth stays, and the pages between
    gc.collect()
    before = process.memory_info().rss
    tidy.tidy(100.0 + processes.FIRST_SECONDS / 2)
    assert before - process.memory_info().rss < 10 * MIB
    tidy.tidy(100.0 + processes.FIRST_SECONDS)
    assert before - process.memory_info().rss > 50 * MIB
    assert len(blocks) == 400


def test_the_pauses_grow_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 0.0, []
    library = SimpleNamespace(malloc_trim=lambda _: seen.append(now))
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda name: library)
    tidy = processes.HeapTrimmer(now)
    while now < 100:
        tidy.tidy(now)
        now += 0.5
    assert seen == [1, 3, 7, 15, 31, 61, 91]


def test_where_the_c_library_has_no_such_thing_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.ctypes, "CDLL", lambda name: object())
    processes.HeapTrimmer(0.0).tidy(processes.TIDY_SECONDS)
