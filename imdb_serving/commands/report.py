"""`imdb-serving report`: a sweep's folder becomes figures, tables, the verdict and one page."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.bench.record.ledger import FILE
from imdb_serving.errors import DataError
from imdb_serving.report.notebooks import execute
from imdb_serving.report.page import write_page
from imdb_serving.report.verdict import FILE as VERDICT


def write_report(folder: Path) -> None:
    """Execute the report notebook on a sweep's folder, and write its figures, `cells.csv` and `report.html`."""
    folder = folder.resolve()
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; run `imdb-serving sweep` first")
    print("drawing the report", file=sys.stderr)
    executed = folder / "notebooks" / "report.ipynb"
    execute("report.ipynb", executed, {"folder": str(folder)})
    write_page(executed, folder / "report.html", f"imdb-serving: {folder.name}")
    print((folder / VERDICT).read_text(encoding="utf-8"), end="")
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
