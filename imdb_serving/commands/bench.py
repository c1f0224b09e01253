"""Measure our servers beside others, and print and draw what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from imdb_serving.bench.environment import environment_card
from imdb_serving.bench.folders import new_run
from imdb_serving.bench.models import require_model
from imdb_serving.bench.parameters import CompareParams, GrowthParams, model_folder
from imdb_serving.config import project_root
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = TypeVar("P", CompareParams, GrowthParams)


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

    needs_model = facts_of(params.engine).needs_model
    if needs_model:
        require_model(params)

    def show(folder: Path) -> tuple[Figure, str]:
        rows = shown.load(folder)
        return shown.compare_figure(rows), shown.text(rows)

    model = model_folder(params) if needs_model else None
    measure_and_show("bench", f"bench/{params.engine}", model, params, compare, show)


def measure_and_show(
    name: str,
    where: str,
    model: Path | None,
    params: P,
    measure: Callable[[P, Path, Callable[[str], None]], object],
    show: Callable[[Path], tuple[Figure, str]],
) -> None:
    """Measure into a folder below outputs, with the machine's card; save figure and tables there, and print these."""
    from imdb_serving.report import plots

    params = msgspec.structs.replace(params, run=params.run or new_run())
    folder = project_root() / "outputs" / where
    folder.mkdir(parents=True, exist_ok=True)
    card = {**environment_card(model), **msgspec.to_builtins(params)}
    (folder / "environment.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"{params.rounds} rounds, to {folder}", file=sys.stderr)
    measure(params, folder, lambda words: print(words, file=sys.stderr))
    figure, words = show(folder)
    plots.save(figure, folder, name)
    (folder / f"{name}.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    print(f"figure: {folder / name}.png", file=sys.stderr)
