"""Advice beside the exhaustive grid, for six of the servers in examples/servers on their real engine. Slow.

What is advised is within 5 % of the grid's best, or advice says that this could not be shown; and it measures about a
third of the grid. A shortfall that the grid itself does not tell from 5 % is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from imdb_serving.analysis.cells import cells
from imdb_serving.analysis.noise import noise_of
from imdb_serving.cell import AA_REPEAT, FOREIGN, GRID, Cell
from imdb_serving.cli import main
from imdb_serving.experiment.sweep import run_rounds
from imdb_serving.measurement.ledger import Ledger, newest
from imdb_serving.measurement.parameters import load_sweep
from imdb_serving.report import frames
from imdb_serving.report.answer import FILE, Answer, Place

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
PARTS = {
    part.server_label: part
    for part, axes in load_sweep(ROOT / "params" / "servers.yaml").every_grid()
    if axes.mode == FOREIGN
}
SERVERS = [
    "Flask on gunicorn sync", "Flask on gunicorn gthread", "Flask on granian", "Flask on waitress",
    "FastAPI on uvicorn", "mosec",
]  # fmt: skip
BODY = '{"words": [{% for _ in words[:60] %}{{ loop.index }}{{ "," if not loop.last }}{% endfor %}]}'
"""Of reviews' lengths up to 60, for a model of few words."""

ZONE, MOST_OF_GRID = 0.05, 0.35


def options_of(part: Any, bundle: Path) -> list[str]:
    """Return what one says to `advise` of a server that a sweep's file describes."""
    given = {
        "--command": part.server_command, "--directory": str(ROOT / part.server_directory), "--name": part.server_name,
        "--ready": part.server_ready, "--path": part.request_path, "--body": BODY * bool(part.request_body),
        "--answer": part.answer, "--protocol": part.protocol, "--model": part.server_model,
    }  # fmt: skip
    environment = part.server_environment | {"MODEL": str(bundle)}
    pairs = [("--environment", f"{name}={value}") for name, value in environment.items()]
    return [word for pair in [*((name, value) for name, value in given.items() if value), *pairs] for word in pair]


def at(cell: Cell, place: Place) -> bool:
    names = ("server_threads", "math_threads", "client_threads")
    return all(getattr(cell, name) == getattr(place, name) for name in names)


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_advised_is_near_the_best_of_the_whole_grid(
    name: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    file, outputs = tmp_path / "own.yaml", tmp_path / "out"
    words = [*options_of(PARTS[name], bundle), "--minutes", "1", "--file", str(file), "--outputs", str(outputs)]
    done = CliRunner().invoke(main, ["advise", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    advised = msgspec.json.decode((outputs / "own" / FILE).read_bytes(), type=Answer)
    params = load_sweep(file)
    rows = [row for row in newest(Ledger(outputs / "own").rows()) if row.cell.series in (GRID, AA_REPEAT)]

    whole = msgspec.structs.replace(params, search=False, extra_rounds=0)
    folder = run_rounds(whole, "whole", str(outputs), lambda _line: None)
    full = frames.load(folder)
    count = len(full[full["series"].isin([GRID, AA_REPEAT])])
    assert len(rows) <= MOST_OF_GRID * count

    grid = full[full["series"] == GRID]
    noise, table = noise_of(grid), cells(grid)
    table = table[table["valid"].astype(bool)]
    assert len(table), "no cell of the grid can be believed"
    best = table.loc[table["throughput"].idxmax()]
    counts = best["cell"].label(["server_threads", "math_threads", "client_threads"])
    with capsys.disabled():
        print(f"\n{name}: {len(rows)} of {count} cell rounds, {done.stdout.splitlines()[0]}")
        print(f"  the grid's best: {counts}, {best['throughput']:,.0f}; advice is shown: {advised.shown}")
    if advised.recommended is None:
        return  # it says so
    mine = table[[at(cell, advised.recommended) for cell in table["cell"]]]
    assert len(mine) == 1, "the grid's gates say that the advised cell cannot be believed"
    places = [noise.place(best["key"]), noise.place(mine.iloc[0]["key"])]
    ratio = noise.ratio(*places) if places[0] != places[1] else None
    with capsys.disabled():
        between = f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})" if ratio else "1, it is that"
        print(f"  of the grid's best the advised cell gives {between}")
    assert not advised.shown or ratio is None or ratio.high >= 1 - ZONE, "said to be shown"
