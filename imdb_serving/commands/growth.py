"""Measure how the cost of serving grows, and print and draw what came out."""

from __future__ import annotations

import json
import sys

import msgspec

from imdb_serving.bench.environment import environment_card
from imdb_serving.bench.folders import new_run
from imdb_serving.bench.parameters import GrowthParams
from imdb_serving.commands.bench import needs_extra
from imdb_serving.config import project_root

FOLDER = "growth"


def run_growth(params: GrowthParams) -> None:
    """Measure, write rows, raw samples, card, tables and figure to outputs/growth, and print the tables."""
    with needs_extra():
        from imdb_serving.bench.growth import measure_growth
        from imdb_serving.report import growth as shown
    from imdb_serving.report import plots

    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = project_root() / "outputs" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    card = {**environment_card(None), **msgspec.to_builtins(params)}
    (folder / "environment.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"{params.rounds} rounds, to {folder}", file=sys.stderr)
    measure_growth(params, folder, lambda words: print(words, file=sys.stderr))
    rows = shown.load(folder)
    plots.save(shown.growth_figure(rows), folder, "growth")
    words = shown.text(rows)
    (folder / "growth.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    print(f"figure: {folder / 'growth.png'}", file=sys.stderr)
