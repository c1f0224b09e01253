"""The report as one HTML file without external resources: an executed notebook's outputs, styled, with links."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template

from imdb_serving.measurement import ledger
from imdb_serving.report.markup import Markup, inline_markup

HEADING = re.compile(r"<h2 id=\"([^\"]+)\">(.*?)<a ", re.DOTALL)

VERDICT = "verdict.txt"
FILES = {
    "ledger.jsonl": "the ledger: one line for each cell and round",
    "cells.csv": "the same as a table",
    "cells.parquet": "the same, with units",
    VERDICT: "the verdict",
    "verdict.json": "the same as numbers, for programs",
    "plan.json": "the cells of the sweep",
}


def interactive() -> Markup:
    """Return the style and script that charts need in a notebook; a report page has them already."""
    return Markup(
        f'<div class="page-parts"><style>{_part("charts.css")}</style><script>{_part("page.js")}</script></div>'
    )


def toggles() -> Markup:
    """Return the place for the script's buttons that hide modes and engines; it stays empty without a script."""
    return Markup('<div class="chart-toggles"></div>')


def folded(summary: str, shown: Any) -> Markup:
    """Return a table or text behind a line to click; for an empty table return that line alone."""
    if not len(getattr(shown, "data", summary)):
        return Markup(f"<p>{escape(summary)}.</p>")
    body = shown._repr_html_() if hasattr(shown, "_repr_html_") else f"<p>{escape(str(shown))}</p>"
    return Markup(_template().folded(summary, body))


def joined(parts: Iterable[Markup]) -> Markup:
    """Return several parts as one."""
    return Markup("\n".join(part.markup for part in parts))


def text(*paragraphs: str) -> Markup:
    """Return paragraphs of text, in which what stands between backticks is code."""
    return Markup("".join(f"<p>{inline_markup(words)}</p>" for words in paragraphs if words))


def write_page(executed: Path, page: Path, title: str) -> None:
    """Write an executed notebook as one self-contained HTML file, without its code cells."""
    import nbformat  # noqa: PLC0415 - it takes long, which every kernel would pay

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notebook: Any = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    body = "\n".join(part for cell in notebook.cells for part in _cell(cell))
    template = _template()
    body = body.replace("<h2", f"{template.contents(HEADING.findall(body))}\n<h2", 1)
    styles = _part("charts.css") + _part("page.css")
    page.write_text(template.document(title, styles, _part("page.js"), body), encoding="utf-8")


def data_links(folder: Path) -> Markup:
    """Return links to the ledger, raw samples, figures and executed notebooks that a sweep's folder has."""
    figures = sorted({path.stem for path in (folder / "figures").glob("*.*")})
    return Markup(
        _template().data(
            [(name, what) for name, what in FILES.items() if (folder / name).is_file()],
            ledger.FOLDER,
            len(_below(folder, f"{ledger.FOLDER}/*.parquet")),
            _below(folder, "cards/*.json"),
            [(name, _below(folder, f"figures/{name}.*")) for name in figures],
            [file for file in _below(folder, "notebooks/*.ipynb") if Path(file).stem != "report"],
        )
    )


def _below(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))]


@functools.lru_cache(maxsize=1)
def _template() -> Any:
    """Return the macros of page.html."""
    template: Template = Environment(autoescape=True).from_string(_part("page.html"))
    return template.module


def _part(name: str) -> str:
    return resources.files("imdb_serving.report").joinpath(name).read_text(encoding="utf-8")


def _cell(cell: Any) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield _markdown(cell.source)
    for output in cell.get("outputs", []):
        if output.output_type in {"display_data", "execute_result"}:
            yield _shown(output.data)
        elif output.output_type == "stream":
            yield f"<pre>{escape(output.text)}</pre>"


def _shown(data: Mapping[str, Any]) -> str:
    """Return the richest form that an output offers."""
    if markup := data.get("text/html"):
        if "page-parts" in markup:
            return ""
        plain = markup.lstrip().startswith(("<div", "<details", "<p"))
        return str(markup) if plain else f'<div class="wide">{markup}</div>'
    if words := data.get("text/markdown"):
        return _markdown(words)
    if image := data.get("image/png"):
        return f'<img alt="" src="data:image/png;base64,{image}">'
    return f"<pre>{escape(str(data.get('text/plain', '')))}</pre>"


def _markdown(words: str) -> str:
    from nbconvert.filters import markdown2html  # noqa: PLC0415 - seconds, which every kernel would pay

    return str(markdown2html(words))
