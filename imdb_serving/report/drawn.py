"""What a report has drawn before: charts as HTML in the sweep's folder, each with what it was drawn from.

A chart whose data and code have not changed is not drawn again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

import imdb_serving
from imdb_serving.config import whole_file
from imdb_serving.measurement.ledger import FOLDER as SAMPLES
from imdb_serving.report import frames
from imdb_serving.report.chart import Charts
from imdb_serving.report.markup import Markup
from imdb_serving.report.style import FORMATS

FOLDER = ".drawn"
PACKAGE = Path(imdb_serving.__file__).parent
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")


class Drawings:
    """The charts of one sweep's report.

    With `figures` each is written as PNG, SVG and PDF too. Figures that are there already are kept up to date.
    """

    def __init__(self, folder: Path, *, figures: bool) -> None:
        """Take the sweep's folder, whose ledger must have a row."""
        self._folder, self._wanted = folder, figures
        self._figures = folder / "figures"
        self._data = _digest(
            msgspec.json.encode(frames.rows_of(folder)),
            *(path.name.encode() for place in (SAMPLES, "cards") for path in sorted((folder / place).glob("*"))),
            *(f"{name} {version(name)}".encode() for name in LIBRARIES),
            sys.version.encode(),
        )

    def of(self, name: str, make: Callable[[], Charts], heading: str, *depends: object) -> Markup:
        """Return charts as HTML: as they were drawn before, or as `make` draws them.

        `heading` is that of the figure, by default the charts' note; `depends` is what else the charts depend on,
        besides rows, cards and code.
        """
        files = [self._figures / f"{name}.{suffix}" for suffix in FORMATS]
        with_files = self._wanted or any(file.exists() for file in files)
        page = self._folder / FOLDER / f"{name}.html"
        drawn_from = f"<!-- {_digest(self._data, _code(make), heading.encode(), repr(depends).encode()).hex()} -->"
        first, _, markup = page.read_text(encoding="utf-8").partition("\n") if page.is_file() else ("", "", "")
        if first == drawn_from and (not with_files or all(file.exists() for file in files)):
            return Markup(markup)
        charts = make()
        if with_files:
            charts.save(self._figures, name, heading or charts.note)
        markup = charts._repr_html_()
        with whole_file(page) as unfinished:
            unfinished.write_text(f"{drawn_from}\n{markup}", encoding="utf-8")
        return Markup(markup)


def _digest(*parts: bytes) -> bytes:
    sums = hashlib.sha256()
    for part in parts:
        sums.update(len(part).to_bytes(8, "big") + part)
    return sums.digest()


def _code(make: Callable[..., object]) -> bytes:
    """Return a digest of the code that draws: the module of the function in `make`, and all that it imports of ours."""
    found: set[Path] = set()
    waiting = set(_files(getattr(make, "func", make).__module__))
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= _imported(file) - found
    return _digest(*(file.read_bytes() for file in sorted(found)))


@functools.cache
def _imported(file: Path) -> frozenset[Path]:
    """Return the files of this package that a file imports itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(path for name in names for path in _files(name))


def _files(name: str) -> list[Path]:
    """Return the file of a module, none for a module of others or a name within a module."""
    package, *parts = name.split(".")
    if package != PACKAGE.name:
        return []
    place = PACKAGE.joinpath(*parts)
    return [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
