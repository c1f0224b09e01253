"""Measure how the cost of serving grows, and print and draw what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imdb_serving.bench.parameters import GrowthParams
from imdb_serving.commands.bench import measure_and_show, needs_extra, note_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_growth(params: GrowthParams) -> None:
    """Measure, write rows, raw samples, card, tables and figure to outputs/growth, and print the tables."""
    with needs_extra():
        from imdb_serving.bench.runs.growth import measure_growth
        from imdb_serving.report import growth as shown

    def show(folder: Path) -> tuple[Figure, str]:
        rows = shown.load(folder)
        return shown.growth_figure(rows, note_of(folder)), shown.text(rows)

    measure_and_show("growth", "growth", None, params, measure_growth, show)
