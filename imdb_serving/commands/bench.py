"""Measure our servers beside others, and print and draw what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from imdb_serving.bench.environment import environment_card
from imdb_serving.bench.folders import new_run
from imdb_serving.bench.models import require_model
from imdb_serving.bench.parameters import CompareParams, model_folder
from imdb_serving.config import project_root
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import ConfigError

FOLDER = "bench"


@contextmanager
def needs_extra() -> Iterator[None]:
    """Say how to get what is not there, when an import fails in the block."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing; run `make bench`, or: pip install 'imdb-serving[bench]'"
        ) from error


def run_bench(params: CompareParams) -> None:
    """Compare, write rows, raw samples, card and figure to outputs/bench/ENGINE, and print the tables."""
    with needs_extra():
        from imdb_serving.bench.compare import compare
        from imdb_serving.report import compare as shown
    from imdb_serving.report import plots

    needs_model = facts_of(params.engine).needs_model
    if needs_model:
        require_model(params)
    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = project_root() / "outputs" / FOLDER / params.engine
    folder.mkdir(parents=True, exist_ok=True)
    card = {**environment_card(model_folder(params) if needs_model else None), **msgspec.to_builtins(params)}
    (folder / "environment.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"{params.rounds} rounds, to {folder}", file=sys.stderr)
    compare(params, folder, lambda words: print(words, file=sys.stderr))
    rows = shown.load(folder)
    plots.save(shown.compare_figure(rows), folder, "bench")
    words = shown.text(rows)
    (folder / "bench.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    print(f"figure: {folder / 'bench.png'}", file=sys.stderr)
