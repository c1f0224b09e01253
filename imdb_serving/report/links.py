"""Where what a report was made of lies, as links beside the page. Knows the sweep's folder and no row."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

from imdb_serving.bench.record import samples
from imdb_serving.report.page import Markup

WHAT = {
    "ledger.jsonl": "the ledger: a line a cell and round",
    "cells.csv": "the same as a table",
    "verdict.txt": "the verdict",
    "plan.json": "which cells the sweep has",
}


def data_links(folder: Path) -> Markup:
    """Return links to the ledger, raw samples, figures and executed notebooks that are there."""
    files = [f"<li>{_link(name)}: {html.escape(what)}</li>" for name, what in WHAT.items() if (folder / name).is_file()]
    raw = len(list((folder / samples.FOLDER).glob("*.parquet")))
    if raw:
        link = f'<a href="{samples.FOLDER}/">{samples.FOLDER}/</a>'
        files.append(f"<li>{link}: {raw} files of raw samples, every request's times (Parquet)</li>")
    cards = _links(path for path in sorted((folder / "cards").glob("*.json")))
    if cards:
        files.append(f"<li>environment: {cards}</li>")
    if figures := _figures(folder / "figures"):
        files.append(f"<li><details><summary>figures for papers</summary><ul>{figures}</ul></details></li>")
    notebooks = _links(path for path in sorted((folder / "notebooks").glob("*.ipynb")) if path.stem != "report")
    more = f"<details><summary>executed notebooks</summary><p>{notebooks}</p></details>" if notebooks else ""
    return Markup(f"<div><ul>{''.join(files)}</ul>{more}</div>")


def _figures(folder: Path) -> str:
    """Return a line a figure, with a link to each of its files."""
    names = sorted({path.stem for path in folder.glob("*.*")})
    lines = []
    for name in names:
        files = [f"{folder.name}/{path.name}" for path in sorted(folder.glob(f"{name}.*"))]
        kinds = [f'<a href="{html.escape(file)}">{Path(file).suffix[1:].upper()}</a>' for file in files]
        lines.append(f"<li>{html.escape(name)}: {' '.join(kinds)}</li>")
    return "".join(lines)


def _links(paths: Iterable[Path]) -> str:
    return " ".join(_link(f"{path.parent.name}/{path.name}") for path in paths)


def _link(name: str) -> str:
    return f'<a href="{html.escape(name)}">{html.escape(Path(name).name)}</a>'
