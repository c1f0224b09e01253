"""Interleaved rounds: many targets that run at once, measured in turn in short blocks. Knows no server and no report.

A round is one shuffled pass over all blocks, so the drift of a shared machine affects all alike, and only ratios and
differences within a round mean anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from imdb_serving.cell import Cell, Row
from imdb_serving.load.closed_loop import Workload
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.measurement.measure import Round, Session, Target, measure

Context = Callable[[int, Cell], Round]
"""Returns what a cell's row has in common with others of its round; round 0 warms up."""


@dataclass(frozen=True, slots=True)
class Block:
    """A cell, the name of its target, and its clients' workloads where they are not the round's reviews."""

    cell: Cell
    target: str
    workloads: Sequence[Workload] | None = None


Plan = dict[int, list[tuple[int, Block]]]
"""By round, the blocks that are left to measure, each with its place in the round's order."""


def left_of(blocks: Sequence[Block], rounds: int, seed: str, context: Context, ledger: Ledger, first: int = 1) -> Plan:
    """Return the blocks, with their places, that each round has still to measure: all, unless a run was interrupted.

    Rounds are numbered from `first` on.
    """
    done: dict[str, set[tuple[str, int]]] = {}
    left: Plan = {}
    for number in range(first, first + rounds):
        for place, block in enumerate(shuffled(blocks, seed, number)):
            row = context(number, block.cell).row(block.cell)
            if row.run not in done:
                done[row.run] = set(ledger.done(row.run))
            if (row.key, number) not in done[row.run]:
                left.setdefault(number, []).append((place, block))
    return left


def measure_rounds(
    blocks: Sequence[Block],
    left: Plan,
    seed: str,
    context: Context,
    targets: Mapping[str, Target],
    session: Session,
    ledger: Ledger,
) -> Iterator[Row]:
    """Warm up with one round, then measure what is left round by round; yield each row once the ledger has it."""
    for block in shuffled(blocks, seed, 0):
        measure(block.cell, context(0, block.cell), session, block.target, targets[block.target], 0, block.workloads)
    for number, own in left.items():
        for place, block in own:
            target = targets[block.target]
            measured = measure(
                block.cell, context(number, block.cell), session, block.target, target, place, block.workloads
            )
            yield ledger.append(*measured)


def shuffled(blocks: Sequence[Block], seed: str, number: int) -> list[Block]:
    """Return the blocks in an order of this round's own."""
    order = list(blocks)
    random.Random(f"{seed}/{number}").shuffle(order)  # noqa: S311 - an order, not a secret
    return order
