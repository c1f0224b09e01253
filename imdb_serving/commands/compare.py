"""`imdb-serving compare A B`: two sweeps beside each other, cell by cell, against noise."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.report import paired, plots


def run_compare(first: Path, second: Path) -> int:
    """Print what B gained or lost against A, draw both into B's folder, and return the exit code.

    0 same or better, 1 worse, 2 not comparable.
    """
    made = paired.compare(first.resolve(), second.resolve())
    print(paired.text(made))
    if made.code != paired.NOT_COMPARABLE:
        name = f"compared-with-{first.resolve().name}"
        plots.save(paired.figure(made), second.resolve() / "figures", name)
        print(f"figure: {second.resolve() / 'figures' / name}.png", file=sys.stderr)
    return made.code
