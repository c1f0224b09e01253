"""Whole sweeps made up, with their ledgers and cards: what each cell gives is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from ledger_rows import row

from imdb_serving.cell import Row
from imdb_serving.measurement.ledger import FILE, append_line

CARD = {"cpu": "One", "cores_allowed": 2, "python": "3.11", "packages": {"numpy": "2.0"}, "engines": {}}
SPREAD = 0.02


def sweep(
    seed: int, factor: float = 1.0, *, rounds: int = 5, spread: float = SPREAD, clients: tuple[int, ...] = (1, 2, 4)
) -> list[Row]:
    """A sweep of six cells and their A/A pair, each measurement off by chance; `factor` times as fast."""
    generator = np.random.default_rng(seed)

    def one(servers: int, count: int, number: int, series: str) -> Row:
        made = row(servers, count, number, series=series)
        rate = 1000.0 * servers * count * factor * float(np.exp(generator.normal(0, spread)))
        return msgspec.structs.replace(made, figures=msgspec.structs.replace(made.figures, throughput=rate))

    return [
        *(one(s, c, n, "grid") for n in range(1, rounds + 1) for s in (1, 2) for c in clients),
        *(one(1, c, n, "twin") for n in range(1, rounds + 1) for c in clients),
    ]


def write(folder: Path, rows: list[Row], **card: Any) -> Path:
    (folder / "cards").mkdir(parents=True)
    (folder / "cards" / "card.json").write_text(json.dumps(CARD | card), encoding="utf-8")
    for one in rows:
        append_line(folder / FILE, msgspec.json.encode(one))
    return folder
