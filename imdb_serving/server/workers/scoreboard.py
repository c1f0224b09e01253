"""The scoreboard: memory that all processes of a server share, in which each worker says what it is at. No I/O.

A worker has a row. The kernel writes into it which connection the worker was given (`ReadySet.wait`) and which passed
request it has read (`Handover.take`), in the same call that gives them. So a row tells what its worker is at, at every
moment, also when the worker is killed. Cells are 64-bit integers; each is written by one side alone.
"""

from __future__ import annotations

import mmap
import os
import platform
import sys

from imdb_serving.errors import CODES

CELLS = 64
ROW_BYTES = 8 * CELLS
MOST_TAKEN = 16
"""How many connections a worker is given at once, at most."""

# Cells of a row. Before these are the events, and PASSED, which the kernel writes.
PASSED, PHASE, AT, TURN, BEAT, DEADLINE, EXPIRED, GIVEN_WAY, REVOKED, GIVEN_BACK, KEPT, REQUEST, SIZE, BRIEF = range(
    32, 46
)
OUTCOMES = 48
"""The first of as many cells as there are codes: how many requests ended how."""

SHED = OUTCOMES + len(CODES)
"""How many requests the worker gave up because their time was too short."""

# A worker's phases. What the kernel gave it is TAKEN until it says more.
TAKEN, WORKING, ANSWERING, LEAVING = range(4)

# Cells of the first row, which is for all workers.
HAND_OVER, SHED_NS, ASLEEP, OBSERVE = range(4)

# Cells of a connection.
SENT, CONSUMED, GENERATION, SEEN = range(4)
CONNECTION_CELLS = 4

EVENT_INTS, EVENT_NUMBER = (3, 1) if platform.machine() in {"x86_64", "i386", "i686"} else (4, 2)
"""Of the kernel's `epoll_event`, in 32-bit words: its size, and where its number lies. It is packed on x86 alone."""


class Row:
    """One worker's row, as its worker and the supervisor see it."""

    def __init__(self, cells: memoryview) -> None:
        """Take the row's bytes."""
        self.cells = cells.cast("q")
        self.events = cells[: 4 * EVENT_INTS * MOST_TAKEN]  # where `epoll_wait` writes
        self.passed = cells[8 * PASSED : 8 * PASSED + 8]  # where `recvmsg` writes
        ints = self.events.cast("I")
        self.flags = ints[::EVENT_INTS]
        self.numbers = ints[EVENT_NUMBER::EVENT_INTS]
        """The descriptors that the worker was given, by their place; 0 for what it has finished."""

    @property
    def is_busy(self) -> bool:
        """Whether the worker is at anything."""
        return any(self.numbers.tolist())

    @property
    def may_hold_up(self) -> bool:
        """Whether others may wait for the worker, which is busy: it was given several, or takes all that is brief."""
        return bool(self.cells[BRIEF]) or sum(map(bool, self.numbers.tolist())) > 1

    @property
    def number(self) -> int:
        """The descriptor that the worker is at now."""
        return self.numbers[self.cells[AT]]

    def held(self) -> list[int]:
        """Return the descriptors that the worker has to itself, whose requests were not answered in its place."""
        cells, numbers = self.cells, self.numbers.tolist()
        at = numbers[cells[AT]]
        if cells[REVOKED] == cells[BEAT]:
            numbers = [at]
        if cells[EXPIRED] == cells[TURN]:
            numbers = [number for number in numbers if number != at]
        return numbers

    def is_at(self, number: int) -> bool:
        """Tell whether the worker has a descriptor to itself, and its request was not answered in its place."""
        return number in self.numbers.tolist() and number in self.held()

    @property
    def is_taking(self) -> bool:
        """Tell whether the worker has not begun yet with what it was given."""
        return self.cells[PHASE] == TAKEN

    def leave(self, count: int) -> None:
        """Say that the worker is at nothing of the so many that it was given."""
        numbers, cells = self.numbers, self.cells
        numbers[0] = 0
        for place in range(1, count):
            numbers[place] = 0
        cells[BEAT] += 1
        cells[AT] = 0
        cells[PHASE] = TAKEN
        cells[EXPIRED] = -1

    def clear(self) -> None:
        """Make the row ready for another worker; what was counted stays."""
        self.leave(MOST_TAKEN)
        self.cells[PASSED] = self.cells[DEADLINE] = self.cells[BRIEF] = 0
        self.cells[REVOKED] = -1


class Scoreboard:
    """The rows of `workers` workers, and a few cells for each descriptor below `descriptors`."""

    def __init__(self, workers: int, descriptors: int, file: int | None = None) -> None:
        """Make the memory, or map that of another process, given by its file's descriptor."""
        connections = ROW_BYTES * (1 + workers)
        size = connections + 8 * CONNECTION_CELLS * descriptors
        self.workers, self.descriptors = workers, descriptors
        self.file = _shared_file(size) if file is None else file
        self._memory = memoryview(mmap.mmap(self.file, size))
        self.common = self._memory[:ROW_BYTES].cast("q")
        self.rows = [Row(self._memory[ROW_BYTES * (1 + row) : ROW_BYTES * (2 + row)]) for row in range(workers)]
        self._memory_turns = self._memory[ROW_BYTES:connections].cast("q")[TURN::CELLS]
        self.connections = self._memory[connections:size].cast("q")

    def close(self) -> None:
        """Give back the file; what was counted can still be read."""
        if self.file >= 0:
            os.close(self.file)

    def outcomes(self) -> dict[str, int]:
        """Return how many requests the workers ended how: `answered`, or a failure's code."""
        names = ("answered", *CODES[1:])
        return {name: sum(row.cells[OUTCOMES + at] for row in self.rows) for at, name in enumerate(names)}

    def turns(self) -> int:
        """Return how many requests were taken, ever."""
        return sum(self._memory_turns.tolist())

    def shed(self) -> int:
        """Return how many requests the workers gave up because their time was too short."""
        return sum(row.cells[SHED] for row in self.rows)


def _shared_file(size: int) -> int:
    """Return the descriptor of a file in memory; -1, which maps memory of this process alone, where there is none."""
    if not sys.platform.startswith("linux"):
        return -1
    file = os.memfd_create("imdb-serving-scoreboard")
    os.ftruncate(file, size)
    return file
