"""The report as a page: an executed notebook's outputs in one file that loads nothing. Owns markup, style, script."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

HEADING = re.compile(r"<h2 id=\"([^\"]+)\">(.*?)<a ", re.DOTALL)


class Markup:
    """HTML that a notebook shows, and that a page takes over as it is."""

    def __init__(self, markup: str) -> None:
        """Take HTML that is escaped where it must be."""
        self.markup = markup

    def _repr_html_(self) -> str:
        return self.markup


def interactive() -> Markup:
    """Return what a notebook needs for its charts; a report page has it already."""
    return Markup(
        f'<div class="page-parts"><style>{_part("charts.css")}</style><script>{_part("page.js")}</script></div>'
    )


def toggles() -> Markup:
    """Return the place in which the script puts what hides modes and engines; without a script it stays empty."""
    return Markup('<div class="chart-toggles"></div>')


def folded(summary: str, shown: Any) -> Markup:
    """Return a table, or words, behind a line to click; of an empty table the line alone."""
    if not len(getattr(shown, "data", summary)):
        return Markup(f"<p>{html.escape(summary)}.</p>")
    body = shown._repr_html_() if hasattr(shown, "_repr_html_") else f"<p>{html.escape(str(shown))}</p>"
    return Markup(f'<details><summary>{html.escape(summary)}</summary><div class="wide">{body}</div></details>')


def write_page(executed: Path, page: Path, title: str) -> None:
    """Write an executed notebook as one self-contained HTML file, without its code cells."""
    import nbformat  # noqa: PLC0415 - it takes long, which every kernel would pay

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notebook: Any = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    body = "\n".join(part for cell in notebook.cells for part in _cell(cell))
    contents = "".join(f'<a href="#{name}">{words}</a>' for name, words in HEADING.findall(body))
    body = body.replace("<h2", f'<nav aria-label="Contents">{contents}</nav>\n<h2', 1)
    page.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{_part('charts.css')}{_part('page.css')}</style></head>\n"
        f"<body><main>{body}</main>\n"
        f"<script>{_part('page.js')}</script></body></html>\n",
        encoding="utf-8",
    )


def _part(name: str) -> str:
    return resources.files("imdb_serving.report").joinpath(name).read_text(encoding="utf-8")


def _cell(cell: Any) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield _markdown(cell.source)
    for output in cell.get("outputs", []):
        if output.output_type in {"display_data", "execute_result"}:
            yield _shown(output.data)
        elif output.output_type == "stream":
            yield f"<pre>{html.escape(output.text)}</pre>"


def _shown(data: Mapping[str, Any]) -> str:
    """Return the richest of what an output offers."""
    if markup := data.get("text/html"):
        if "page-parts" in markup:
            return ""
        return (
            str(markup)
            if markup.lstrip().startswith(("<div", "<details", "<p"))
            else f'<div class="wide">{markup}</div>'
        )
    if words := data.get("text/markdown"):
        return _markdown(words)
    if image := data.get("image/png"):
        return f'<img alt="" src="data:image/png;base64,{image}">'
    return f"<pre>{html.escape(str(data.get('text/plain', '')))}</pre>"


def _markdown(words: str) -> str:
    from nbconvert.filters import markdown2html  # noqa: PLC0415 - seconds, which every kernel would pay

    return str(markdown2html(words))
