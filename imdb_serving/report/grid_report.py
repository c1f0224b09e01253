"""What the grid notebook shows of one run: each function returns a table, a figure, or a line in their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from imdb_serving.report import frames, page, style, tables
from imdb_serving.report import open_loop as loops
from imdb_serving.rows import Row, frame


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as the table that the other functions take."""
    return frames.named(frame(rows))


def failures(rows: pd.DataFrame) -> Any:
    """Return the cells that failed, or whose numbers cannot be believed, with the reasons; a line when none did."""
    found = tables.failures(rows)
    return found if len(found) else page.text(f"{tables.failures_in_words(rows)}.")


def published(rows: pd.DataFrame) -> Any:
    """Return the published columns of the cells that were measured."""
    return tables.show_published(rows)


def figure(rows: pd.DataFrame, folder: Path) -> Any:
    """Return time per client and stages against client threads; None when no cell succeeded."""
    return style.shown_once(style.grid_figure(rows, folder)) if tables.any_measured(rows) else None


def open_loop(rows: pd.DataFrame) -> Any:
    """Return latency at each offered rate; a line for a closed loop."""
    return loops.show(rows) if loops.any_measured(rows) else page.text("Not an open loop: set `arrivals` and `rates`.")


def open_loop_figure(rows: pd.DataFrame, folder: Path) -> Any:
    """Return latency against the offered rate; None for a closed loop."""
    return style.shown_once(loops.figure(rows, folder)) if loops.any_measured(rows) else None
