"""What a search measures next: the first cells of every curve, then what may be the answer, and never what is none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from imdb_serving.analysis.search import Search, neighbours
from imdb_serving.analysis.selection import BY_THROUGHPUT, Selection
from imdb_serving.cell import Cell

CLIENTS = (1, 2, 4, 6, 8, 12)
CELLS = [Cell(server_threads=servers, client_threads=clients) for servers in (1, 2, 4) for clients in CLIENTS]
GRID = {cell.key: cell for cell in CELLS}
BARE = Cell(mode="bare", client_threads=4)


def rate(cell: Cell) -> float:
    return 1000.0 / (1 + 0.3 * abs(cell.server_threads - 2) + 0.05 * abs(cell.client_threads - 6))


def rows_of(found: list[tuple[str, int]], *more: Cell) -> pd.DataFrame:
    """Rows of these cells and rounds, and of cells that are not the search's in the first."""
    places = [(GRID[key], number) for key, number in found] + [(cell, 1) for cell in more]
    return pd.DataFrame([row(cell, number) for cell, number in places])


def row(cell: Cell, number: int) -> dict[str, Any]:
    off = 1 + 0.001 * ((5 * number + 3 * cell.server_threads + cell.client_threads) % 7 - 3)
    fixed = {name: getattr(cell, name) for name in Cell.__struct_fields__}
    given = rate(cell) if cell.mode != "bare" else 50_000.0
    return fixed | {
        "cell": cell, "key": cell.key, "round": number, "status": "ok", "why": "", "answers": "", "stages": (),
        "throughput": given * off, "p99_us": 1e6 * cell.client_threads / 1000 * off, "server_cpu_us": 100.0 * off,
    }  # fmt: skip


def searched(search: Search, *more: Cell) -> tuple[list[list[str]], bool]:
    """The cells of each round, and whether the answer is shown."""
    rounds: list[list[str]] = []
    while True:
        seen = [(key, number) for number, keys in enumerate(rounds, start=1) for key in keys]
        step = search.next(rows_of(seen, *(more if rounds else ())))
        if not step.keys:
            return rounds, step.shown
        rounds.append(step.keys)


def test_the_first_round_has_the_middle_and_the_most_clients_of_every_curve() -> None:
    rounds, shown = searched(Search(GRID, 3, len(GRID), 0.05, BY_THROUGHPUT, 2))
    first = sorted((GRID[key].server_threads, GRID[key].client_threads) for key in rounds[0])
    assert first == [(servers, clients) for servers in (1, 2, 4) for clients in (6, 12)]
    assert shown
    assert sum(map(len, rounds)) <= 0.36 * 3 * len(GRID)
    assert max(GRID, key=lambda key: rate(GRID[key])) in rounds[-1]


def test_cells_that_cannot_be_recommended_are_no_answer() -> None:
    """The bare model is faster than any server."""
    rounds, shown = searched(Search(GRID, 3, len(GRID) + 1, 0.05, BY_THROUGHPUT, 2), BARE)
    assert BARE.key not in {key for keys in rounds for key in keys}
    assert shown


def test_a_limit_that_few_clients_hold_is_searched_downwards() -> None:
    """A p99 of a millisecond a client: two clients hold 2.5 ms, four do not."""
    rounds, _ = searched(Search(GRID, 4, len(GRID), 0.05, Selection("p99", 2.5), 2))
    measured = {GRID[key].client_threads for keys in rounds for key in keys}
    assert {1, 2} <= measured
    assert (2, 2) in {(GRID[key].server_threads, GRID[key].client_threads) for key in rounds[-1]}


def test_the_least_cpu_time_is_searched_near_the_best_rate() -> None:
    rounds, shown = searched(Search(GRID, 3, len(GRID), 0.05, Selection("efficiency"), 2))
    assert shown
    (often, times), *_ = Counter(key for keys in rounds for key in keys).most_common()
    assert GRID[often].server_threads == 2
    assert times >= len(rounds) - 1
    assert rate(GRID[often]) >= 0.9 * max(map(rate, CELLS))


def test_neighbours_are_one_step_away_on_each_axis() -> None:
    middle = next(cell for cell in CELLS if (cell.server_threads, cell.client_threads) == (2, 4))
    found = {(GRID[key].server_threads, GRID[key].client_threads) for key in neighbours(GRID, middle.key)}
    assert found == {(2, 2), (2, 6), (1, 4), (4, 4)}
