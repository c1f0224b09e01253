"""Measure our servers beside others, and print and draw what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from imdb_serving.bench.parameters import GrowthParams, OthersParams, model_folder
from imdb_serving.bench.record.environment import environment_card
from imdb_serving.bench.record.folders import new_run
from imdb_serving.bench.runs.models import require_model
from imdb_serving.config import check_output, project_root
from imdb_serving.engines.registry import facts_of
from imdb_serving.errors import ConfigError
from imdb_serving.model.bundle import open_bundle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = TypeVar("P", OthersParams, GrowthParams)


@contextmanager
def needs_extra() -> Iterator[None]:
    """Say how to get what is not there, when an import fails in the block."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing; run `make bench`, or: pip install 'imdb-serving[bench]'"
        ) from error


def run_bench(params: OthersParams) -> None:
    """Compare, write rows, raw samples, card and figure to outputs/bench/ENGINE, and print the tables."""
    with needs_extra():
        from imdb_serving.bench.runs.others import measure_others
        from imdb_serving.report import others as shown

    needs_model = facts_of(params.engine).needs_model
    if needs_model:
        require_model(params)

    def show(folder: Path) -> tuple[Figure, str]:
        rows = shown.load(folder)
        return shown.others_figure(rows, note_of(folder)), shown.text(rows)

    model = model_folder(params) if needs_model else None
    measure_and_show("bench", f"bench/{params.engine}", model, params, measure_others, show)


def note_of(folder: Path) -> str:
    """Return what a figure says of the machine that measured."""
    from imdb_serving.report.frames import sharing

    card = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return sharing([card["cores_allowed"]])


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
    folder = check_output(project_root() / "outputs" / where)
    folder.mkdir(parents=True, exist_ok=True)
    card = {**environment_card(open_bundle(model) if model else None), **msgspec.to_builtins(params)}
    (folder / "environment.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"{params.rounds} rounds, to {folder}", file=sys.stderr)
    measure(params, folder, lambda words: print(words, file=sys.stderr))
    figure, words = show(folder)
    plots.save(figure, folder, name)
    (folder / f"{name}.txt").write_text(words + "\n", encoding="utf-8")
    print(words)
    print(f"figure: {folder / name}.png", file=sys.stderr)
