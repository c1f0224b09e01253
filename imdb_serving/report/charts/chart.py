"""A chart: a small figure as a still image, which a page's script makes answer a pointer. Knows no cell.

The image is an SVG in a data URI: it stands where no script runs (an untrusted notebook, a reader without JavaScript),
and holds all that the script needs.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imdb_serving.report.charts.key import Key
from imdb_serving.report.plots import STYLE, own_style, save
from imdb_serving.report.prose import prose
from imdb_serving.report.svg import FAINT, INK, OWN_STYLE, PAPER, Tip, svg_of

SIZE = 5.2, 3.5
KEY_COLUMNS, LINE_INCHES = 3, 0.22
BROAD = 6.0
PAGE: Any = {
    **STYLE,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "figure.facecolor": PAPER,
    "font.size": 10,
    "grid.color": FAINT,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Chart(NamedTuple):
    """One chart: its figure, and the same as markup."""

    title: str
    svg: str
    figure: Figure

    @property
    def markup(self) -> str:
        """The chart as HTML: its title and its image."""
        source = f"data:image/svg+xml,{quote(self.svg, safe=SAFE)}"
        label = html.escape(self.title)
        kind = "chart broad" if self.figure.get_figwidth() > BROAD else "chart"  # it takes the place of two
        return f'<figure class="{kind}"><figcaption>{label}</figcaption><img alt="{label}" src="{source}"></figure>'


SAFE = " !$()*+,-./:;=@_~?&|[]{}^"
"""What need not be escaped in a data URI within double quotes; escaped it would be three times as long."""


class Charts(NamedTuple):
    """Charts side by side, as many as the page is wide for, with the key that explains them."""

    charts: Sequence[Chart]
    key: Key = Key()
    note: str = ""

    def save(self, folder: Path, name: str = "") -> Charts:
        """Write each chart's figure for papers, with its title and key, and return the charts for showing.

        A file is called by the chart's title, behind `name`.
        """
        for chart in self.charts:
            with own_style(PAGE):
                if not chart.figure.get_suptitle():  # else it was saved before
                    self._complete(chart)
                save(chart.figure, folder, re.sub(r"[^a-z0-9]+", "-", f"{name} {chart.title}".lower()).strip("-"))
        return self

    def _complete(self, chart: Chart) -> None:
        """Give a chart's figure its title and key, and the room for them: the axes keep theirs."""
        artists = self.key.artists
        lines = 1.5 + math.ceil(len(artists) / KEY_COLUMNS)
        chart.figure.set_figheight(chart.figure.get_figheight() + lines * LINE_INCHES)
        chart.figure.suptitle(chart.title, fontsize=11)
        if artists:
            chart.figure.legend(
                handles=artists, loc="outside lower center", ncols=KEY_COLUMNS, fontsize=9, frameon=False
            )

    def _repr_html_(self) -> str:
        if not self.charts:
            return f'<p class="chart-none">{prose(self.note)}</p>'
        note = f'<p class="chart-note">{prose(self.note)}</p>' if self.note else ""
        drawn = "".join(chart.markup for chart in self.charts)
        return f'<div class="charts">{drawn}</div>{self.key.markup}{note}'


class Sheet:
    """A figure that is being drawn, and what its artists will say."""

    def __init__(self, figure: Figure) -> None:
        """Take an empty figure."""
        self.figure = figure
        self.axes: Axes = figure.add_subplot()
        self._tips: dict[str, Tip] = {}

    def tell(self, artist: Any, words: Sequence[str], data: Mapping[str, str] | None = None) -> None:
        """Have an artist say these words on hover, one for all of it or one a marker, and carry `data-` attributes."""
        name = f"tip-{len(self._tips)}"
        artist.set_gid(name)
        self._tips[name] = Tip(tuple(words), data or {})

    def chart(self, title: str) -> Chart:
        """Return what was drawn."""
        return Chart(title, svg_of(self.figure, self._tips, title, style=OWN_STYLE), self.figure)


@contextmanager
def sheet(size: tuple[float, float] = SIZE) -> Iterator[Sheet]:
    """Give an empty figure in the page's style for the block."""
    with own_style(PAGE):
        yield Sheet(Figure(figsize=size, layout="constrained"))
